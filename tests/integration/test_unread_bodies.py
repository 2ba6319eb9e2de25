"""A refusal does not wait for a body it does not need, and never breaks a connection without a word."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest

from kernel.server.embedded_store import EmbeddedStore
from tests.support.gateway import GatewayFactory
from tests.support.raw import Reply, parse_replies
from tests.support.recorder import Recorder
from tests.support.stack import Stack, stack_env
from tests.support.tokens import access_token

HEAD = b"POST /api/v1/inventory/items HTTP/1.1\r\nHost: t\r\n"
NEXT = b"GET /health/live HTTP/1.1\r\nHost: t\r\n\r\n"


@pytest.fixture
def link(stack: Stack) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", stack.port), 5) as link:
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield link


def reply(link: socket.socket) -> Reply:
    """The next response, whole."""
    data = b""
    while not (
        data
        and (found := parse_replies(data))
        and len(found[0].body) == int(found[0].header("content-length") or 0)
    ):
        part = link.recv(65536)
        assert part, f"closed after {data!r}"
        data += part
    return found[0]


@pytest.mark.parametrize("parts", [[b"0123456789"], [b"01234", b"56789"]])
def test_a_small_body_may_come_after_the_head_and_the_connection_lives(
    stack: Stack, link: socket.socket, parts: list[bytes]
) -> None:
    link.sendall(HEAD + b"Content-Length: 10\r\n\r\n")
    # A request on another connection is answered: this one's head has been read by then.
    assert stack.ask(target=b"/health/live").status == 200
    for part in parts:
        link.sendall(part)
    refused = reply(link)
    assert (refused.status, refused.header("connection")) == (401, None)
    link.sendall(NEXT)
    assert reply(link).status == 200


def test_a_body_that_never_comes_is_not_waited_for_long(link: socket.socket) -> None:
    link.sendall(HEAD + b"Content-Length: 10\r\n\r\n0123")
    refused = reply(link)
    assert (refused.status, refused.header("connection")) == (401, "close")
    assert link.recv(1) == b""


@pytest.mark.parametrize(
    "framing",
    [
        b"Content-Length: 5000000\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Expect: 100-continue\r\nContent-Length: 10\r\n",
    ],
)
def test_a_body_that_is_not_taken_is_the_connection_s_last(link: socket.socket, framing: bytes) -> None:
    link.sendall(HEAD + framing + b"\r\n")
    refused = reply(link)
    assert (refused.status, refused.all("connection")) == (401, ["close"])
    assert link.recv(1) == b""


def test_an_early_answer_of_a_service_is_the_connection_s_last(
    gateway_factory: GatewayFactory, session_store: EmbeddedStore, upstream: Recorder
) -> None:
    early = b"HTTP/1.1 409 Early\r\ncontent-length: 5\r\n\r\nearly"
    with socket.create_server(("127.0.0.1", 0)) as service:

        def answer() -> None:
            with contextlib.suppress(OSError):
                while True:
                    peer, _ = service.accept()
                    with peer:
                        if b"POST" in peer.recv(65536):
                            peer.sendall(early)
                            while peer.recv(65536):
                                pass

        threading.Thread(target=answer, daemon=True).start()
        url = f"http://127.0.0.1:{service.getsockname()[1]}"
        gateway = gateway_factory(stack_env(upstream, session_store, INVENTORY_SERVICE_URL=url))
        with socket.create_connection(("127.0.0.1", gateway.port), 5) as link:
            authorized = b"Authorization: Bearer %b\r\n" % access_token()
            link.sendall(HEAD + authorized + b"Content-Length: 5000000\r\n\r\n" + bytes(300_000))
            refused = reply(link)
            assert (refused.status, refused.all("connection")) == (409, ["close"])
            with contextlib.suppress(ConnectionResetError):
                assert link.recv(1) == b""


@pytest.mark.parametrize("target", [b"/api/v1/alerts/ticket", b"/api/v1/geocode", b"/api/v1/inventory/items"])
def test_a_body_that_comes_byte_by_byte_is_given_up_wherever_it_goes(
    gateway_factory: GatewayFactory, upstream: Recorder, session_store: EmbeddedStore, target: bytes
) -> None:
    gateway = gateway_factory(stack_env(upstream, session_store, BODY_TIMEOUT_SECONDS="0.4"))
    with socket.create_connection(("127.0.0.1", gateway.port), 5) as link:
        link.sendall(
            b"POST %b HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer %b\r\nContent-Length: 500\r\n\r\n"
            % (target, access_token())
        )
        link.settimeout(0.1)
        answer = b""
        for _ in range(100):
            link.sendall(b" ")
            with contextlib.suppress(TimeoutError):
                answer += link.recv(65536)
            if b"request_id" in answer:
                break
    assert answer.startswith(b"HTTP/1.1 408"), answer[:200]
    assert b'"code":"body-timeout"' in answer
