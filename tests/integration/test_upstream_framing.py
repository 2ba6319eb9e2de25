"""Responses of every framing, honest and not, through the forwarder and real sockets."""

from __future__ import annotations

import pytest

from tests.support.scripted_upstream import (
    OK,
    Client,
    Peer,
    Script,
    both_loops,
    eventually,
    relay,
    replies,
    scripted,
    upstream_of,
)

H = b"HTTP/1.1 200 OK\r\n"
CHUNKED = H + b"transfer-encoding: chunked\r\n\r\n"
LINES = b"accept: */*\r\n"


async def served(script: Script, client: Client | None = None) -> tuple[Client, int]:
    """One GET, then a second to the same upstream: the first's client, and the number of connections both took."""
    client = client or Client()
    async with scripted(script) as server, upstream_of(server.url) as upstream:
        await relay(client.x, upstream, LINES, 2.0)
        again = Client()
        await relay(again.x, upstream, LINES, 2.0)
        assert again.complete
        return client, server.connections


# --- responses that are right ---


@pytest.mark.parametrize(
    ("reply", "body", "headers"),
    [
        (OK, b"ok", [(b"content-length", b"2")]),
        (H + b"Content-Length: 0\r\n\r\n", b"", [(b"content-length", b"0")]),
        (H + b"content-length: 2 \r\n\r\nok", b"ok", [(b"content-length", b"2")]),
        (CHUNKED + b"2\r\nok\r\n0\r\n\r\n", b"ok", []),
        (CHUNKED + b"1;ext=1\r\no\r\n1\r\nk\r\n0\r\n\r\n", b"ok", []),
        (CHUNKED + b"2\r\nok\r\n0\r\nx-checksum: 1\r\nset-cookie: a\r\n\r\n", b"ok", []),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b"", []),
        (b"HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n", b"", [(b"content-length", b"5")]),
        (b"HTTP/1.1 100 Continue\r\nx-a: 1\r\n\r\n" + OK, b"ok", [(b"content-length", b"2")]),
        (b"HTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\n" * 3 + OK, b"ok", [(b"content-length", b"2")]),
        (b"HTTP/1.1 200\r\ncontent-length: 2\r\n\r\nok", b"ok", [(b"content-length", b"2")]),
        (
            H + b"Set-Cookie: a=1\r\nSet-Cookie: b=2\r\nX-Raw: \xe9 \t\xff\r\ncontent-length: 2\r\n\r\nok",
            b"ok",
            [
                (b"set-cookie", b"a=1"),
                (b"set-cookie", b"b=2"),
                (b"x-raw", b"\xe9 \t\xff"),
                (b"content-length", b"2"),
            ],
        ),
        (
            H + b"Connection: x-hop, Keep-Alive\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nTrailer: a\r\n"
            b"Access-Control-Allow-Origin: *\r\nX-Request-Id: theirs\r\ncontent-length: 2\r\n\r\nok",
            b"ok",
            [(b"content-length", b"2")],
        ),
    ],
)
@both_loops
async def test_a_whole_response_passes_and_its_connection_serves_again(
    reply: bytes, body: bytes, headers: list[tuple[bytes, bytes]]
) -> None:
    client, connections = await served(replies(reply))
    assert (client.body, client.headers, client.complete) == (body, headers, True)
    assert connections == 1


@pytest.mark.parametrize("status", [200, 201, 299, 400, 404, 500, 503, 599, 999])
async def test_any_final_status_passes(status: int) -> None:
    client, connections = await served(replies(b"HTTP/1.1 %d X\r\ncontent-length: 0\r\n\r\n" % status))
    assert client.status == status
    assert connections == 1


@pytest.mark.parametrize(
    "reply",
    [
        H + b"connection: close\r\ncontent-length: 2\r\n\r\nok",
        H + b"\r\nok",
        CHUNKED + b"2\r\nok\r\n0\r\nconnection: close\r\n\r\n",
        b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\n\r\nok",
    ],
)
@both_loops
async def test_a_response_that_ends_its_connection_passes_and_the_next_opens_another(reply: bytes) -> None:
    client, connections = await served(replies(reply, close=True))
    assert (client.body, client.complete, connections) == (b"ok", True, 2)


@pytest.mark.parametrize(
    "reply",
    [
        H + b"content-length: 200\r\n\r\n",
        CHUNKED,
        H + b"content-length: 200\r\ncontent-type: text/plain\r\n\r\n",
    ],
)
@both_loops
async def test_head_requests_end_with_their_head(reply: bytes) -> None:
    async def script(peer: Peer) -> None:
        while True:
            head = await peer.head()
            await peer.send(reply if head.startswith(b"HEAD") else OK)

    client, connections = await served(script, Client("HEAD"))
    assert (client.status, client.body, client.complete, connections) == (200, b"", True, 1)


@both_loops
async def test_a_body_after_head_is_dropped_and_costs_the_connection() -> None:
    async def script(peer: Peer) -> None:
        while True:
            await peer.head()
            await peer.send(OK)

    client, connections = await served(script, Client("HEAD"))
    assert (client.body, client.complete, connections) == (b"", True, 2)


# --- responses with something after their end ---


@pytest.mark.parametrize(
    "surplus",
    [
        b"more",
        b"\x00",
        b"HTTP/1.1 200 OK\r\nx-stolen: 1\r\ntransfer-encoding: gzip\r\ncontent-length: 3\r\n\r\nabc",
        b"HTTP/1.1 20",
        b"HTTP/1.1 999",
    ],
)
@pytest.mark.parametrize(
    "first", [OK, CHUNKED + b"2\r\nok\r\n0\r\n\r\n", H + b"connection: close\r\ncontent-length: 2\r\n\r\nok"]
)
@both_loops
async def test_bytes_after_a_response_are_dropped_and_cost_the_connection(
    first: bytes, surplus: bytes
) -> None:
    client, connections = await served(replies(first + surplus))
    assert client.body == b"ok"
    assert client.complete
    assert all(name == b"content-length" for name, _ in client.headers)
    assert connections == 2


@both_loops
async def test_bytes_on_an_idle_connection_cost_it() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)
        if peer.number == 1:
            await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison")
            await peer.gone()

    async with scripted(script) as server, upstream_of(server.url) as upstream:
        for _ in range(2):
            client = Client()
            await relay(client.x, upstream, LINES, 2.0)
            assert client.body == b"ok"
            await eventually(lambda: not upstream.replicas[0].pool.size or server.connections > 1)
