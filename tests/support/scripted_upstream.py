"""An upstream that replies with exact bytes, and clients of the forwarder that live in the test's own loop."""

from __future__ import annotations

import asyncio
import inspect
import re
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator, Sequence
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar, copy_context
from typing import Any

import pytest
import uvloop

from kernel.exchange.exchange import Exchange
from kernel.http.headers import HeaderKinds
from kernel.http.problems import DRAINING, GatewayError
from kernel.telemetry.metrics import UpstreamMeter
from kernel.upstream.balance import Upstream
from kernel.upstream.callback_lane import CallbackLane
from kernel.upstream.forward import forward
from kernel.upstream.pool import PoolLimits, Sweeper
from kernel.upstream.resolver import Resolver

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
_CALLBACKS: ContextVar[bool] = ContextVar("callbacks", default=False)
_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)\r\n", re.IGNORECASE)


class Peer:
    """One connection at the upstream's side."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        self.reader = reader
        self.writer = writer
        self.number = number  # of this connection, from 1

    async def head(self) -> bytes:
        """A request's head, to its empty line. Raises IncompleteReadError when the gateway has gone."""
        return await self.reader.readuntil(b"\r\n\r\n")

    async def request(self) -> bytes:
        """A whole request with a body of a known length or none."""
        head = await self.head()
        length = _LENGTH.search(head)
        return head + (await self.reader.readexactly(int(length[1])) if length else b"")

    async def send(self, *parts: bytes) -> None:
        """Write `parts`, each in a segment of its own."""
        for part in parts:
            self.writer.write(part)
            await self.writer.drain()
            await asyncio.sleep(0)

    async def gone(self) -> None:
        """Return when the gateway has closed this connection; what still comes is dropped."""
        while await self.reader.read(65536):
            pass

    def reset(self) -> None:
        """Close with RST, as a killed process' kernel may."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


Script = Callable[[Peer], Awaitable[None]]


class Scripted:
    """The server; `script` is run for each connection, which closes when it returns."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.connections = 0
        self.open = 0
        self.port = 0
        self.listener: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        self.open += 1
        try:
            await self.script(Peer(reader, writer, self.connections))
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self.open -= 1
            self._tasks.discard(task)
            writer.close()

    def stop_listening(self) -> None:
        """Refuse connections from now on; those that are there stay."""
        assert self.listener is not None
        self.listener.close()

    async def stop(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


@asynccontextmanager
async def scripted(
    script: Script,
    path: str | None = None,
    tls: ssl.SSLContext | None = None,
    host: str = "127.0.0.1",
    port: int = 0,
) -> AsyncIterator[Scripted]:
    """A running server, on a port of `host` or the unix socket `path`."""
    server = Scripted(script)
    listener: asyncio.Server
    if path is not None:
        listener = await asyncio.start_unix_server(server.serve, path)
    else:
        listener = await asyncio.start_server(server.serve, host, port, ssl=tls)
        server.port = listener.sockets[0].getsockname()[1]
    server.listener = listener
    try:
        yield server
    finally:
        listener.close()
        await server.stop()
        await listener.wait_closed()


def replies(*parts: bytes, close: bool = False) -> Script:
    """Answers every request with `parts`; `close` ends the connection after the first."""

    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.send(*parts)
            if close:
                return

    return script


class _Done:
    def __await__(self) -> Generator[None, None, None]:
        yield from ()


_DONE = _Done()


class Lane:
    """What an exchange on the callback lane ends in: None, or what is left to be awaited."""

    def __init__(self) -> None:
        self.end: asyncio.Future[Awaitable[None] | None] = asyncio.get_running_loop().create_future()

    def over(self, x: Exchange) -> None:
        self.end.set_result(None)

    def go_on(self, x: Exchange, rest: Awaitable[None]) -> None:
        self.end.set_result(rest)


async def relay(x: Exchange, upstream: Upstream, lines: bytes, timeout: float) -> None:
    """`forward`, or in the tests' third variant the callback lane wherever it takes the request."""
    replica = upstream.only
    if _CALLBACKS.get():
        pool = replica.pool if replica is not None and not replica.breaker.troubled else None
        if pool is not None and not x.has_body and not pool.idle and pool.size < pool.max_connections:
            with suppress(GatewayError):  # the forwarder will meet the same
                opened = await pool.acquire(x)
                pool.busy.discard(opened)
                opened.idle_since = upstream.sweeper.now
                pool.idle.append(opened)
                pool.reused -= 1
        lane = x.lane = Lane()
        if CallbackLane(upstream, timeout).launch(x, lines):
            try:
                rest = await asyncio.shield(lane.end)
            except asyncio.CancelledError:
                # No task waits for it in the gateway: a drain ends it so.
                upstream.give_up(DRAINING())
                rest = lane.end.result()
                assert rest is not None
                with pytest.raises(GatewayError) as caught:
                    await rest
                assert caught.value.problem.kind is DRAINING
                raise
            if rest is not None:
                await rest
            return
        x.lane = None
    await forward(x, upstream, lines, timeout)


class Client:
    """The client's side of one exchange: what ASGI would give the gateway, and what it would take.

    `body` are the parts it sends, one a message; `stall` after them keeps the body unfinished. `leave()` disconnects.
    """

    def __init__(
        self,
        method: str = "GET",
        path: bytes = b"/items",
        headers: Sequence[tuple[bytes, bytes]] = (),
        body: Sequence[bytes] | None = None,
        stall: bool = False,
        length: int | None = None,
    ) -> None:
        sent = list(headers)
        if body is not None:
            size = sum(map(len, body)) if length is None else length
            sent.append(
                (b"content-length", b"%d" % size) if size >= 0 else (b"transfer-encoding", b"chunked")
            )
        self.parts = list(body or [])
        self.stall = stall
        self.left = asyncio.Event()
        self.head: dict[str, Any] | None = None
        self.body = b""
        self.complete = False
        self.writes = 0
        self.pulled = 0
        self.taking = asyncio.Event()  # cleared: a reader that is not reading
        self.taking.set()
        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": method,
            "raw_path": path,
            "query_string": b"",
            "headers": sent,
            "client": ("127.0.0.1", "1"),
        }
        self.x = Exchange(
            scope, self.receive, self.send, HeaderKinds(), ("request-id", b"request-id", b""), []
        )
        self.x.max_body = 1 << 40

    def leave(self) -> None:
        self.left.set()

    async def receive(self) -> dict[str, Any]:
        if self.left.is_set():
            return {"type": "http.disconnect"}
        if self.parts:
            self.pulled += 1
            await asyncio.sleep(0)
            part = self.parts.pop(0)
            return {"type": "http.request", "body": part, "more_body": bool(self.parts) or self.stall}
        await self.left.wait()
        return {"type": "http.disconnect"}

    def send(self, message: dict[str, Any]) -> Awaitable[None]:
        """As granian's: what can be taken is taken at once, awaited or not."""
        if self.left.is_set():
            return _DONE
        if message["type"] == "http.response.start":
            assert self.head is None, "two heads"
            self.head = message
            return _DONE
        if not self.taking.is_set():
            return self._take_later(message)
        self._take(message)
        return _DONE

    async def _take_later(self, message: dict[str, Any]) -> None:
        taking = asyncio.ensure_future(self.taking.wait())
        left = asyncio.ensure_future(self.left.wait())
        try:
            await asyncio.wait({taking, left}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            taking.cancel()
            left.cancel()
        self._take(message)

    def _take(self, message: dict[str, Any]) -> None:
        assert not self.complete, "more after the end"
        self.body += message["body"]
        self.writes += 1
        self.complete = not message["more_body"]

    @property
    def status(self) -> int:
        assert self.head is not None, "no response"
        status: int = self.head["status"]
        return status

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """Less the gateway's own."""
        assert self.head is not None, "no response"
        return [pair for pair in self.head["headers"] if pair[0] != b"x-request-id"]


@asynccontextmanager
async def upstream_of(
    *urls: str,
    name: str = "inventory",
    idle_timeout: float = 5.0,
    body_timeout: float = 5.0,
    tls: ssl.SSLContext | None = None,
    preserve_host: bool = False,
    resolver: Resolver | None = None,
    health: str = "",
    **limits: Any,
) -> AsyncIterator[Upstream]:
    """An Upstream in this loop. At its end everything must have been given back and closed."""
    sweeper = Sweeper(asyncio.get_running_loop())
    upstream = Upstream(
        name,
        urls,
        sweeper,
        PoolLimits(**limits),
        UpstreamMeter(),
        idle_timeout=idle_timeout,
        body_timeout=body_timeout,
        tls=tls,
        preserve_host=preserve_host,
        resolver=resolver,
        health=health,
    )
    try:
        yield upstream
        await nothing_leaks(upstream)
    finally:
        await upstream.close()
        sweeper.close()


async def eventually(probe: Callable[[], object], seconds: float = 5.0) -> None:
    """Wait until `probe` is true. Raises AssertionError after `seconds`."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while not probe():
        assert loop.time() < deadline, "it did not happen in time"
        await asyncio.sleep(0.002)


async def nothing_leaks(upstream: Upstream) -> None:
    """Nothing is busy or queued, and closing every pool frees every slot."""
    for replica in upstream.replicas:
        pool = replica.pool
        assert not pool.busy
        assert pool.waiting == 0
        await eventually(lambda pool=pool: pool.size == len(pool.idle))  # type: ignore[misc]
        await pool.close()
        await eventually(lambda pool=pool: pool.size == 0)  # type: ignore[misc]


def both_loops(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Runs an async test on asyncio's loop and on uvloop, which end transports differently, and there by callbacks, too."""

    def run(new_loop: tuple[Callable[[], asyncio.AbstractEventLoop], bool], **arguments: Any) -> None:
        factory, callbacks = new_loop
        context = copy_context()
        context.run(_CALLBACKS.set, callbacks)
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(test(**arguments), context=context)

    signature = inspect.signature(test)
    first = inspect.Parameter("new_loop", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    run.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[first, *signature.parameters.values()], return_annotation=None
    )
    run.__name__, run.__module__, run.__doc__ = test.__name__, test.__module__, test.__doc__
    run.pytestmark = getattr(test, "pytestmark", [])  # type: ignore[attr-defined]
    loops = {
        "asyncio": (asyncio.new_event_loop, False),
        "uvloop": (uvloop.new_event_loop, False),
        "callbacks": (uvloop.new_event_loop, True),
    }
    both: Callable[..., None] = pytest.mark.parametrize("new_loop", loops.values(), ids=loops)(run)
    return both
