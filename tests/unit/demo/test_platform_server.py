"""The stub services' HTTP server: framing, order, back-pressure and cancellation, over raw sockets."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from demo.platform.messages import Request, Response, reply
from demo.platform.server import Connection, Server
from demo.platform.service import Service
from demo.platform.tools import equip

ECHO = "/api/v1/oven/echo"


@pytest.fixture
async def service() -> AsyncIterator[tuple[Service, int]]:
    made = Service("oven")
    equip(made)
    port = await made.server.start("127.0.0.1", 0)
    yield made, port
    await made.server.stop()


@contextlib.asynccontextmanager
async def connected(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def response(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = dict(line.split(": ", 1) for line in head[1:] if line)
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return int(head[0].split()[1]), headers, body


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


async def test_pipelined_requests_are_answered_in_order(service: tuple[Service, int]) -> None:
    async with connected(service[1]) as (reader, writer):
        slow = b"GET /api/v1/oven/slow?ms=30 HTTP/1.1\r\nHost: x\r\n\r\n"
        writer.write(
            slow + b"".join(b"GET %b?%d HTTP/1.1\r\nHost: x\r\n\r\n" % (ECHO.encode(), n) for n in range(40))
        )
        assert json.loads((await response(reader))[2]) == {"waited_ms": 30}
        for number in range(40):
            _, _, body = await response(reader)
            assert json.loads(body)["target"] == f"{ECHO}?{number}"


async def test_echo_shows_target_and_headers_untouched_when_fed_byte_by_byte(
    service: tuple[Service, int],
) -> None:
    raw = (
        b"POST /api/v1/oven/echo/a%20b//c?q=%2F&q HTTP/1.1\r\nHost: x\r\nX-A: 1\r\nx-a:  2 \r\nX_A: \xe9\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n3\r\npan\r\n0\r\nX-Trailer: late\r\n\r\n"
    )
    async with connected(service[1]) as (reader, writer):
        for octet in raw:
            writer.write(bytes((octet,)))
            await asyncio.sleep(0)
        status, _, body = await response(reader)
    seen = json.loads(body)
    assert status == 200
    assert seen["target"] == "/api/v1/oven/echo/a%20b//c?q=%2F&q"
    assert seen["headers"] == [
        ["Host", "x"], ["X-A", "1"], ["x-a", "2 "], ["X_A", "\xe9"], ["Transfer-Encoding", "chunked"],
    ]  # fmt: skip
    assert (seen["body_length"], seen["body_text"]) == (3, "pan")
    assert seen["body_sha256"] == hashlib.sha256(b"pan").hexdigest()


async def test_malformed_request_is_refused_and_closes(service: tuple[Service, int]) -> None:
    async with connected(service[1]) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n")
        assert (await response(reader))[0] == 400
        assert await reader.read() == b""


async def test_client_that_leaves_cancels_the_handler() -> None:
    ended = asyncio.Event()

    async def forever(_: Request) -> Response:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        raise AssertionError

    server = Server(forever)
    port = await server.start("127.0.0.1", 0)
    async with connected(port) as (_, writer):
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await until(lambda: server.counters.in_flight == 1)
        await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await ended.wait()
    assert (server.counters.cancelled, server.counters.in_flight) == (1, 0)
    assert not server.connections
    await server.stop()


async def test_client_that_leaves_before_the_handler_began_leaks_nothing(
    service: tuple[Service, int],
) -> None:
    counters = service[0].server.counters
    for _ in range(20):
        async with connected(service[1]) as (_, writer):
            writer.write(b"GET /api/v1/oven/slow?ms=600000 HTTP/1.1\r\nHost: x\r\n\r\n")
            await writer.drain()
            writer.transport.abort()
    await until(lambda: not service[0].server.connections)
    assert counters.in_flight == 0


async def test_head_announces_the_length_without_a_body(service: tuple[Service, int]) -> None:
    async with connected(service[1]) as (reader, writer):
        writer.write(b"HEAD /api/v1/oven/bytes/1000 HTTP/1.1\r\nHost: x\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"content-length: 1000\r\n" in head
        writer.write(b"GET /api/v1/oven/status/418 HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await response(reader))[0] == 418


async def test_stream_to_http_1_0_ends_with_the_connection(service: tuple[Service, int]) -> None:
    async with connected(service[1]) as (reader, writer):
        writer.write(b"GET /api/v1/oven/stream?n=2 HTTP/1.0\r\n\r\n")
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head
    assert body == b'{"chunk":0}\n{"chunk":1}\n'


async def test_reader_that_stops_holds_the_stream_back(service: tuple[Service, int]) -> None:
    async with connected(service[1]) as (reader, writer):
        writer.write(b"GET /api/v1/oven/bytes/2000000000 HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        await until(lambda: bool(service[0].server.connections))
        (connection,) = service[0].server.connections
        assert isinstance(connection, Connection)
        await until(lambda: connection.paused)
        assert connection.unsent < 1 << 20


async def test_large_upload_is_digested_and_the_connection_stays_usable(service: tuple[Service, int]) -> None:
    body = bytes(range(256)) * 20_000
    async with connected(service[1]) as (reader, writer):
        for _ in range(2):
            writer.write(
                f"PUT {ECHO} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
            )
            seen = json.loads((await response(reader))[2])
            assert seen["body_length"] == len(body)
            assert seen["body_sha256"] == hashlib.sha256(body).hexdigest()


async def test_answer_before_the_upload_ended_keeps_the_connection_in_step(
    service: tuple[Service, int],
) -> None:
    body = bytes(4 << 20)
    async with connected(service[1]) as (reader, writer):
        head = f"POST /api/v1/oven/status/409 HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body[:5])
        assert (await response(reader))[0] == 409
        writer.write(body[5:] + b"GET /api/v1/oven/status/202 HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await response(reader))[0] == 202


async def test_expect_continue_is_answered(service: tuple[Service, int]) -> None:
    async with connected(service[1]) as (reader, writer):
        writer.write(
            f"POST {ECHO} HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n".encode()
        )
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"ok")
        assert json.loads((await response(reader))[2])["body_text"] == "ok"


@pytest.mark.parametrize("waits", [False, True])
async def test_failing_handler_is_a_500_and_counted(waits: bool, capfd: pytest.CaptureFixture[str]) -> None:
    async def later(_: Request) -> Response:
        raise RuntimeError("burnt")

    def at_once(_: Request) -> Response:
        raise RuntimeError("burnt")

    dispatch: Callable[[Request], Response | Awaitable[Response]] = later if waits else at_once
    server = Server(dispatch)
    port = await server.start("127.0.0.1", 0)
    async with connected(port) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await response(reader))[0] == 500
    await server.stop()
    assert server.counters.failures == 1
    assert "burnt" in capfd.readouterr().err


async def test_stopped_server_frees_its_port_and_drops_its_clients() -> None:
    server = Server(lambda _: reply({}))
    port = await server.start("127.0.0.1", 0)
    async with connected(port) as (reader, _):
        await until(lambda: bool(server.connections))
        await server.stop()
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
    assert await server.start("127.0.0.1", port) == port
    await server.stop()
