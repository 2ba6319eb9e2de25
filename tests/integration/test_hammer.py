"""Hundreds of clients that leave at random moments, services that break at random: nothing leaks, nobody else notices."""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import urllib.request

import pytest

from kernel.server.embedded_store import EmbeddedStore
from tests.support.gateway import GatewayFactory, GatewayProcess, free_port
from tests.support.poll import poll
from tests.support.stack import lone_env
from tests.support.tokens import access_token

CLIENTS = 400
AT_ONCE = 80
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def gateway(gateway_factory: GatewayFactory, session_store: EmbeddedStore, port: int) -> GatewayProcess:
    return gateway_factory(
        lone_env(
            port,
            session_store,
            UPSTREAM_MAX_CONNECTIONS="16",
            UPSTREAM_MAX_WAITING="64",
            QUEUE_TIMEOUT_SECONDS="0.3",
            REQUEST_TIMEOUT_SECONDS="0.3",
            IDLE_TIMEOUT_SECONDS="0.3",
            BODY_TIMEOUT_SECONDS="0.3",
        )
    )


async def service(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers well, unless the request's path says otherwise."""
    errors = (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, asyncio.CancelledError)
    with contextlib.suppress(*errors):
        while head := await reader.readuntil(b"\r\n\r\n"):
            mood = head.split(b" ", 2)[1].rpartition(b"/")[2]
            if length := re.search(rb"content-length: (\d+)", head):
                await reader.readexactly(int(length[1]))
            elif b"chunked" in head:
                while int(await reader.readuntil(b"\r\n"), 16):
                    await reader.readuntil(b"\r\n")
                await reader.readexactly(2)
            if mood == b"slow":
                await asyncio.sleep(random.uniform(0, 0.2))
            elif mood == b"silent":
                await asyncio.sleep(1)
            elif mood == b"reset":
                writer.transport.abort()
                return
            elif mood == b"half":
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 5000\r\n\r\n" + b"x" * 2000)
                await writer.drain()
                break
            elif mood == b"large":
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2000000\r\n\r\n" + bytes(2_000_000))
                await writer.drain()
                continue
            elif mood == b"garbage":
                writer.write(b"whatever\r\n\r\n")
                break
            writer.write(OK)
    writer.close()


async def client(port: int, choice: random.Random, token: bytes) -> None:
    """One request, of which the client may leave at any moment."""
    mood = choice.choice([b"well", b"well", b"slow", b"silent", b"reset", b"half", b"large", b"garbage"])
    head = b"%b /api/v1/inventory/%b HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer %b\r\n"
    kind = choice.randrange(4)
    if kind == 0:
        request = head % (b"GET", mood, token) + b"\r\n"
    elif kind == 1:
        request = head % (b"POST", mood, token) + b"Content-Length: 100000\r\n\r\n" + bytes(100_000)
    elif kind == 2:
        chunk = b"%x\r\n%b\r\n" % (30_000, bytes(30_000))
        request = (
            head % (b"PUT", mood, token) + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 3 + b"0\r\n\r\n"
        )
    else:
        request = head % (b"HEAD", mood, token) + b"\r\n"
    with contextlib.suppress(OSError):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            part = len(request) if choice.random() < 0.6 else choice.randrange(len(request))
            writer.write(request[:part])
            patience = choice.choice([0.0, 0.001, 0.01, 0.1, 1.0])
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    await writer.drain()
                    while await reader.read(choice.choice([100, 65536])):
                        pass
        finally:
            if choice.random() < 0.5:
                writer.transport.abort()
            writer.close()


def metric(port: int, name: str) -> float:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        text = answer.read().decode()
    return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name))


async def ask(port: int, token: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(
        b"GET /api/v1/inventory/well HTTP/1.1\r\nHost: t\r\nConnection: close\r\nAuthorization: Bearer %b\r\n\r\n"
        % token
    )
    answer = await reader.read()
    writer.close()
    return answer


@pytest.mark.parametrize("seed", [1, 2])
async def test_whoever_leaves_leaves_nothing_behind(gateway: GatewayProcess, port: int, seed: int) -> None:
    choice = random.Random(seed)  # a schedule, not a secret
    token = access_token()
    serving: set[asyncio.Task[None]] = set()

    def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(service(reader, writer))
        serving.add(task)
        task.add_done_callback(serving.discard)

    server = await asyncio.start_server(serve, "127.0.0.1", port)
    gate = asyncio.Semaphore(AT_ONCE)

    async def one() -> None:
        async with gate:
            await client(gateway.port, random.Random(choice.random()), token)

    try:
        await asyncio.gather(*(one() for _ in range(CLIENTS)))

        def settled() -> bool:
            busy = metric(gateway.port, 'gateway_pool_connections{service="inventory",state="active"}')
            waiting = metric(gateway.port, 'gateway_pool_waiting{service="inventory"}')
            return (busy, waiting, metric(gateway.port, "gateway_requests_in_flight ")) == (0, 0, 0)

        await asyncio.to_thread(poll, settled)

        async def served() -> bool:
            return b" 200 " in (await ask(gateway.port, token))[:20]

        # The breaker may have opened for a while; then everybody is served again.
        deadline = asyncio.get_running_loop().time() + 15
        while not await served():
            assert asyncio.get_running_loop().time() < deadline, gateway.log()[-2000:]
            await asyncio.sleep(0.05)
        assert all([await served() for _ in range(32)])
        assert "unhandled error" not in gateway.log()
        assert "Task exception" not in gateway.log()
    finally:
        server.close()
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving)
        await server.wait_closed()
