"""SIGTERM under load: what is in flight ends well, what is long is told to come back, and nothing is left."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from pathlib import Path

from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from kernel.server.embedded_store import EmbeddedStore
from tests.support.gateway import free_port, start_gateway
from tests.support.stack import lone_env
from tests.support.store import until
from tests.support.tokens import access_token

STREAMS = 500
SOCKETS = 20
SLOW = 50
GRACE = 10


class Slow:
    """A service that takes its time. `asked` counts the requests that have reached it."""

    def __init__(self) -> None:
        self.asked = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, OSError):
            head = await reader.readuntil(b"\r\n\r\n")
            self.asked += b" /api/v1/inventory/items " in head
            await asyncio.sleep(1.5)
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\nconnection: close\r\n\r\ndone")
            await writer.drain()
        writer.close()


async def ask(port: int, target: bytes, token: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET %b HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer %b\r\n\r\n" % (target, token))
    return reader, writer


async def echo(connection: ServerConnection) -> None:
    with contextlib.suppress(ConnectionClosed):
        async for message in connection:
            await connection.send(message)


async def test_a_drain_loses_nothing_that_is_in_flight(tmp_path: Path, session_store: EmbeddedStore) -> None:
    requests, sockets = free_port(), free_port()
    service = Slow()
    gateway = await asyncio.to_thread(
        start_gateway,
        lone_env(
            requests,
            session_store,
            TRAINING_SERVICE_URL=f"http://127.0.0.1:{sockets}",
            SHUTDOWN_GRACE_SECONDS=str(GRACE),
            WORKERS="2",
        ),
        tmp_path,
    )
    token = access_token()
    headers = {"Authorization": f"Bearer {token.decode()}"}
    url = f"ws://127.0.0.1:{gateway.port}/api/v1/training/ws"
    try:
        async with (
            await asyncio.start_server(service, "127.0.0.1", requests, backlog=200),
            serve(echo, "127.0.0.1", sockets),
            contextlib.AsyncExitStack() as open_,
        ):
            streams = [await ask(gateway.port, b"/api/v1/alerts/stream", token) for _ in range(STREAMS)]
            for reader, _ in streams:
                assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 200")
                await reader.readuntil(b":\n\n")
            clients = [
                await open_.enter_async_context(connect(url, additional_headers=headers, proxy=None))
                for _ in range(SOCKETS)
            ]
            known = await ask(gateway.port, b"/health/ready", token)
            assert (await known[0].readuntil(b"\r\n")).startswith(b"HTTP/1.1 200")
            waiting = [await ask(gateway.port, b"/api/v1/inventory/items", token) for _ in range(SLOW)]
            await until(lambda: service.asked == SLOW)
            began = time.monotonic()
            gateway.process.send_signal(signal.SIGTERM)
            hints = []
            for reader, writer in streams:
                rest = (await reader.read()).decode()
                assert rest.endswith("0\r\n\r\n")  # a clean end, not a cut
                hints.append(int(rest.rpartition("retry:")[2].split("\n")[0]))
                writer.close()
            assert len(set(hints)) > STREAMS // 10  # they do not come back in step
            assert 0 <= min(hints) <= max(hints) <= 5000
            for client in clients:
                with contextlib.suppress(ConnectionClosed):
                    await client.recv()
                assert client.close_code == 1012
            for reader, writer in waiting:
                answer = await reader.read()
                assert answer.startswith(b"HTTP/1.1 200"), answer[:300]
                assert answer.endswith(b"done")
                writer.close()
            known[1].close()
            assert await asyncio.to_thread(gateway.stop, timeout=GRACE) == 0, gateway.log()[-4000:]
            assert time.monotonic() - began < GRACE
    finally:
        if gateway.process.poll() is None:
            gateway.process.kill()
            gateway.process.wait()
    assert "unhandled error" not in gateway.log()
    assert "exception" not in gateway.log().lower()
