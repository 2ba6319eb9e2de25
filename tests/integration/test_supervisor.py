"""The parent and its workers: reloads that succeed or fail, deaths, and stops at a bad moment."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kernel.identity.pem import generate_pair
from kernel.server.embedded_store import EmbeddedStore
from tests.support.gateway import GatewayProcess, free_port, start_gateway, workers
from tests.support.poll import poll
from tests.support.raw import ask, request
from tests.support.recorder import Recorder
from tests.support.stack import Stack, lone_env, stack_env
from tests.support.tokens import access_token, public_pem

pytestmark = pytest.mark.slow

# A worker that does not come to serve, while there is such a file: a library that cannot be loaded, no memory left.
BROKEN = """
import os, kernel.server.worker
start = kernel.server.worker.Worker._start
async def fail(worker):
    if os.path.exists(os.environ["BREAK"]):
        raise RuntimeError("made to fail")
    await start(worker)
kernel.server.worker.Worker._start = fail
"""


@contextmanager
def asking(stack: Stack, threads: int = 3) -> Iterator[list[int | str]]:
    """Ask on and on, a new connection each time; the statuses, or what went wrong."""
    statuses: list[int | str] = []
    over = threading.Event()

    def go_on() -> None:
        while not over.is_set():
            try:
                statuses.append(stack.ask().status)
            except (OSError, ValueError, IndexError) as error:
                statuses.append(repr(error))

    running = [threading.Thread(target=go_on) for _ in range(threads)]
    for each in running:
        each.start()
    try:
        yield statuses
    finally:
        over.set()
        for each in running:
            each.join()


@contextmanager
def running(env: dict[str, str], directory: Path, first: str = "") -> Iterator[GatewayProcess]:
    gateway = start_gateway(env, directory, first=first)
    try:
        yield gateway
    finally:
        if gateway.process.poll() is None:
            gateway.stop()


def threads_of(pid: int) -> set[str]:
    """The states of a process's threads, as in ps."""
    return {
        (each / "stat").read_text().rpartition(") ")[2][0] for each in Path(f"/proc/{pid}/task").iterdir()
    }


def reload(gateway: GatewayProcess) -> None:
    gateway.process.send_signal(signal.SIGHUP)


def test_a_reload_takes_the_configuration_as_it_is_now_and_loses_no_request(
    tmp_path: Path, upstream: Recorder, session_store: EmbeddedStore
) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text("")
    env = stack_env(upstream, session_store, WORKERS="2", GATEWAY_CONFIG=str(file))
    new = request(target=b"/api/v1/loyalty/points", headers=[(b"authorization", b"Bearer " + access_token())])
    with running(env, tmp_path) as gateway, asking(Stack(gateway, upstream)) as statuses:
        assert ask(gateway.port, new).status == 404
        before = workers(gateway)
        file.write_text(f'[services.loyalty]\nurl = "{upstream.url}"\n')
        reload(gateway)
        poll(lambda: set(now := workers(gateway)).isdisjoint(before) and len(now) == 2, seconds=20)
        assert ask(gateway.port, new).status == 200
        before = workers(gateway)
        file.write_text("[services.loyalty]\nurl = 7\n")
        reload(gateway)
        poll(lambda: "SIGHUP: the workers go on with the configuration they have" in gateway.log())
        assert "services.loyalty" in gateway.log()
        assert workers(gateway) == before
        assert ask(gateway.port, new).status == 200
    assert set(statuses) == {200}


def test_old_workers_send_their_connections_away_before_they_go(
    tmp_path: Path, upstream: Recorder, session_store: EmbeddedStore
) -> None:
    question = request(target=b"/health/live", headers=[(b"connection", b"keep-alive")])
    with (
        running(stack_env(upstream, session_store), tmp_path) as gateway,
        socket.create_connection(("127.0.0.1", gateway.port), 5) as kept,
    ):
        kept.sendall(question)
        assert b"connection: close" not in kept.recv(65536).lower()
        reload(gateway)
        for _ in range(500):
            kept.sendall(question)
            answer = kept.recv(65536)
            assert b" 200 " in answer.partition(b"\r\n")[0]
            if b"connection: close" in answer.lower():
                break
            time.sleep(0.01)
        assert b"connection: close" in answer.lower()
        assert kept.recv(1) == b""


def test_a_key_file_half_written_at_a_reload_changes_nothing_nor_does_a_worker_that_dies_then(
    tmp_path: Path, upstream: Recorder, session_store: EmbeddedStore
) -> None:
    key = tmp_path / "key.pem"
    key.write_text(public_pem())
    with running(stack_env(upstream, session_store, JWT_PUBLIC_KEY=f"first={key}"), tmp_path) as gateway:
        stack = Stack(gateway, upstream)
        before = workers(gateway)
        key.write_text("-----BEGIN PUBLIC KEY-----\n")
        reload(gateway)
        poll(lambda: "the workers go on with the configuration they have" in gateway.log())
        assert workers(gateway) == before
        os.kill(before[0], signal.SIGKILL)
        poll(lambda: workers(gateway) not in ([], before))
        assert stack.ask().status == 200
        key.write_text(generate_pair()[1])
        reload(gateway)
        poll(lambda: stack.ask().status == 401, seconds=20)


def test_when_the_new_workers_do_not_come_to_serve_the_old_ones_go_on(
    tmp_path: Path, upstream: Recorder, session_store: EmbeddedStore
) -> None:
    trouble = tmp_path / "trouble"
    env = stack_env(upstream, session_store, WORKERS="2", BREAK=str(trouble))
    with running(env, tmp_path, first=BROKEN) as gateway, asking(Stack(gateway, upstream)) as statuses:
        before = workers(gateway)
        trouble.touch()
        reload(gateway)
        poll(lambda: "does not start with it: the old ones go on" in gateway.log(), seconds=20)
        assert workers(gateway) == before
        trouble.unlink()
        reload(gateway)
        poll(lambda: set(workers(gateway)).isdisjoint(before) and len(workers(gateway)) == 2, seconds=20)
    assert set(statuses) == {200}
    assert gateway.process.returncode == 0


def test_whoever_waits_for_a_worker_that_dies_is_served_by_the_next(
    tmp_path: Path, upstream: Recorder, session_store: EmbeddedStore
) -> None:
    with running(stack_env(upstream, session_store), tmp_path) as gateway:
        for _ in range(4):
            (victim,) = poll(lambda: workers(gateway))
            poll(lambda: ask(gateway.port, request(target=b"/health/live")).status == 200)
            os.kill(victim, signal.SIGSTOP)
            poll(lambda: threads_of(victim) == {"T"})  # noqa: B023  # called here
            with socket.create_connection(("127.0.0.1", gateway.port), 5) as waiting:
                waiting.sendall(request(target=b"/health/live"))
                os.kill(victim, signal.SIGKILL)
                waiting.settimeout(15)
                assert waiting.recv(65536).startswith(b"HTTP/1.1 200")


def test_workers_that_die_again_and_again_are_replaced_and_the_gateway_lives(
    tmp_path: Path, upstream: Recorder, session_store: EmbeddedStore
) -> None:
    trouble = tmp_path / "trouble"
    env = stack_env(upstream, session_store, WORKERS="2", BREAK=str(trouble))
    with running(env, tmp_path, first=BROKEN) as gateway:
        trouble.touch()
        victim, other = workers(gateway)
        os.kill(victim, signal.SIGKILL)
        poll(lambda: gateway.log().count("dies again and again") >= 2)
        # Nobody is sent to where no worker is.
        stack = Stack(gateway, upstream)
        assert {stack.ask().status for _ in range(20)} == {200}
        assert workers(gateway) == [other]
        trouble.unlink()
        poll(lambda: len(workers(gateway)) == 2)
        assert gateway.stop() == 0


def test_a_gateway_whose_workers_never_serve_gives_up(tmp_path: Path) -> None:
    trouble = tmp_path / "trouble"
    trouble.touch()
    with pytest.raises(AssertionError, match="ended with 1"):
        start_gateway({"BREAK": str(trouble), "TMPDIR": str(tmp_path)}, tmp_path, first=BROKEN)
    (log,) = tmp_path.glob("*.log")
    assert "made to fail" in log.read_text()
    assert "ended before it served: giving up" in log.read_text()
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == []


def test_a_reload_with_nobody_left_to_read_what_is_said_ends_nothing(
    tmp_path: Path, upstream: Recorder, session_store: EmbeddedStore
) -> None:
    # The terminal it was started from is closed: that sends a SIGHUP, too.
    env = stack_env(upstream, session_store, TMPDIR=str(tmp_path))
    first = (
        "import os, sys; reader, writer = os.pipe(); os.dup2(writer, 2); os.close(reader); os.close(writer); "
        "sys.stderr = open(2, 'w', buffering=1, closefd=False)"
    )
    with running(env, tmp_path, first=first) as gateway:
        before = workers(gateway)
        reload(gateway)
        poll(lambda: set(now := workers(gateway)).isdisjoint(before) and len(now) == 1, seconds=20)
        assert Stack(gateway, upstream).ask().status == 200
        assert gateway.stop() == 0
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == []


@pytest.mark.parametrize("callbacks", [False, True], ids=["as a task", "on the callback lane"])
def test_what_goes_on_after_the_grace_is_told_so_and_logged(
    callbacks: bool, tmp_path: Path, session_store: EmbeddedStore
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes requests, does not answer the last
        env = lone_env(silent.getsockname()[1], session_store, SHUTDOWN_GRACE_SECONDS="1")
        with running(env, tmp_path) as gateway:
            question = request(
                target=b"/api/v1/inventory/items", headers=[(b"authorization", b"Bearer " + access_token())]
            )
            with contextlib.ExitStack() as open_:

                def client() -> socket.socket:
                    made = open_.enter_context(socket.create_connection(("127.0.0.1", gateway.port), 5))
                    made.sendall(question)
                    return made

                asking = client()
                taken = open_.enter_context(silent.accept()[0])
                while b"/items" not in taken.recv(65536):  # a health probe's
                    taken = open_.enter_context(silent.accept()[0])
                for _ in range(2 * callbacks):  # the first ones wait for the store
                    taken.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
                    assert asking.recv(65536).startswith(b"HTTP/1.1 200")
                    asking = client()
                    taken.recv(65536)  # on the connection that is there
                gateway.process.terminate()
                answer = asking.recv(65536)
            assert answer.startswith(b"HTTP/1.1 503")
            assert b'"code":"draining"' in answer
            assert b"x-request-id: " in answer
            assert gateway.stop() == 0
    lines = [json.loads(line) for line in gateway.log().splitlines() if '"request"' in line]
    assert [
        (line["status"], line.get("problem")) for line in lines if line["path"] == "/api/v1/inventory/items"
    ] == [(200, None)] * 2 * callbacks + [(503, "draining")]
    assert "killed" not in gateway.log().lower()


def test_a_head_that_never_ends_holds_up_no_stop(
    tmp_path: Path, upstream: Recorder, session_store: EmbeddedStore
) -> None:
    env = stack_env(upstream, session_store, SHUTDOWN_GRACE_SECONDS="1", HEADER_TIMEOUT_SECONDS="60")
    with running(env, tmp_path) as gateway:
        Stack(gateway, upstream).ask()
        with socket.create_connection(("127.0.0.1", gateway.port), 5) as link:
            link.sendall(b"GET /health/live HTTP/1.1\r\nHo")
            time.sleep(0.2)
            assert gateway.stop(timeout=5) == 0
    assert "killed" not in gateway.log().lower()
    assert '"path":"/api/v1/inventory/items"' in gateway.log()


def test_a_stop_is_heard_in_the_middle_of_a_reload(tmp_path: Path, session_store: EmbeddedStore) -> None:
    service = free_port()
    env = lone_env(service, session_store, SHUTDOWN_GRACE_SECONDS="2", WORKERS="2")
    with running(env, tmp_path) as gateway, contextlib.ExitStack() as clients:
        listener = clients.enter_context(socket.create_server(("127.0.0.1", service), backlog=50))
        for _ in range(8):  # every old worker has something in flight
            client = clients.enter_context(socket.create_connection(("127.0.0.1", gateway.port), 5))
            client.sendall(
                request(
                    target=b"/api/v1/inventory/items",
                    headers=[(b"authorization", b"Bearer " + access_token())],
                )
            )
            clients.enter_context(listener.accept()[0])
        reload(gateway)
        poll(lambda: "the workers are replaced" in gateway.log())
        # One grace and the margin for what hangs, not one after the other for each worker.
        assert gateway.stop(timeout=2 + 2 + 2) == 0
