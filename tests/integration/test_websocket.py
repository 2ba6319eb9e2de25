"""WebSockets through the real gateway: to services that speak it well, badly, or not at all."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import time
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import redis
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.http11 import Request, Response
from websockets.typing import Origin, Subprotocol

from kernel.server.embedded_store import EmbeddedStore
from tests.support.gateway import GatewayFactory, GatewayProcess, free_port
from tests.support.raw import send_raw
from tests.support.stack import lone_env
from tests.support.tokens import access_token

PATH = "/api/v1/training/ws"
IDLE = 1.5
LIMIT = 2 * 1024 * 1024
Serve = Callable[[ServerConnection], Awaitable[None]]


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def gateway(gateway_factory: GatewayFactory, session_store: EmbeddedStore, port: int) -> GatewayProcess:
    return gateway_factory(env(port, session_store))


def env(port: int, store: EmbeddedStore, **changes: str) -> dict[str, str]:
    return lone_env(
        port,
        store,
        CORS_ORIGINS="https://app.example.com",
        WEBSOCKET_IDLE_TIMEOUT_SECONDS=str(IDLE),
        WEBSOCKET_MAX_MESSAGE_BYTES=str(LIMIT),
        REQUEST_TIMEOUT_SECONDS="0.5",
        **changes,
    )


@contextlib.asynccontextmanager
async def service(port: int, handler: Serve, **options: Any) -> AsyncIterator[list[Request]]:
    """A training service; yields the requests of its handshakes."""
    seen: list[Request] = []

    async def noting(connection: ServerConnection) -> None:
        assert connection.request is not None
        seen.append(connection.request)
        with contextlib.suppress(ConnectionClosed):
            await handler(connection)

    async with serve(noting, "127.0.0.1", port, compression=None, max_size=None, **options):
        yield seen


def bearer(**claims: Any) -> dict[str, str]:
    return {"Authorization": "Bearer " + access_token(**claims).decode()}


def opened(gateway: GatewayProcess, path: str = PATH, **options: Any) -> connect:
    options.setdefault("additional_headers", bearer())
    options.setdefault("compression", None)
    options.setdefault("max_size", None)
    return connect(f"ws://127.0.0.1:{gateway.port}{path}", proxy=None, **options)


async def echo(connection: ServerConnection) -> None:
    async for message in connection:
        await connection.send(message)


async def refusal(gateway: GatewayProcess, path: str = PATH, **options: Any) -> Response:
    with pytest.raises(InvalidStatus) as caught:
        async with opened(gateway, path, **options):
            pass
    return caught.value.response


async def end_of(client: ClientConnection) -> tuple[int | None, str | None]:
    async with asyncio.timeout(10):
        with contextlib.suppress(ConnectionClosed):
            while True:
                await client.recv()
    return client.close_code, client.close_reason


def metric(gateway: GatewayProcess, name: str) -> float:
    with urllib.request.urlopen(f"{gateway.url}/metrics", timeout=5) as answer:
        text = answer.read().decode()
    return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name))


# --- messages


async def test_messages_pass_both_ways_as_they_are(gateway: GatewayProcess, port: int) -> None:
    async with service(port, echo) as seen, opened(gateway, PATH + "?job=7&x=%20") as client:
        for message in ("text", "ñ€\N{BREAD}", "", b"", b"\x00\xff", "x" * 1024 * 1024, bytes(1024 * 1024)):
            await client.send(message)
            assert await client.recv() == message
        assert seen[0].path == PATH + "?job=7&x=%20"


async def test_fragments_from_both_sides_arrive_joined(gateway: GatewayProcess, port: int) -> None:
    async def fragmenting(connection: ServerConnection) -> None:
        await connection.send(["a", "b", str(await connection.recv())])

    async with service(port, fragmenting), opened(gateway) as client:
        await client.send(["one", "two", "", "three"])
        assert await client.recv() == "abonetwothree"


async def test_many_messages_keep_their_order(gateway: GatewayProcess, port: int) -> None:
    async with service(port, echo), opened(gateway) as client:

        async def send() -> None:
            for number in range(3000):
                await client.send(str(number))

        sending = asyncio.create_task(send())
        got = [int(await client.recv()) for _ in range(3000)]
        await sending
        assert got == list(range(3000))


async def test_what_the_service_says_last_arrives_before_its_close(
    gateway: GatewayProcess, port: int
) -> None:
    async def farewell(connection: ServerConnection) -> None:
        for number in range(20):
            await connection.send(str(number))
        await connection.close(4000, "done")

    async with service(port, farewell), opened(gateway) as client:
        await client.send("anything")
        got = [await client.recv() for _ in range(20)]
        assert got == [str(number) for number in range(20)]
        assert await end_of(client) == (4000, "done")


# --- the handshake


async def test_the_service_sees_who_calls_and_none_that_was_forged(
    gateway: GatewayProcess, port: int
) -> None:
    headers = bearer(tenant_id="t-1") | {"X-User-Id": "forged", "x_tenant_id": "forged", "X-Custom": "kept"}
    async with service(port, echo) as seen, opened(gateway, additional_headers=headers) as client:
        await client.ping()
    sent = seen[0].headers
    assert sent.get_all("x-user-id") != ["forged"]
    assert sent["x-tenant-id"] == "t-1"
    assert sent["x-forwarded-by"] == "bakery-gateway"
    assert sent["x-custom"] == "kept"
    assert sent.get_all("host") == [f"127.0.0.1:{port}"]
    assert "x_tenant_id" not in sent
    assert "sec-websocket-extensions" not in sent


async def test_the_service_chooses_the_subprotocol(gateway: GatewayProcess, port: int) -> None:
    offered = [Subprotocol("v1"), Subprotocol("v2")]
    async with (
        service(port, echo, subprotocols=[Subprotocol("v2")]),
        opened(gateway, subprotocols=offered) as client,
    ):
        assert client.subprotocol == "v2"


@pytest.mark.parametrize("others", [[], [Subprotocol("v2")]])
async def test_a_token_may_come_as_a_subprotocol(
    gateway: GatewayProcess, port: int, others: list[Subprotocol]
) -> None:
    offered = [Subprotocol("bearer"), Subprotocol(access_token().decode()), *others]
    async with (
        service(port, echo, subprotocols=others or None) as seen,
        opened(gateway, additional_headers={}, subprotocols=offered) as client,
    ):
        assert client.subprotocol == (others[0] if others else "bearer")
        assert seen[0].headers.get_all("sec-websocket-protocol") == list(others)


async def test_a_token_may_come_in_the_query_and_goes_no_further(gateway: GatewayProcess, port: int) -> None:
    path = f"{PATH}?token={access_token().decode()}&job=7"
    async with service(port, echo) as seen, opened(gateway, path, additional_headers={}) as client:
        await client.send("x")
        assert await client.recv() == "x"
    assert seen[0].path == PATH + "?job=7"


@pytest.mark.parametrize(
    ("path", "headers", "status", "code"),
    [
        (PATH, {}, 401, "token-missing"),
        (PATH, {"Authorization": "Bearer x.y.z"}, 401, "token-malformed"),
        ("/api/v1/inventory/items", None, 404, "route-unknown"),
        ("/nowhere", None, 404, "route-unknown"),
        (PATH, {"X-Tenant-ID": "another"}, 403, "tenant-forbidden"),
        (PATH, {"Origin": "https://evil.example"}, 403, "origin-forbidden"),
        (PATH, {"Origin": "null"}, 403, "origin-forbidden"),
    ],
)
async def test_a_refused_handshake_is_a_problem_document(
    gateway: GatewayProcess, port: int, path: str, headers: dict[str, str] | None, status: int, code: str
) -> None:
    known = bearer() if headers is None or "X-Tenant-ID" in headers or "Origin" in headers else {}
    async with service(port, echo) as seen:
        answer = await refusal(gateway, path, additional_headers={**known, **(headers or {})})
        assert answer.status_code == status
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.headers["x-request-id"]
        assert f'"code":"{code}"'.encode() in bytes(answer.body or b"")
        assert seen == []


@pytest.mark.parametrize("origin", ["https://app.example.com", "same"])
async def test_a_page_of_a_known_origin_may_open_a_socket(
    gateway: GatewayProcess, port: int, origin: str
) -> None:
    named = Origin(gateway.url if origin == "same" else origin)
    async with service(port, echo), opened(gateway, origin=named) as client:
        await client.send("x")
        assert await client.recv() == "x"


def test_a_plain_request_learns_that_a_websocket_is_served(gateway: GatewayProcess) -> None:
    head = b"GET %b HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer %b\r\nConnection: close\r\n\r\n"
    answer = send_raw(gateway.port, head % (PATH.encode(), access_token()))
    assert answer.startswith(b"HTTP/1.1 426 ")
    assert b"\r\nupgrade: websocket\r\n" in answer.lower()


@pytest.mark.parametrize("protocol", [b"\x80", b"bearer", b"bearer, ", b"a, \xff\xfe", b"," * 100])
async def test_an_odd_offer_of_subprotocols_harms_nobody(
    gateway: GatewayProcess, port: int, protocol: bytes
) -> None:
    head = (
        b"GET %b HTTP/1.1\r\nHost: t\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: %b\r\n\r\n"
    )
    await asyncio.to_thread(send_raw, gateway.port, head % (PATH.encode(), protocol), 0.3)
    async with service(port, echo), opened(gateway) as client:
        await client.send("alive")
        assert await client.recv() == "alive"


# --- the service fails


@pytest.mark.parametrize("status", [401, 403, 404, 429, 500, 503])
async def test_a_service_that_refuses_is_quoted(gateway: GatewayProcess, port: int, status: int) -> None:
    def refuse(connection: ServerConnection, request: Request) -> Response:
        return connection.respond(status, "no job 7\n")

    async with service(port, echo, process_request=refuse):
        answer = await refusal(gateway)
        assert (answer.status_code, bytes(answer.body or b"")) == (status, b"no job 7\n")
        assert answer.headers["x-request-id"]


async def recovered(gateway: GatewayProcess, port: int) -> None:
    """Should that have been one failure too many, the breaker is closed again: the next test has another service."""
    async with service(port, echo), asyncio.timeout(15):
        while True:
            with contextlib.suppress(InvalidStatus):
                async with opened(gateway):
                    return
            await asyncio.sleep(0.1)


async def raw_service(port: int, reply: bytes | None) -> asyncio.Server:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, OSError):
            await reader.readuntil(b"\r\n\r\n")
            if reply is None:
                await reader.read()
            else:
                writer.write(reply)
                await writer.drain()
        writer.close()

    return await asyncio.start_server(handle, "127.0.0.1", port)


@pytest.mark.parametrize(
    ("reply", "status", "code"),
    [
        (b"", 502, "upstream-reset"),
        (b"garbage\r\n\r\n", 502, "upstream-protocol"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", 502, "upstream-protocol"),
        (
            b"HTTP/1.1 302 Found\r\nlocation: http://evil.example/\r\ncontent-length: 0\r\n\r\n",
            502,
            "upstream-protocol",
        ),
        (
            b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n",
            502,
            "upstream-protocol",
        ),
        (None, 504, "upstream-timeout"),
    ],
    ids=["nothing", "garbage", "200", "redirect", "bad accept", "silence"],
)
async def test_a_service_that_speaks_no_websocket_is_a_bad_gateway(
    gateway: GatewayProcess, port: int, reply: bytes | None, status: int, code: str
) -> None:
    server = await raw_service(port, reply)
    async with server:
        answer = await refusal(gateway)
        assert answer.status_code == status
        assert f'"code":"{code}"'.encode() in bytes(answer.body or b"")
    await recovered(gateway, port)


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"HTTP/1.1\r\nSec-WebSocket-Key: abc\r\n", 400),
        (b"HTTP/1.1\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAB==\r\n", 400),
        (b"HTTP/1.0\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n", 426),
        (b"HTTP/1.1\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nContent-Length: 2\r\n", 400),
        (b"HTTP/1.1\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nTransfer-Encoding: chunked\r\n", 400),
        (
            b"HTTP/1.1\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nOrigin: https://app.example.com\r\n"
            b"Access-Control-Request-Method: GET\r\n",
            400,
        ),
    ],
)
def test_a_handshake_that_is_none_is_refused(gateway: GatewayProcess, head: bytes, status: int) -> None:
    answer = send_raw(
        gateway.port,
        b"GET %b %bHost: t\r\nAuthorization: Bearer %b\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\n\r\n" % (PATH.encode(), head, access_token()),
    )
    assert answer.split(b" ")[1] == b"%d" % status, answer[:200]


async def test_bytes_are_counted_as_they_are_on_the_wire(gateway: GatewayProcess, port: int) -> None:
    async with service(port, echo), opened(gateway, PATH + "?bytes") as client:
        await client.send("ñ" * 10)
        await client.recv()
    deadline = time.monotonic() + 5
    while '"bytes_in":20,"bytes_out":20' not in gateway.log():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


async def test_a_service_that_is_down_is_a_bad_gateway(gateway: GatewayProcess, port: int) -> None:
    answer = await refusal(gateway)
    assert answer.status_code == 502
    assert b'"code":"upstream-connect"' in bytes(answer.body or b"")
    await recovered(gateway, port)


async def test_a_service_that_vanishes_is_told_as_such(gateway: GatewayProcess, port: int) -> None:
    async def vanish(connection: ServerConnection) -> None:
        await connection.recv()
        connection.transport.abort()

    async with service(port, vanish), opened(gateway) as client:
        await client.send("x")
        assert await end_of(client) == (1014, "the service vanished")


# --- the end


@pytest.mark.parametrize(
    ("code", "reason"), [(1000, ""), (1001, "later"), (1011, "broken"), (3000, "ñandú"), (4999, "x" * 123)]
)
async def test_a_close_of_the_service_reaches_the_client(
    gateway: GatewayProcess, port: int, code: int, reason: str
) -> None:
    async def close(connection: ServerConnection) -> None:
        await connection.close(code, reason)

    async with service(port, close), opened(gateway) as client:
        assert await end_of(client) == (code, reason)


@pytest.mark.parametrize(("code", "reason"), [(1000, ""), (1001, ""), (4000, "bye")])
async def test_a_close_of_the_client_reaches_the_service(
    gateway: GatewayProcess, port: int, code: int, reason: str
) -> None:
    ended: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()

    async def wait(connection: ServerConnection) -> None:
        await connection.wait_closed()
        ended.set_result(connection.close_code)

    async with service(port, wait):
        async with opened(gateway) as client:
            await client.close(code, reason)
        async with asyncio.timeout(5):
            assert await ended == code


async def test_a_client_that_vanishes_is_told_to_the_service(gateway: GatewayProcess, port: int) -> None:
    ended: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()

    async def wait(connection: ServerConnection) -> None:
        await connection.wait_closed()
        ended.set_result(connection.close_code)

    async with service(port, wait):
        async with opened(gateway) as client:
            client.transport.abort()
        async with asyncio.timeout(5):
            assert await ended == 1005  # the server does not tell a vanished client from one without a status


async def test_silence_ends_a_socket_and_any_message_keeps_it(gateway: GatewayProcess, port: int) -> None:
    async with service(port, echo), opened(gateway) as client:
        for _ in range(4):
            await asyncio.sleep(IDLE / 2)
            await client.send("x")
            await client.recv()
        assert await end_of(client) == (1001, "idle")


async def test_a_message_too_large_ends_the_socket(gateway: GatewayProcess, port: int) -> None:
    async with service(port, echo), opened(gateway) as client:
        await client.send(bytes(LIMIT))
        assert len(await client.recv()) == LIMIT
        await client.send(bytes(LIMIT + 1))
        assert (await end_of(client))[0] == 1009

    async def large(connection: ServerConnection) -> None:
        await connection.send(bytes(LIMIT + 1))
        await connection.wait_closed()

    async with service(port, large), opened(gateway) as client:
        assert (await end_of(client))[0] == 1009


async def test_text_that_is_no_utf8_ends_the_socket(gateway: GatewayProcess, port: int) -> None:
    async def lie(connection: ServerConnection) -> None:
        await connection.send(b"\xff\xfe", text=True)
        await connection.wait_closed()

    async with service(port, lie), opened(gateway) as client:
        assert (await end_of(client))[0] == 1007


async def test_a_token_that_expires_ends_the_socket(gateway: GatewayProcess, port: int) -> None:
    headers = bearer(exp=int(time.time()) + 2)
    async with service(port, echo), opened(gateway, additional_headers=headers) as client:

        async def talk() -> None:
            while True:
                await client.send("still here")
                await asyncio.sleep(IDLE / 4)

        talking = asyncio.create_task(talk())
        assert await end_of(client) == (4401, "token-expired")
        talking.cancel()
        await asyncio.gather(talking, return_exceptions=True)


async def test_a_lock_ends_the_socket_and_keeps_others_out(
    gateway: GatewayProcess, port: int, redis_cli: redis.Redis
) -> None:
    headers = bearer(tenant_id="t-locked")
    async with service(port, echo), opened(gateway, additional_headers=headers) as client:
        redis_cli.set("tenant:t-locked:read_only", "stocktaking")
        try:
            assert await end_of(client) == (4403, "tenant-read-only")
            answer = await refusal(gateway, additional_headers=headers)
            assert answer.status_code == 403
        finally:
            redis_cli.delete("tenant:t-locked:read_only")


@pytest.mark.parametrize("ctrl_c", [False, True])
async def test_a_drain_ends_sockets_with_restart(
    gateway_factory: GatewayFactory, session_store: EmbeddedStore, port: int, ctrl_c: bool
) -> None:
    gateway = await asyncio.to_thread(gateway_factory, env(port, session_store))
    async with service(port, echo), opened(gateway) as client:
        await client.send("x")
        await client.recv()
        if ctrl_c:
            os.killpg(gateway.process.pid, signal.SIGINT)  # as a terminal does: the workers get it too
        else:
            gateway.process.send_signal(signal.SIGTERM)
        assert await end_of(client) == (1012, "restart")
        assert await asyncio.to_thread(gateway.stop) == 0


# --- many, slow and rude ones


def resident(gateway: GatewayProcess) -> int:
    """Bytes of memory the worker has now."""
    parent = gateway.process.pid
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    pages = max(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in children)
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("direction", ["up", "down"])
async def test_a_fast_sender_waits_for_a_slow_receiver(
    gateway: GatewayProcess, port: int, direction: str
) -> None:
    blocked = asyncio.Event()

    async def slow(connection: ServerConnection) -> None:
        await blocked.wait()

    async def flood(connection: ServerConnection | ClientConnection) -> int:
        sent = 0
        with contextlib.suppress(ConnectionClosed, TimeoutError):
            async with asyncio.timeout(IDLE * 0.8):
                while sent < 256:
                    await connection.send(bytes(1024 * 1024))
                    sent += 1
        return sent

    result = asyncio.get_running_loop().create_future()

    async def flooding(connection: ServerConnection) -> None:
        result.set_result(await flood(connection))

    before = resident(gateway)
    if direction == "up":
        async with service(port, slow, max_queue=1), opened(gateway) as client:
            assert await flood(client) < 128
            assert resident(gateway) - before < 48 * 1024 * 1024
            client.transport.abort()
            blocked.set()
    else:
        async with service(port, flooding), opened(gateway, max_queue=1) as client:
            assert await result < 128
            assert resident(gateway) - before < 48 * 1024 * 1024
            client.transport.abort()


async def test_sockets_that_end_in_any_way_leave_nothing_behind(gateway: GatewayProcess, port: int) -> None:
    choice = random.Random(7)  # a schedule, not a secret

    async def moody(connection: ServerConnection) -> None:
        mood = choice.random()
        if mood < 0.2:
            connection.transport.abort()
        elif mood < 0.4:
            await connection.close(4000, "mood")
        else:
            await echo(connection)

    async def one() -> None:
        with contextlib.suppress(ConnectionClosed, OSError, EOFError, TimeoutError, InvalidStatus):
            async with opened(gateway, open_timeout=5) as client:
                for _ in range(choice.randrange(4)):
                    await client.send("x" * choice.randrange(10_000))
                    if choice.random() < 0.5:
                        await client.recv()
                if choice.random() < 0.5:
                    client.transport.abort()

    async with service(port, moody):
        await asyncio.gather(*(one() for _ in range(150)))
        async with asyncio.timeout(10):
            while await asyncio.to_thread(metric, gateway, "gateway_websocket_connections "):
                await asyncio.sleep(0.02)
        assert metric(gateway, "gateway_requests_in_flight ") == 0
    assert "unhandled error" not in gateway.log()
    assert "exception" not in gateway.log().lower().replace("exceptiongroup", "")
