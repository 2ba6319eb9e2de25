"""How long a client's connection lasts: between two requests, in the midst of a head, after a handshake, after its end."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kernel.server.embedded_store import EmbeddedStore
from tests.support.certificates import pair
from tests.support.eventstream import EventSource
from tests.support.gateway import GatewayProcess, free_port, start_gateway, workers
from tests.support.poll import poll
from tests.support.publisher import Publisher
from tests.support.raw import request
from tests.support.recorder import Recorder
from tests.support.stack import stack_env

pytestmark = pytest.mark.slow

LIVE = request(target=b"/health/live", headers=[(b"connection", b"keep-alive")])


def seconds_until_closed(connection: socket.socket, meanwhile: Callable[[], None] = lambda: None) -> float:
    """`meanwhile` is done every 50 ms."""
    began = time.monotonic()
    connection.settimeout(0.05)
    with contextlib.suppress(ConnectionResetError, BrokenPipeError):
        while time.monotonic() - began < 30:
            try:
                if not connection.recv(65536):
                    break
            except TimeoutError:
                meanwhile()
    return time.monotonic() - began


def test_a_connection_is_kept_between_requests_but_not_in_the_midst_of_a_head(
    tmp_path: Path, upstream: Recorder, session_store: EmbeddedStore
) -> None:
    env = stack_env(
        upstream, session_store, HEADER_TIMEOUT_SECONDS="1", CLIENT_KEEPALIVE_SECONDS="6", LOG_LEVEL="INFO"
    )
    gateway = start_gateway(env, tmp_path)
    try:
        links = [socket.create_connection(("127.0.0.1", gateway.port), 5) for _ in range(3)]
        kept, trickling, fresh = links
        for each in (kept, trickling):
            each.sendall(LIVE)
            assert each.recv(65536).startswith(b"HTTP/1.1 200")
        trickling.sendall(b"GET /health/live HTTP/1.1\r\nHost: t\r\nx: ")
        assert seconds_until_closed(trickling, lambda: trickling.sendall(b"x")) < 5
        fresh.sendall(b"GET /hea")
        assert seconds_until_closed(fresh, lambda: fresh.sendall(b"x")) < 5
        time.sleep(1)
        # By now it has rested for longer than a head may take.
        kept.sendall(LIVE)
        assert kept.recv(65536).startswith(b"HTTP/1.1 200")
        assert 5 < seconds_until_closed(kept) < 12
        for each in links:
            each.close()
    finally:
        gateway.stop()
    assert '"slow-head":' in gateway.log()
    assert '"idle":1' in gateway.log()


@pytest.fixture
def over_tls(tmp_path: Path, upstream: Recorder, session_store: EmbeddedStore) -> tuple[dict[str, str], Path]:
    certificate, key = pair(tmp_path)
    env = stack_env(
        upstream,
        session_store,
        PORT=str(free_port()),
        TLS_CERT_FILE=str(certificate),
        TLS_KEY_FILE=str(key),
        HEADER_TIMEOUT_SECONDS="1",
    )
    return env, certificate


@pytest.mark.parametrize("protocol", ["http/1.1", "h2"])
def test_a_handshake_and_nothing_more_is_silence(
    over_tls: tuple[dict[str, str], Path], tmp_path: Path, protocol: str
) -> None:
    env, certificate = over_tls
    context = ssl.create_default_context(cafile=str(certificate))
    context.set_alpn_protocols([protocol])
    gateway = start_gateway(env, tmp_path)
    with contextlib.ExitStack() as links:
        links.callback(gateway.stop)

        def connect() -> ssl.SSLSocket:
            link = links.enter_context(socket.create_connection(("127.0.0.1", gateway.port), 5))
            return links.enter_context(context.wrap_socket(link, server_hostname="localhost"))

        silent = [connect() for _ in range(10)]
        asked = connect()
        if protocol == "http/1.1":
            asked.sendall(LIVE)
            assert asked.recv(65536).startswith(b"HTTP/1.1 200")
        assert max(seconds_until_closed(each) for each in silent) < 8
        if protocol == "http/1.1":
            asked.sendall(LIVE)
            assert asked.recv(65536).startswith(b"HTTP/1.1 200")
        else:
            assert seconds_until_closed(asked) < 8


def connections_of(gateway: GatewayProcess) -> int:
    """Sockets of its workers that have the gateway's port."""
    port = f":{gateway.port:04X}"
    inodes = {
        line.split()[9]
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]
        if line.split()[1].endswith(port) and line.split()[3] in {"01", "08"}
    }
    found = 0
    for pid in workers(gateway):
        for file in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                found += os.readlink(file).removeprefix("socket:[").removesuffix("]") in inodes
    return found


def unread_stream(gateway: GatewayProcess, publisher: Publisher) -> EventSource:
    """A stream that was cut off, since its client does not read."""
    stuck = EventSource(gateway.port, timeout=10).ready()
    for _ in range(400):
        if "stream-slow" in gateway.log():
            return stuck
        for _ in range(10):
            publisher.alert(padding="x" * 30_000)
        time.sleep(0.05)
    raise AssertionError("it was not cut off")


@pytest.fixture
def cutting(tmp_path: Path, upstream: Recorder, mortal_store: EmbeddedStore) -> GatewayProcess:
    env = stack_env(
        upstream,
        mortal_store,
        ALERTS_QUEUE_EVENTS="100",
        ALERTS_QUEUE_BYTES="200KiB",
        SHUTDOWN_GRACE_SECONDS="20",
    )
    return start_gateway(env, tmp_path)


@pytest.mark.parametrize("waits", [True, False], ids=["it goes by itself", "it holds up no stop"])
def test_a_stream_that_was_cut_off_takes_no_place(
    cutting: GatewayProcess, mortal_store: EmbeddedStore, waits: bool
) -> None:
    publisher = Publisher(mortal_store.url)
    stuck = None
    try:
        stuck = unread_stream(cutting, publisher)
        cut = time.monotonic()
        if waits:
            poll(lambda: connections_of(cutting) == 0, seconds=30)
            assert time.monotonic() - cut < 12
        began = time.monotonic()
        assert cutting.stop(timeout=19) == 0
        assert time.monotonic() - began < 5
    finally:
        publisher.client.close()
        if stuck is not None:
            stuck.close()
        if cutting.process.poll() is None:
            cutting.stop()
