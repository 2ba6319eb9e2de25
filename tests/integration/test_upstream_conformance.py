"""One suite, two transports: the pool's must behave as httpx's own, the oracle, does."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import httpx
import pytest

from kernel.upstream.transport import PoolTransport
from tests.support.scripted_upstream import OK, Peer, Scripted, eventually, replies, scripted

H = b"HTTP/1.1 200 OK\r\n"
EMPTY = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
Make = Callable[..., httpx.AsyncBaseTransport]


def _oracle(
    *, max_connections: int = 100, verify: ssl.SSLContext | bool = True, uds: str | None = None
) -> httpx.AsyncHTTPTransport:
    limits = httpx.Limits(max_connections=max_connections)
    return httpx.AsyncHTTPTransport(verify=verify, uds=uds, limits=limits, trust_env=False)


@pytest.fixture(params=[PoolTransport, _oracle], ids=["pool", "oracle"])
def make(request: pytest.FixtureRequest) -> Make:
    transport: Make = request.param
    return transport


def client(transport: httpx.AsyncBaseTransport, timeout: httpx.Timeout | float = 5.0) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=transport, timeout=timeout, trust_env=False)


def echoing(seen: list[bytes]) -> Callable[[Peer], Awaitable[None]]:
    async def script(peer: Peer) -> None:
        while True:
            seen.append(await peer.request())
            await peer.send(OK)

    return script


# --- requests


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"])
async def test_methods_targets_and_bodies_are_sent(make: Make, method: str) -> None:
    seen: list[bytes] = []
    async with scripted(echoing(seen)) as server, client(make()) as http:
        content = b"body" if method not in {"GET", "OPTIONS"} else None
        answer = await http.request(method, f"{server.url}/a%2Fb?x=1&x=%20#fragment", content=content)
        assert (answer.status_code, answer.content) == (200, b"ok")
    head, _, body = seen[0].partition(b"\r\n\r\n")
    assert head.startswith(f"{method} /a%2Fb?x=1&x=%20 HTTP/1.1\r\n".encode())
    assert body == (content or b"")
    assert head.lower().count(b"host: 127.0.0.1:%d" % server.port) == 1


async def test_header_order_doubles_and_raw_values_are_kept(make: Make) -> None:
    seen: list[bytes] = []
    async with scripted(echoing(seen)) as server, client(make()) as http:
        headers = [(b"x-one", b"1"), (b"x-two", b"caf\xe9"), (b"x-one", b"2")]
        await http.get(server.url, headers=headers)
    lines = [line for line in seen[0].split(b"\r\n") if line.lower().startswith(b"x-")]
    assert [line.lower() for line in lines] == [b"x-one: 1", b"x-two: caf\xe9", b"x-one: 2"]


@pytest.mark.parametrize("length", [True, False])
async def test_a_body_is_streamed(make: Make, length: bool) -> None:
    parts = [b"one", b"two" * 30_000, b"", b"three"]
    got = b""

    async def script(peer: Peer) -> None:
        nonlocal got
        head = (await peer.head()).lower()
        if length:
            assert b"transfer-encoding" not in head
            got = await peer.reader.readexactly(sum(map(len, parts)))
        else:
            assert b"transfer-encoding: chunked" in head
            while size := int(await peer.reader.readuntil(b"\r\n"), 16):
                got += (await peer.reader.readexactly(size + 2))[:-2]
            await peer.reader.readexactly(2)
        await peer.send(OK)

    async def body() -> AsyncIterator[bytes]:
        for part in parts:
            await asyncio.sleep(0)
            yield part

    async with scripted(script) as server, client(make()) as http:
        headers = {"content-length": str(sum(map(len, parts)))} if length else {}
        answer = await http.post(server.url, content=body(), headers=headers)
        assert answer.content == b"ok"
    assert got == b"".join(parts)


async def test_a_header_with_a_line_break_is_refused(make: Make) -> None:
    async with scripted(replies(OK)) as server, client(make()) as http:
        with pytest.raises(httpx.LocalProtocolError):
            await http.get(server.url, headers=[(b"x-a", b"b\r\nx-c: d")])


async def test_another_scheme_is_refused(make: Make) -> None:
    async with client(make()) as http:
        with pytest.raises(httpx.UnsupportedProtocol):
            await http.get("ftp://127.0.0.1/")


# --- responses


@pytest.mark.parametrize(
    ("reply", "status", "body"),
    [
        (H + b"content-length: 5\r\n\r\nhello", 200, b"hello"),
        (
            H + b"transfer-encoding: chunked\r\n\r\n2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\nx-t: 1\r\n\r\n",
            200,
            b"hello",
        ),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b""),
        (b"HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n", 304, b""),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nlink: x\r\n\r\n" + OK, 200, b"ok"),
        (b"HTTP/1.1 302 Found\r\nlocation: /x\r\ncontent-length: 0\r\n\r\n", 302, b""),
        (b"HTTP/1.1 599 Odd\r\ncontent-length: 1\r\n\r\n!", 599, b"!"),
    ],
    ids=["length", "chunked", "204", "304", "1xx", "redirect", "599"],
)
async def test_a_response_is_read_and_its_connection_used_again(
    make: Make, reply: bytes, status: int, body: bytes
) -> None:
    async with scripted(replies(reply)) as server, client(make()) as http:
        for _ in range(3):
            answer = await http.get(server.url)
            assert (answer.status_code, answer.content) == (status, body)
        assert server.connections == 1


async def test_a_body_that_ends_with_its_connection_is_read(make: Make) -> None:
    async with (
        scripted(replies(H + b"\r\n", b"to the ", b"end", close=True)) as server,
        client(make()) as http,
    ):
        for _ in range(2):
            assert (await http.get(server.url)).content == b"to the end"
        assert server.connections == 2


async def test_a_response_to_head_has_no_body(make: Make) -> None:
    async with scripted(replies(H + b"content-length: 1000\r\n\r\n")) as server, client(make()) as http:
        for _ in range(2):
            answer = await http.head(server.url)
            assert (answer.headers["content-length"], answer.content) == ("1000", b"")
        assert server.connections == 1


async def test_response_headers_are_kept(make: Make) -> None:
    reply = H + b"Set-Cookie: a=1\r\nset-cookie: b=2\r\nX-Raw: caf\xe9\r\nAccess-Control-Allow-Origin: *\r\n"
    async with scripted(replies(reply + b"Content-Length: 0\r\n\r\n")) as server, client(make()) as http:
        headers = (await http.get(server.url)).headers
        assert headers.get_list("set-cookie") == ["a=1", "b=2"]
        assert headers["access-control-allow-origin"] == "*"
        assert [value for name, value in headers.raw if name.lower() == b"x-raw"] == [b"caf\xe9"]


async def test_encodings_are_left_to_the_client(make: Make) -> None:
    reply = H + b"content-encoding: gzip\r\ncontent-length: 3\r\n\r\nraw"
    async with (
        scripted(replies(reply)) as server,
        client(make()) as http,
        http.stream("GET", server.url) as answer,
    ):
        assert b"".join([part async for part in answer.aiter_raw()]) == b"raw"


async def test_a_large_response_is_streamed(make: Make) -> None:
    parts = [bytes(64 * 1024)] * 64
    reply = H + b"content-length: %d\r\n\r\n" % (64 * 64 * 1024)
    async with scripted(replies(reply, *parts)) as server, client(make()) as http:
        size = 0
        async with http.stream("GET", server.url) as answer:
            async for part in answer.aiter_raw():
                assert len(part) < 1024 * 1024
                size += len(part)
        assert size == 64 * 64 * 1024
        assert (await http.get(server.url)).status_code == 200
        assert server.connections == 1


async def test_a_response_that_is_closed_early_frees_its_place(make: Make) -> None:
    reply = H + b"content-length: 100000000\r\n\r\n"
    async with scripted(replies(reply, bytes(100_000))) as server, client(make(max_connections=1)) as http:
        for _ in range(3):
            async with http.stream("GET", server.url) as answer:
                assert answer.status_code == 200
        await eventually(lambda: server.open == 0)
        assert server.connections == 3


# --- connections


async def test_requests_at_once_have_connections_of_their_own_and_share_them_later(make: Make) -> None:
    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await eventually(lambda: server.connections >= 8)
            await peer.send(OK)

    async with scripted(script) as server, client(make(max_connections=8)) as http:
        answers = await asyncio.gather(*(http.get(server.url) for _ in range(24)))
        assert [answer.content for answer in answers] == [b"ok"] * 24
        assert server.connections == 8


async def test_a_connection_that_closes_after_its_response_is_replaced(make: Make) -> None:
    reply = H + b"connection: close\r\ncontent-length: 2\r\n\r\nok"
    async with scripted(replies(reply, close=True)) as server, client(make()) as http:
        for _ in range(3):
            assert (await http.get(server.url)).content == b"ok"
        assert server.connections == 3


async def test_a_connection_closed_while_idle_is_not_used(make: Make) -> None:
    async with scripted(replies(OK, close=True)) as server, client(make()) as http:
        for _ in range(3):
            assert (await http.get(server.url)).content == b"ok"
            await eventually(lambda: server.open == 0)


async def test_hosts_have_pools_of_their_own(make: Make) -> None:
    async with (
        scripted(replies(OK)) as one,
        scripted(replies(OK)) as two,
        client(make(max_connections=2)) as http,
    ):
        for server in (one, two, one, two):
            assert (await http.get(server.url)).content == b"ok"
        assert (one.connections, two.connections) == (1, 1)


async def test_a_unix_socket_is_reached(make: Make, tmp_path: Path) -> None:
    path = str(tmp_path / "service.sock")
    async with scripted(replies(OK), path=path), client(make(uds=path)) as http:
        assert (await http.get("http://any.example/x")).content == b"ok"


async def test_closing_the_client_closes_the_connections(make: Make) -> None:
    async with scripted(replies(OK)) as server:
        async with client(make()) as http:
            await http.get(server.url)
            assert server.open == 1
        await eventually(lambda: server.open == 0)


@pytest.mark.parametrize("when", ["head", "body"])
async def test_a_cancelled_request_leaves_nothing_behind(make: Make, when: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        if server.connections == 1:
            if when == "body":
                await peer.send(H + b"content-length: 10\r\n\r\n12345")
            await peer.gone()
        else:
            await peer.send(OK)

    server: Scripted
    async with scripted(script) as server, client(make(max_connections=1)) as http:
        asking = asyncio.ensure_future(http.get(server.url))
        await eventually(lambda: server.open == 1)
        await asyncio.sleep(0.02)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await eventually(lambda: server.open == 0)
        assert (await http.get(server.url)).content == b"ok"


# --- trouble


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (b"", httpx.RemoteProtocolError),
        (b"HTTP/1.1 200 OK\r\ncontent-le", httpx.RemoteProtocolError),
        (b"SSH-2.0-OpenSSH_9.2\r\n", httpx.RemoteProtocolError),
        (H + b"content-length: 10\r\n\r\n12345", httpx.RemoteProtocolError),
        (H + b"transfer-encoding: chunked\r\n\r\n5\r\n12", httpx.RemoteProtocolError),
        (H + b"transfer-encoding: chunked\r\n\r\nzz\r\n", httpx.RemoteProtocolError),
        (H + b"content-length: 5\r\ncontent-length: 6\r\n\r\n12345", httpx.RemoteProtocolError),
    ],
    ids=["nothing", "half a head", "garbage", "half a body", "half a chunk", "bad chunk", "two lengths"],
)
async def test_a_broken_response_is_an_error(make: Make, reply: bytes, error: type[Exception]) -> None:
    async with scripted(replies(reply, close=True)) as server, client(make(max_connections=1)) as http:
        for _ in range(2):  # its place is free again
            with pytest.raises(error):
                await http.get(server.url)


async def test_a_refused_connection_is_a_connect_error(make: Make) -> None:
    async with scripted(replies(OK)) as server:
        url = server.url
    async with client(make()) as http:
        with pytest.raises(httpx.ConnectError):
            await http.get(url)


async def test_an_unresolvable_host_is_a_connect_error(make: Make) -> None:
    async with client(make()) as http:
        with pytest.raises(httpx.ConnectError):
            await http.get("http://no-such-host.invalid/")


async def test_a_silent_server_is_a_read_timeout(make: Make) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.gone()

    async with (
        scripted(script) as server,
        client(make(max_connections=1), httpx.Timeout(5, read=0.05)) as http,
    ):
        for _ in range(2):
            with pytest.raises(httpx.ReadTimeout):
                await http.get(server.url)


async def test_a_stalled_body_is_a_read_timeout(make: Make) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(H + b"content-length: 10\r\n\r\n12345")
        await peer.gone()

    async with scripted(script) as server, client(make(), httpx.Timeout(5, read=0.05)) as http:
        with pytest.raises(httpx.ReadTimeout):
            await http.get(server.url)


async def test_a_server_that_takes_nothing_is_a_write_timeout(make: Make) -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        await asyncio.sleep(60)

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield bytes(256 * 1024)

    async with scripted(script) as server, client(make(), httpx.Timeout(5, write=0.05)) as http:
        with pytest.raises(httpx.WriteTimeout):
            await http.post(server.url, content=endless())


async def test_a_full_pool_is_a_pool_timeout(make: Make) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.gone()

    async with (
        scripted(script) as server,
        client(make(max_connections=1), httpx.Timeout(5, pool=0.05)) as http,
    ):
        first = asyncio.ensure_future(http.get(server.url))
        await eventually(lambda: server.open == 1)
        with pytest.raises(httpx.PoolTimeout):
            await http.get(server.url)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)


async def test_an_unknown_certificate_is_a_connect_error(make: Make, tmp_path: Path) -> None:
    from tests.integration.test_upstream_bodies import certificate

    server_tls, client_tls = certificate(tmp_path)
    async with scripted(replies(OK), tls=server_tls) as server:
        async with client(make(verify=client_tls)) as http:
            assert (await http.get(f"https://localhost:{server.port}/")).content == b"ok"
        async with client(make()) as http:
            with pytest.raises(httpx.ConnectError):
                await http.get(f"https://localhost:{server.port}/")


async def test_an_answer_before_the_end_of_the_upload_arrives() -> None:
    """Beyond the oracle, which first sends everything."""

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(b"HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\n\r\n")
        await peer.gone()

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield bytes(64 * 1024)
            await asyncio.sleep(0)

    async with scripted(script) as server, client(PoolTransport()) as http:
        assert (await http.post(server.url, content=endless())).status_code == 413
        await eventually(lambda: server.open == 0)
