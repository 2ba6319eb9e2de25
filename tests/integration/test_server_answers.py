"""What the server answers before the gateway is asked (docs/threats.md names it), and what it would end too politely."""

from __future__ import annotations

import contextlib
import socket
import threading
import time

import pytest

from kernel.server.embedded_store import EmbeddedStore
from tests.support.gateway import GatewayFactory
from tests.support.raw import ask, send_raw
from tests.support.recorder import Recorder
from tests.support.stack import Stack, stack_env
from tests.support.tokens import access_token

REST = b"Host: t\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /x HTTP/1.1\r\n" + b"".join(b"a%d: b\r\n" % n for n in range(100)), 431),
        (b"GET /x HTTP/1.1\r\nA: " + b"x" * 200_000 + b"\r\n", 431),
        (b"GET /" + b"x" * 66_000 + b" HTTP/1.1\r\n", 414),
        (b"GET /<x HTTP/1.1\r\n", 400),
        (b"GET /`x HTTP/1.1\r\n", 400),
        (b'GET /x?"y HTTP/1.1\r\n', 400),
        (b"GET /x?<y HTTP/1.1\r\n", 400),
        (b"GET /x?\x80 HTTP/1.1\r\n", 400),
        (b"POST /x HTTP/1.1\r\nContent-Length: +5\r\n", 400),
        (b"POST /x HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n", 400),
        (b"POST /x HTTP/1.1\r\nTransfer-Encoding: gzip\r\n", 400),
        (b"GET /x HTTP/1.1\r\na b: c\r\n", 400),
        (b"GET /x HTTP/1.1\r\na: b\r\n c\r\n", 400),
        (b"GET /x HTTP/1.1\r\nUpgrade: websocket\r\nConnection: upgrade\r\n", 400),
    ],
)
def test_some_requests_are_answered_by_the_server_alone(stack: Stack, head: bytes, status: int) -> None:
    reply = ask(stack.port, head + REST)
    assert reply.status == status
    assert reply.header("x-request-id") is None


@pytest.mark.parametrize(
    "head",
    [
        b"GET /x HTTP/1.1\r\n" + b"".join(b"a%d: b\r\n" % n for n in range(90)),
        b"GET /x HTTP/1.1\r\nA: " + b"x" * 60_000 + b"\r\n",
        b'GET /"x HTTP/1.1\r\n',
        b"GET /x?[]^{|}`\\ HTTP/1.1\r\n",
        b"GET /[x]/^/{y}/| HTTP/1.1\r\n",
    ],
)
def test_the_others_by_the_gateway(stack: Stack, head: bytes) -> None:
    reply = ask(stack.port, head + REST)
    assert reply.status in {400, 404, 431}
    assert reply.header("x-request-id")
    assert reply.header("content-type") == "application/problem+json"


@pytest.mark.parametrize("raw", [b"/a[0]", b"/a|b", b"/{a}", b"/^", b"/[%5B]"])
def test_what_browsers_leave_as_it_is_arrives_as_it_was_sent(stack: Stack, raw: bytes) -> None:
    assert stack.ask("GET", b"/api/v1/inventory" + raw).status == 200
    assert stack.seen().target == b"/api/v1/inventory" + raw


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
def test_a_response_that_breaks_off_is_seen_to(
    gateway_factory: GatewayFactory, session_store: EmbeddedStore, upstream: Recorder, version: bytes
) -> None:
    part = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n"

    def serve(service: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                peer, _ = service.accept()
                with peer:
                    if b"GET /api/v1/inventory" in peer.recv(65536):
                        peer.sendall(part)
                        time.sleep(0.2)

    with socket.create_server(("127.0.0.1", 0)) as service:
        threading.Thread(target=serve, args=(service,), daemon=True).start()
        url = f"http://127.0.0.1:{service.getsockname()[1]}"
        gateway = gateway_factory(stack_env(upstream, session_store, INVENTORY_SERVICE_URL=url))
        with socket.create_connection(("127.0.0.1", gateway.port), 10) as client:
            client.sendall(
                b"GET /api/v1/inventory/x HTTP/%b\r\nHost: t\r\nAuthorization: Bearer %b\r\n\r\n"
                % (version, access_token())
            )
            got = b""
            reset = False
            try:
                while data := client.recv(65536):
                    got += data
            except ConnectionResetError:
                reset = True
        assert b"hello" in got
        assert reset or b"transfer-encoding: chunked" in got
        assert not got.endswith(b"0\r\n\r\n")
    assert send_raw(gateway.port, b"GET /health/live HTTP/1.1\r\n" + REST).startswith(b"HTTP/1.1 200")
