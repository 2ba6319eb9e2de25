"""Responses that are ambiguous, malformed, cut off or late: a 502 or 504, or a response that is visibly truncated."""

from __future__ import annotations

import pytest

from kernel.http.problems import (
    UPSTREAM_PROTOCOL,
    UPSTREAM_RESET,
    UPSTREAM_TIMEOUT,
    GatewayError,
    ProblemKind,
)
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


async def refused(script: Script, client: Client | None = None) -> tuple[ProblemKind, Client]:
    """The problem that a response ends with, and its client."""
    client = client or Client()
    async with scripted(script) as server, upstream_of(server.url, idle_timeout=0.2) as upstream:
        with pytest.raises(GatewayError) as caught:
            await relay(client.x, upstream, LINES, 0.3)
        assert caught.value.problem.detail.startswith("inventory failed in phase ")
        assert client.x.ended_by == "upstream"
        await eventually(lambda: server.open == 0)  # whatever happened, the connection is not used again
        return caught.value.problem.kind, client


@pytest.mark.parametrize(
    "reply",
    [
        H + b"content-length: 2\r\ncontent-length: 3\r\n\r\nok!",
        H + b"content-length: 2\r\ncontent-length: 2\r\n\r\nok",
        H + b"content-length: 2, 2\r\n\r\nok",
        H + b"content-length: +2\r\n\r\nok",
        H + b"content-length: -2\r\n\r\nok",
        H + b"content-length: 0x2\r\n\r\nok",
        H + b"content-length: \r\n\r\nok",
        H + b"content-length: 99999999999999999999999999\r\n\r\nok",
        H + b"content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        H + b"transfer-encoding: chunked\r\ncontent-length: 2\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        H + b"transfer-encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        H + b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        H + b"transfer-encoding: identity\r\n\r\nok",
        H + b"transfer-encoding: xchunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        H + b"x: a\r\n b\r\ncontent-length: 2\r\n\r\nok",
        H + b"x: a\ncontent-length: 2\r\n\r\nok",
        H + b"x: a\rb\r\ncontent-length: 2\r\n\r\nok",
        H + b"x: a\x00b\r\ncontent-length: 2\r\n\r\nok",
        H + b"x: a\x1bb\r\ncontent-length: 2\r\n\r\nok",
        H + b"x : a\r\ncontent-length: 2\r\n\r\nok",
        H + b": a\r\ncontent-length: 2\r\n\r\nok",
        H + b"x(y: a\r\ncontent-length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\ncontent-length: 2\n\nok",
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\nok",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\nok",
        b"HTTP/1.1 099 Low\r\ncontent-length: 2\r\n\r\nok" + OK,
        b"HTTP/1.1 1000 High\r\ncontent-length: 2\r\n\r\nok",
        b"HTTP/3.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
        b"HTTP/2.0 200 OK\r\ncontent-length: 2\r\n\r\nok",
        b"HTTP/0.9 200 OK\r\ncontent-length: 2\r\n\r\nok",
        b"HTTP/1.1 200 O\x00K\r\ncontent-length: 2\r\n\r\nok",
        b"HTTP/1.1 200 O\x1b[2JK\r\ncontent-length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\x7f\r\ncontent-length: 2\r\n\r\nok",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\x15\x03\x01\x00\x02\x02",
        b"GET / HTTP/1.1\r\n\r\n",
        CHUNKED + b"-2\r\nok\r\n0\r\n\r\n",
        CHUNKED + b"2\r\nok\r\n0\r\ncontent-length: 9\r\n\r\n",
        H + b"".join(b"x-%d: 1\r\n" % i for i in range(300)) + b"content-length: 2\r\n\r\nok",
        H + b"x: " + b"a" * 200_000 + b"\r\ncontent-length: 2\r\n\r\nok",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 10_000 + OK,
    ],
)
@both_loops
async def test_an_ambiguous_or_malformed_response_is_a_502(reply: bytes) -> None:
    kind, client = await refused(replies(reply))
    assert kind is UPSTREAM_PROTOCOL
    assert client.head is None


@pytest.mark.parametrize(
    "reply",
    [b"", b"HTTP/1.1 200 OK\r\ncontent-le", b"HTTP/1.1 100 Continue\r\n\r\n", H + b"x: y\r\n"],
)
@both_loops
async def test_a_connection_closed_before_the_head_is_a_502(reply: bytes) -> None:
    kind, client = await refused(replies(reply, close=True))
    assert kind is UPSTREAM_RESET
    assert client.head is None


@pytest.mark.parametrize(
    "reply",
    [
        H + b"content-length: 9\r\n\r\nok",
        CHUNKED + b"2\r\nok\r\n",
        CHUNKED + b"9\r\nok",
        CHUNKED + b"2\r\nok\r\n0\r\n",
        CHUNKED + b"2\r\nok\r\n0\r\ntrailer: ",
    ],
)
@pytest.mark.parametrize("split", [False, True])
@both_loops
async def test_a_body_that_breaks_off_truncates_visibly(reply: bytes, split: bool) -> None:
    head, end, body = reply.partition(b"\r\n\r\n")
    parts = [head + end, body] if split else [reply]
    kind, client = await refused(replies(*parts, close=True))
    assert kind is UPSTREAM_RESET
    assert (client.status, client.body, client.complete) == (200, b"ok", False)


@both_loops
async def test_a_reset_never_ends_a_close_delimited_body_cleanly() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(H + b"\r\nok")
        await eventually(lambda: client.body == b"ok")
        peer.reset()

    client = Client()
    kind, _ = await refused(script, client)
    assert kind is UPSTREAM_RESET
    assert (client.body, client.complete) == (b"ok", False)


@pytest.mark.parametrize("bad", [b"x", b"-1\r\n", b"1\nx", b"fffffffffffffffff\r\n", b"2\r\nokay\r\n"])
@both_loops
async def test_a_malformed_chunk_truncates_visibly(bad: bytes) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED + b"2\r\nok\r\n")
        await eventually(lambda: client.body == b"ok")
        await peer.send(bad)
        await peer.gone()

    client = Client()
    kind, _ = await refused(script, client)
    assert kind is UPSTREAM_PROTOCOL
    assert not client.complete


@pytest.mark.parametrize("endless", [b"1;" + b"a" * 100_000, b"0\r\n" + b"t: " + b"a" * 100_000])
@both_loops
async def test_endless_chunk_framing_and_trailers_are_cut(endless: bytes) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED + b"2\r\nok\r\n")
        await eventually(lambda: client.body == b"ok")
        await peer.send(endless)
        await peer.gone()

    client = Client()
    kind, _ = await refused(script, client)
    assert kind is UPSTREAM_PROTOCOL
    assert not client.complete


@both_loops
async def test_silence_before_the_head_is_a_504() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.gone()

    kind, client = await refused(script)
    assert kind is UPSTREAM_TIMEOUT
    assert client.head is None


@both_loops
async def test_half_a_head_is_a_504_in_the_same_time() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nconte", b"nt-length: 2\r\n")
        await peer.gone()

    kind, client = await refused(script)
    assert kind is UPSTREAM_TIMEOUT
    assert client.head is None


@both_loops
async def test_a_stalled_body_truncates_visibly() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(H + b"content-length: 9\r\n\r\nok")
        await peer.gone()

    kind, client = await refused(script)
    assert kind is UPSTREAM_TIMEOUT
    assert (client.status, client.body, client.complete) == (200, b"ok", False)
