"""Workers, signals and the store: what happens when any of them goes away."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
import redis

from kernel.server.embedded_store import EmbeddedStore
from tests.support.gateway import GatewayFactory, GatewayProcess, free_port, start_gateway, workers
from tests.support.poll import poll
from tests.support.raw import ask, request
from tests.support.recorder import Recorder
from tests.support.stack import Stack, stack_env
from tests.support.tokens import access_token


def metric(port: int, name: str) -> float:
    """The sum of a family's samples whose line begins with `name`."""
    text = ask(port, request(target=b"/metrics")).body.decode()
    return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name))


def test_two_workers_share_the_port_the_limit_and_the_metrics(
    gateway_factory: GatewayFactory, upstream: Recorder, mortal_store: EmbeddedStore
) -> None:
    env = stack_env(
        upstream, mortal_store, WORKERS="2", RATE_LIMIT_REQUESTS="50", RATE_LIMIT_WINDOW_SECONDS="3600"
    )
    gateway = gateway_factory(env)
    stack = Stack(gateway, upstream)
    poll(lambda: len(workers(gateway)) == 2)
    token = access_token(user_id="user-of-two-workers")
    stack.ask(token=token)  # a good token costs its address nothing: the user pays for the first request, too
    seen = Counter(stack.ask(token=token).status for _ in range(120))
    # So does each worker's first, before it has verified the token: all come out of the user's 50.
    assert seen[200] == 49
    assert seen[429] == 120 - seen[200]
    assert metric(gateway.port, 'gateway_requests_total{method="GET",path="/api/v1/inventory/**"') == 121
    assert metric(gateway.port, "gateway_rate_limit_exceeded_total{") == seen[429]
    poll(lambda: metric(gateway.port, "gateway_workers ") == 2)  # they hear of each other once a second


def test_a_killed_worker_is_replaced_and_the_counters_never_fall(
    gateway_factory: GatewayFactory, upstream: Recorder, session_store: EmbeddedStore
) -> None:
    gateway = gateway_factory(stack_env(upstream, session_store, WORKERS="2"))
    stack = Stack(gateway, upstream)
    poll(lambda: len(workers(gateway)) == 2)
    for _ in range(40):
        assert stack.ask().status == 200
    name = 'gateway_requests_total{method="GET",path="/api/v1/inventory/**"'
    before = metric(gateway.port, name)
    [victim, other] = workers(gateway)
    os.kill(victim, signal.SIGKILL)
    poll(lambda: len(alive := workers(gateway)) == 2 and victim not in alive, seconds=15)
    assert other in workers(gateway)
    poll(lambda: metric(gateway.port, "gateway_workers ") == 2)
    assert metric(gateway.port, name) >= before
    assert stack.ask().status == 200


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_lets_requests_finish_and_leaves_nothing_behind(
    tmp_path: Path, upstream: Recorder, session_store: EmbeddedStore, sig: signal.Signals
) -> None:
    gateway = start_gateway(stack_env(upstream, session_store, TMPDIR=str(tmp_path), WORKERS="2"), tmp_path)
    left = workers(gateway)
    assert gateway.stop(sig) == 0, gateway.log()
    assert not any(Path(f"/proc/{pid}").exists() for pid in left)
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == []
    assert '"path":"/health/ready"' in gateway.log()  # the last lines were flushed


def test_stops_that_are_repeated_change_nothing(
    tmp_path: Path, upstream: Recorder, session_store: EmbeddedStore
) -> None:
    gateway = start_gateway(stack_env(upstream, session_store, TMPDIR=str(tmp_path)), tmp_path)
    while gateway.process.poll() is None:
        gateway.process.terminate()
        time.sleep(0.001)
    assert gateway.process.returncode == 0, gateway.log()
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == []


def test_where_workers_are_not_forked_they_serve_and_stop_the_same(
    tmp_path: Path, upstream: Recorder, session_store: EmbeddedStore
) -> None:
    # macOS starts processes anew ("spawn"), so everything a worker is given must be able to travel.
    env = stack_env(upstream, session_store, TMPDIR=str(tmp_path), WORKERS="2")
    gateway = start_gateway(
        env, tmp_path, first="import multiprocessing; multiprocessing.set_start_method('spawn')"
    )
    try:
        stack = Stack(gateway, upstream)
        assert stack.ask().status == 200
        poll(lambda: metric(gateway.port, "gateway_workers ") == 2)
    finally:
        code = gateway.stop()
    assert code == 0, gateway.log()
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == []


def test_a_taken_port_is_said_and_leaves_nothing_behind(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        env = {"PATH": os.environ["PATH"], "HOST": "127.0.0.1", "PORT": port, "TMPDIR": str(tmp_path)}
        command = [sys.executable, "-m", "kernel", "run"]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith(f"gateway: cannot listen on 127.0.0.1:{port}: ")
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_two_gateways_share_a_port_in_production_and_never_on_a_laptop(
    gateway_factory: GatewayFactory, upstream: Recorder, session_store: EmbeddedStore
) -> None:
    first = gateway_factory(stack_env(upstream, session_store))
    same = stack_env(upstream, session_store, PORT=str(first.port))
    refused = gateway_factory(same)
    assert refused.process.wait(10) == 1
    assert f"another gateway listens on port {first.port}" in refused.log()
    second = gateway_factory({**same, "ENVIRONMENT": "staging"})
    poll(lambda: len(workers(second)) == 1)
    assert f"others listen on port {first.port}, too" in second.log()


def test_workers_do_not_outlive_their_parent(
    tmp_path: Path, upstream: Recorder, session_store: EmbeddedStore
) -> None:
    gateway = start_gateway(stack_env(upstream, session_store, WORKERS="2"), tmp_path)
    left = workers(gateway)
    assert len(left) == 2
    gateway.process.kill()
    gateway.process.wait()
    poll(lambda: not any(Path(f"/proc/{pid}").exists() for pid in left))


def test_without_a_store_the_gateway_still_serves_and_says_so(
    gateway_factory: GatewayFactory, upstream: Recorder, mortal_store: EmbeddedStore
) -> None:
    env = stack_env(upstream, mortal_store, RATE_LIMIT_REQUESTS="30", RATE_LIMIT_WINDOW_SECONDS="3600")
    stack = Stack(gateway_factory(env), upstream)
    token = access_token(user_id="user-through-an-outage")
    for _ in range(5):
        assert stack.ask(token=token).status == 200
    mortal_store.kill()

    def store() -> str:
        document: dict[str, str] = json.loads(ask(stack.port, request(target=b"/health")).body)
        return document["redis"]

    during = Counter(stack.ask(token=token).status for _ in range(60))
    assert set(during) == {200, 429}
    assert during[200] <= 26
    poll(lambda: store() == "disconnected")
    mortal_store.start()
    poll(lambda: store() == "connected")
    after = Counter(stack.ask(token=token).status for _ in range(20))
    assert after[200] <= 2, "the outage must not be a second helping"


def test_a_closed_limiter_refuses_without_a_store(
    gateway_factory: GatewayFactory, upstream: Recorder, mortal_store: EmbeddedStore
) -> None:
    stack = Stack(gateway_factory(stack_env(upstream, mortal_store, RATE_LIMIT_FAIL_MODE="closed")), upstream)
    assert stack.ask().status == 200
    mortal_store.kill()
    refused = poll(
        lambda: [reply for reply in [stack.ask(token=access_token(user_id="new"))] if reply.status != 200]
    )
    assert refused[0].status == 503
    # A lease that is left admits one more; what decides about its token cannot be read either.
    assert json.loads(refused[0].body)["code"] in {"rate-limit-unavailable", "store-unavailable"}
    mortal_store.start()
    poll(lambda: stack.ask().status == 200)


def test_two_gateways_never_admit_more_than_the_limit_under_load(
    gateway_factory: GatewayFactory, upstream: Recorder, mortal_store: EmbeddedStore
) -> None:
    limit = 400
    env = stack_env(upstream, mortal_store, RATE_LIMIT_REQUESTS=str(limit), RATE_LIMIT_WINDOW_SECONDS="3600")
    stacks = [Stack(gateway_factory(env), upstream) for _ in range(2)]
    token = access_token(user_id="user-of-two-gateways")
    for stack in stacks:
        stack.ask(token=token)
    statuses: Counter[int] = Counter()
    lock = threading.Lock()
    stop = threading.Event()

    def load(stack: Stack) -> None:
        while not stop.is_set():
            status = stack.ask(token=token).status
            with lock:
                statuses[status] += 1

    threads = [threading.Thread(target=load, args=(stack,)) for stack in stacks for _ in range(3)]
    for thread in threads:
        thread.start()
    poll(lambda: statuses[429] > 200, seconds=40)
    stop.set()
    for thread in threads:
        thread.join()
    # 1/9 of a token comes back each second: a few seconds of load add one at most.
    assert limit * 0.97 <= statuses[200] <= limit + 2


def test_a_lock_set_by_hand_is_enforced_by_every_worker(
    gateway_factory: GatewayFactory, upstream: Recorder, store_server: EmbeddedStore, redis_cli: redis.Redis
) -> None:
    stacks = [
        Stack(gateway_factory(stack_env(upstream, store_server, WORKERS="2")), upstream) for _ in range(2)
    ]
    token = access_token(tenant_id="locked-tenant")
    for stack in stacks:
        for _ in range(8):
            assert stack.ask("POST", body=b"{}", token=token).status == 200

    def writes() -> list[int]:
        return [stack.ask("POST", body=b"{}", token=token).status for stack in stacks for _ in range(8)]

    redis_cli.set("tenant:locked-tenant:read_only", "billing hold")
    poll(lambda: set(writes()) == {403})
    reply = stacks[0].ask("POST", body=b"{}", token=token)
    assert json.loads(reply.body)["code"] == "tenant-read-only"
    assert "billing hold" in json.loads(reply.body)["detail"]
    assert all(stack.ask("GET", token=token).status == 200 for stack in stacks)
    redis_cli.delete("tenant:locked-tenant:read_only")
    poll(lambda: set(writes()) == {200})


def test_with_few_open_files_a_worker_takes_fewer_connections_instead_of_running_out(
    upstream: Recorder, mortal_store: EmbeddedStore, tmp_path: Path
) -> None:
    gateway = start_gateway(stack_env(upstream, mortal_store), tmp_path, max_files=128)
    try:
        assert "open files are limited to 128: a worker takes 64 connections" in gateway.log()
        (worker,) = workers(gateway)
        files = Path(f"/proc/{worker}/fd")
        with contextlib.ExitStack() as held:
            for _ in range(150):
                held.enter_context(socket.create_connection(("127.0.0.1", gateway.port), 5))
            poll(lambda: len(list(files.iterdir())) >= 64)
            assert len(list(files.iterdir())) < 128  # and so there is one left to reach a service with
        assert poll(lambda: Stack(gateway, upstream).ask(token=access_token()).status) == 200
    finally:
        gateway.stop()


def test_a_gateway_started_without_streams_writes_into_nobody_s_files(
    tmp_path: Path, upstream: Recorder, session_store: EmbeddedStore
) -> None:
    port = free_port()
    env = stack_env(upstream, session_store, TMPDIR=str(tmp_path), PORT=str(port), PATH=os.environ["PATH"])
    closed = ["/bin/sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", sys.executable, "-m", "kernel", "run"]
    process = subprocess.Popen(closed, env=env, start_new_session=True)
    gateway = GatewayProcess(process, port, tmp_path / "log", env)
    (tmp_path / "log").touch()
    try:
        gateway.wait_ready()
        assert {os.readlink(f"/proc/{process.pid}/fd/{fd}") for fd in range(3)} == {"/dev/null"}
        for pid in workers(gateway):
            streams = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in range(3)]
            assert streams[:2] == ["/dev/null"] * 2
            assert streams[2].startswith("pipe:")  # the parent's, which makes log lines of it
        assert Stack(gateway, upstream).ask().status == 200
    finally:
        assert gateway.stop() == 0
