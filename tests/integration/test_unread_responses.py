"""Clients that do not read a large answer: what they cost is bounded, and everybody else goes on."""

from __future__ import annotations

import contextlib
import multiprocessing
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import ResponseReceived
from h2.settings import SettingCodes

from kernel.server.embedded_store import EmbeddedStore
from tests.support.gateway import GatewayFactory, GatewayProcess, workers
from tests.support.stack import lone_env
from tests.support.tokens import access_token

KIB = 1024
CLIENTS = 200
STREAMS = 150
LARGE = 8 * KIB * KIB
MOST = 256 * KIB


def _serve(listener: socket.socket) -> None:
    """A thread a connection: 2 bytes, or for `/large` as many as `LARGE`."""

    def answer(peer: socket.socket) -> None:
        with contextlib.suppress(OSError), peer:
            while head := peer.recv(65536):
                body = bytes(LARGE) if b"/large" in head.split(b"\r\n", 1)[0] else b"ok"
                peer.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))

    while True:
        peer, _ = listener.accept()
        threading.Thread(target=answer, args=(peer,), daemon=True).start()


@pytest.fixture
def gateway(gateway_factory: GatewayFactory, session_store: EmbeddedStore) -> Iterator[GatewayProcess]:
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
        service = multiprocessing.get_context("fork").Process(target=_serve, args=(listener,), daemon=True)
        service.start()
        env = lone_env(
            listener.getsockname()[1],
            session_store,
            WORKERS="1",
            UPSTREAM_MAX_CONNECTIONS=str(4 * CLIENTS),
            IDLE_TIMEOUT_SECONDS="120",
            HTTP2="true",
        )
        yield gateway_factory(env)
        service.kill()
        service.join()


def resident(gateway: GatewayProcess) -> int:
    (worker,) = workers(gateway)
    return int(Path(f"/proc/{worker}/status").read_text().split("VmRSS:")[1].split()[0]) * KIB


def request(what: bytes) -> bytes:
    target = b"/api/v1/inventory/" + what
    return b"GET %b HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer %b\r\n\r\n" % (target, access_token())


def settled(gateway: GatewayProcess) -> int:
    """Resident memory, when it has not grown for two seconds."""
    most, since = 0, time.monotonic()
    deadline = since + 60
    while time.monotonic() < min(since + 2, deadline):
        now = resident(gateway)
        if now > most + 256 * KIB:
            most, since = now, time.monotonic()
        time.sleep(0.1)
    return most


def test_two_hundred_clients_that_do_not_read_cost_a_quarter_of_a_mebibyte_each(
    gateway: GatewayProcess,
) -> None:
    with contextlib.ExitStack() as stack:
        clients = []
        for _ in range(CLIENTS):
            client = stack.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.settimeout(20)
            client.connect(("127.0.0.1", gateway.port))
            client.sendall(request(b"small"))
            assert client.recv(4096).startswith(b"HTTP/1.1 200")
            clients.append(client)
        before = settled(gateway)
        for client in clients:
            client.sendall(request(b"large"))
        for client in clients:
            assert client.recv(16).startswith(b"HTTP/1.1 200")
        assert (settled(gateway) - before) / CLIENTS <= MOST
        # Nobody is kept waiting by them.
        with socket.create_connection(("127.0.0.1", gateway.port), 20) as other:
            other.sendall(request(b"small"))
            assert other.recv(4096).startswith(b"HTTP/1.1 200")


def test_streams_of_http2_with_a_closed_window_cost_no_more(gateway: GatewayProcess) -> None:
    def ask(what: str, count: int) -> None:
        for _ in range(count):
            client.send_headers(client.get_next_available_stream_id(), [(":path", path + what), *head], True)
        peer.sendall(client.data_to_send())

    path = "/api/v1/inventory/"
    head = [(":method", "GET"), (":scheme", "http"), (":authority", "t")]
    head.append(("authorization", f"Bearer {access_token().decode()}"))
    client = H2Connection(H2Configuration(client_side=True))
    client.initiate_connection()
    client.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 0})
    with socket.create_connection(("127.0.0.1", gateway.port), 20) as peer:
        ask("small", 3)
        before = settled(gateway)
        ask("large", STREAMS)
        assert (settled(gateway) - before) / STREAMS <= MOST
        # Their heads came all the same.
        seen = 0
        while seen < STREAMS + 3:
            seen += sum(
                isinstance(event, ResponseReceived) for event in client.receive_data(peer.recv(65536))
            )
