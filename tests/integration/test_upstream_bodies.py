"""Bodies both ways: streaming, back-pressure, early answers, clients that lie, stall or leave."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import pytest

from kernel.http.problems import (
    BAD_REQUEST,
    BODY_TIMEOUT,
    BODY_TOO_LARGE,
    CLIENT_GONE,
    UPSTREAM_CONNECT,
    UPSTREAM_RESET,
    UPSTREAM_TIMEOUT,
    GatewayError,
    ProblemKind,
)
from kernel.upstream.balance import Upstream
from kernel.upstream.http1 import HIGH_WATER
from tests.support.certificates import pair
from tests.support.scripted_upstream import (
    OK,
    Client,
    Peer,
    both_loops,
    eventually,
    relay,
    replies,
    scripted,
    upstream_of,
)

MIB = bytes(1024 * 1024)
LONG = bytes(20_000)  # too long to be read before the service is asked
H = b"HTTP/1.1 200 OK\r\n"


async def ask(upstream: Upstream, client: Client, timeout: float = 2.0) -> Client:
    await relay(client.x, upstream, b"accept: */*\r\n", timeout)
    return client


async def kind_of(upstream: Upstream, client: Client, timeout: float = 2.0) -> ProblemKind:
    with pytest.raises(GatewayError) as caught:
        await ask(upstream, client, timeout)
    return caught.value.problem.kind


async def read_chunked(peer: Peer) -> bytes:
    body = b""
    while size := int(await peer.reader.readuntil(b"\r\n"), 16):
        body += (await peer.reader.readexactly(size + 2))[:-2]
    assert await peer.reader.readexactly(2) == b"\r\n"
    return body


# --- uploads ---


@both_loops
async def test_a_body_of_known_length_streams() -> None:
    seen: list[bytes] = []

    async def script(peer: Peer) -> None:
        while True:
            seen.append(await peer.request())
            await peer.send(OK)

    async with scripted(script) as server, upstream_of(server.url) as upstream:
        for _ in range(2):
            client = await ask(upstream, Client("PUT", body=[b"a" * 100_000, b"b" * 100_000, b"c"]))
            assert (client.body, client.complete) == (b"ok", True)
        head, _, body = seen[1].partition(b"\r\n\r\n")
        assert body == b"a" * 100_000 + b"b" * 100_000 + b"c"
        assert head.count(b"content-length: 200001") == 1
        assert server.connections == 1  # a whole upload leaves the connection usable


@both_loops
async def test_a_body_of_unknown_length_streams_in_chunks() -> None:
    seen: list[bytes] = []

    async def script(peer: Peer) -> None:
        while True:
            assert b"transfer-encoding: chunked\r\n" in await peer.head()
            seen.append(await read_chunked(peer))
            await peer.send(OK)

    async with scripted(script) as server, upstream_of(server.url) as upstream:
        for _ in range(2):
            await ask(upstream, Client("POST", body=[LONG, b"", b"two", b"x" * 70_000], length=-1))
        assert seen == [LONG + b"two" + b"x" * 70_000] * 2
        assert server.connections == 1


@both_loops
@pytest.mark.parametrize("streamed", [False, True])
async def test_an_early_answer_to_an_unfinished_upload_arrives(streamed: bool) -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        reply = H + b"content-length: 9\r\n\r\n"
        await peer.send(b"HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\n\r\n" if not streamed else reply)
        if streamed:
            await eventually(lambda: client.head)
            await peer.send(b"early", b"bird")
        await peer.gone()

    async with scripted(script) as server, upstream_of(server.url) as upstream:
        client = Client("POST", body=[MIB], stall=True, length=1 << 30)
        await ask(upstream, client)
        # The end is held back for as long as the request comes: see kernel/exchange/linger.py.
        assert client.x.held is not None
        answer = client.body + client.x.held
        assert (client.status, answer) == ((200, b"earlybird") if streamed else (413, b""))
        assert (b"connection", b"close") in client.headers
        await eventually(lambda: server.open == 0)  # half a request was sent on it: never used again


@both_loops
async def test_an_early_answer_that_closes_arrives_though_the_service_takes_nothing_more() -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(H + b"connection: close\r\n\r\nearly")
        peer.writer.write_eof()
        await eventually(lambda: client.complete)

    async with scripted(script) as server, upstream_of(server.url) as upstream:
        client = Client("POST", body=[MIB] * 64)
        await ask(upstream, client)
        assert (client.status, client.body) == (200, b"early")


@both_loops
async def test_an_endless_upload_to_a_slow_service_is_held_back() -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        await asyncio.sleep(60)

    async with scripted(script) as server, upstream_of(server.url, idle_timeout=0.3) as upstream:
        client = Client("POST", body=[bytes(64 * 1024)] * 4096, length=1 << 40)
        running = asyncio.ensure_future(kind_of(upstream, client))
        pool = upstream.replicas[0].pool
        await eventually(lambda: pool.busy)
        connection = next(iter(pool.busy))
        peak = 0
        while not running.done():
            if not connection.closed:
                peak = max(peak, connection.transport.get_write_buffer_size())
            await asyncio.sleep(0.01)
        assert await running is UPSTREAM_TIMEOUT
        assert peak <= 192 * 1024
        assert client.pulled * 64 * 1024 < 16 * 1024 * 1024  # the rest fills socket buffers


@both_loops
async def test_a_client_that_stops_sending_is_a_408() -> None:
    async with scripted(replies(OK)) as server, upstream_of(server.url, body_timeout=0.05) as upstream:
        for body, length in (([], 9), ([b"a"], 9), ([], -1), ([LONG], 30_000)):
            assert server.connections == 0
            with pytest.raises(GatewayError) as caught:
                await ask(upstream, Client("POST", body=body, stall=True, length=length))
            assert caught.value.problem.kind is BODY_TIMEOUT
            assert (b"connection", b"close") in caught.value.problem.headers
        await eventually(lambda: server.open == 0)


@both_loops
@pytest.mark.parametrize(
    ("body", "length"),
    [
        ([b"1234", b"5678"], 7),
        ([b"1234", b"56", b"78"], 7),
        ([b"12345678"], 7),
        ([LONG, b"1234", b"5678"], len(LONG) + 7),
        ([LONG, b"1234", b"56", b"78"], len(LONG) + 7),
    ],
)
async def test_a_body_longer_than_its_length_never_reaches_the_service_whole(
    body: list[bytes], length: int
) -> None:
    seen = bytearray()

    async def script(peer: Peer) -> None:
        while data := await peer.reader.read(1000):
            seen.extend(data)

    async with scripted(script) as server, upstream_of(server.url) as upstream:
        assert await kind_of(upstream, Client("POST", body=body, length=length)) is BAD_REQUEST
        await eventually(lambda: server.open == 0)
        assert len(seen.partition(b"\r\n\r\n")[2]) <= length


@both_loops
@pytest.mark.parametrize("body", [[b"123"], [b"12", b"3"], [LONG, b"3"]])
async def test_a_body_shorter_than_its_length_is_a_400(body: list[bytes]) -> None:
    async def script(peer: Peer) -> None:
        await peer.gone()

    async with scripted(script) as server, upstream_of(server.url) as upstream:
        client = Client("POST", body=body, length=sum(map(len, body)) + 4)
        assert await kind_of(upstream, client) is BAD_REQUEST
        await eventually(lambda: server.open == 0)


@both_loops
@pytest.mark.parametrize("body", [[b"123", b"456"], [LONG, b"456"]])
async def test_a_body_over_the_limit_ends_the_request(body: list[bytes]) -> None:
    async def script(peer: Peer) -> None:
        await peer.gone()

    async with scripted(script) as server, upstream_of(server.url) as upstream:
        client = Client("POST", body=body, length=-1)
        client.x.max_body = len(body[0]) + 2
        assert await kind_of(upstream, client) is BODY_TOO_LARGE
        await eventually(lambda: server.open == 0)


# --- clients that leave ---


@both_loops
@pytest.mark.parametrize("phase", ["upload", "head", "body", "slow"])
async def test_the_request_is_cancelled_when_its_client_leaves(phase: str) -> None:
    asked = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.head()
        asked.set()
        if phase in {"body", "slow"}:
            await peer.send(H + b"content-length: 100000000\r\n\r\nsome")
        while phase == "slow" and not client.left.is_set():
            await peer.send(b"a" * 65536)
        await peer.gone()

    client = Client("POST", body=[LONG], stall=True, length=30_000) if phase == "upload" else Client()
    if phase == "slow":
        client.taking.clear()
    async with scripted(script) as server, upstream_of(server.url) as upstream:
        running = asyncio.ensure_future(kind_of(upstream, client, 30.0))
        await asked.wait()
        if phase in {"body", "slow"}:
            await eventually(lambda: client.head)
        client.leave()
        assert await running is CLIENT_GONE
        assert not client.complete
        await eventually(lambda: server.open == 0)
        assert upstream.breaker_state == "closed"


@both_loops
async def test_a_cancelled_exchange_gives_everything_back() -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.gone()

    async with scripted(script) as server, upstream_of(server.url) as upstream:
        running = asyncio.ensure_future(ask(upstream, Client()))
        await eventually(lambda: server.open)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        await eventually(lambda: server.open == 0)


# --- downloads ---


@both_loops
async def test_an_endless_response_to_a_slow_reader_is_held_back() -> None:
    sent = 0

    async def script(peer: Peer) -> None:
        nonlocal sent
        await peer.head()
        await peer.send(H + b"content-length: 1000000000\r\n\r\n")
        while True:
            await peer.send(bytes(65536))
            sent += 65536

    async with scripted(script) as server, upstream_of(server.url) as upstream:
        client = Client()
        client.taking.clear()
        running = asyncio.ensure_future(kind_of(upstream, client))
        pool = upstream.replicas[0].pool
        await eventually(lambda: pool.busy and sent)
        connection = next(iter(pool.busy))
        peak, before = 0, -1
        while before != sent:  # until the service is held back
            before = sent
            for _ in range(20):
                peak = max(peak, sum(map(len, connection.chunks)))
                await asyncio.sleep(0.002)
        assert 0 < peak <= HIGH_WATER + 256 * 1024
        assert sent < 32 * 1024 * 1024
        client.taking.set()  # it reads on: the rest flows again
        await eventually(lambda: sent > before + 1024 * 1024)
        client.leave()
        assert await running is CLIENT_GONE


@both_loops
async def test_a_client_that_stops_reading_is_given_up() -> None:
    script = replies(H + b"content-length: 90000000\r\n\r\n", *[MIB] * 80)
    async with scripted(script) as server, upstream_of(server.url, idle_timeout=0.1) as upstream:
        client = Client()
        client.taking.clear()
        assert await kind_of(upstream, client) is CLIENT_GONE
        assert not client.complete
        await eventually(lambda: server.open == 0)


@both_loops
@pytest.mark.parametrize("chunked", [False, True])
async def test_a_long_response_streams_whole_and_its_connection_serves_again(chunked: bool) -> None:
    part = bytes(range(256)) * 1024
    head = H + (
        b"transfer-encoding: chunked\r\n\r\n" if chunked else b"content-length: %d\r\n\r\n" % (8 * len(part))
    )
    parts = [b"%x\r\n%b\r\n" % (len(part), part) if chunked else part] * 8 + [b"0\r\n\r\n"] * chunked
    async with scripted(replies(head, *parts)) as server, upstream_of(server.url) as upstream:
        for _ in range(2):
            client = await ask(upstream, Client())
            assert client.complete
            assert client.body == part * 8
        assert server.connections == 1
        idle = upstream.replicas[0].pool.idle[0]
        assert not idle.chunks  # at rest it holds nothing


# --- TLS ---


def certificate(directory: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's context and a client's that trusts it, for 127.0.0.1's name `localhost`."""
    chain, key = pair(directory)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(chain, key)
    return server, ssl.create_default_context(cafile=chain)


@both_loops
async def test_https_services_are_verified_and_served(tmp_path: Path) -> None:
    server_tls, client_tls = certificate(tmp_path)
    async with scripted(replies(OK), tls=server_tls) as server:
        async with upstream_of(f"https://localhost:{server.port}", tls=client_tls) as upstream:
            for _ in range(2):
                assert (await ask(upstream, Client())).body == b"ok"
            assert server.connections == 1
        # Neither an unknown issuer nor another name is accepted.
        async with upstream_of(f"https://localhost:{server.port}") as upstream:
            assert await kind_of(upstream, Client()) is UPSTREAM_CONNECT
        async with upstream_of(f"https://127.0.0.1:{server.port}", tls=client_tls) as upstream:
            assert await kind_of(upstream, Client()) is UPSTREAM_CONNECT


@both_loops
async def test_a_tls_stream_cut_without_goodbye_never_ends_cleanly(tmp_path: Path) -> None:
    server_tls, client_tls = certificate(tmp_path)

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(H + b"\r\nok")
        await eventually(lambda: client.body == b"ok")
        peer.writer.transport.abort()  # SECURITY: what anyone on the way can do

    client = Client()
    async with (
        scripted(script, tls=server_tls) as server,
        upstream_of(f"https://localhost:{server.port}", tls=client_tls) as upstream,
    ):
        assert await kind_of(upstream, client) is UPSTREAM_RESET
        assert not client.complete


@both_loops
async def test_a_tls_stream_that_says_goodbye_ends_cleanly(tmp_path: Path) -> None:
    server_tls, client_tls = certificate(tmp_path)

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(H + b"\r\nok")

    client = Client()
    async with (
        scripted(script, tls=server_tls) as server,
        upstream_of(f"https://localhost:{server.port}", tls=client_tls) as upstream,
    ):
        await ask(upstream, client)
        assert (client.body, client.complete) == (b"ok", True)
