"""A small HTTP/1.1 server on httptools for the stub services; it shares no code with the gateway it stands behind.

Keep-alive, pipelining (answered in order), bodies of any size both ways with back-pressure, and a handler that is
cancelled when its client leaves.
"""

from __future__ import annotations

import asyncio
import inspect
import traceback
from collections import deque
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import cast

import httptools

from demo.platform.messages import Refusal, Request, Response
from demo.platform.sockets import Socket

_STATUS = {s.value: f"HTTP/1.1 {s.value} {s.phrase}\r\n".encode() for s in HTTPStatus}
_PIPELINE = 16
SocketHandler = Callable[[Socket], Awaitable[None]]


class Counters:
    """What one service has seen since its start."""

    __slots__ = ("cancelled", "connections", "failures", "in_flight", "requests")

    def __init__(self) -> None:
        self.requests = 0
        self.in_flight = 0
        self.cancelled = 0
        self.failures = 0
        self.connections = 0


class Server:
    """Listens on a loopback port and answers with `dispatch`; `upgrade` says who takes a WebSocket, if anybody."""

    def __init__(
        self,
        dispatch: Callable[[Request], Response | Awaitable[Response]],
        upgrade: Callable[[Request], SocketHandler | None] = lambda request: None,
    ) -> None:
        self.dispatch = dispatch
        self.upgrade = upgrade
        self.counters = Counters()
        self.connections: set[Connection | Socket] = set()
        self._server: asyncio.Server | None = None

    async def start(self, host: str, port: int) -> int:
        """Listens; returns the port (`port` 0 = any free one)."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Connection(self), host, port, backlog=1024)
        return int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Closes the port and every connection at once."""
        if self._server is not None:
            self._server.close()
            for connection in list(self.connections):
                connection.abort()
            await self._server.wait_closed()
            self._server = None


class Connection(asyncio.Protocol):
    """One client. Requests are handled one after the other; those that are pipelined wait in `_waiting`."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._pending: Awaitable[Response] | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport
        self._current: Request | None = None
        self._task: asyncio.Task[None] | None = None
        self._waiting: deque[Request] = deque()
        self._receiving: Request | None = None
        self._upgrading: Request | None = None
        self._url = b""
        self._headers: list[tuple[str, str]] = []
        self._writable: asyncio.Future[None] | None = None
        self._reading = True

    # --- transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._server.connections.add(self)
        self._server.counters.connections += 1

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.connections.discard(self)
        self._waiting.clear()
        self.resume_writing()
        if self._task is not None:
            self._server.counters.cancelled += 1
            self._server.counters.in_flight -= 1
            self._task.cancel()
            if (
                inspect.iscoroutine(self._pending)
                and inspect.getcoroutinestate(self._pending) == "CORO_CREATED"
            ):
                self._pending.close()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._hand_over(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            self._refuse(b"HTTP/1.1 400 Bad Request\r\n")

    def _hand_over(self, rest: bytes) -> None:
        request, handler = self._upgrading, None
        if request is not None and self._current is None:
            handler = self._server.upgrade(request)
        if request is None or handler is None:
            self._refuse(b"HTTP/1.1 501 Not Implemented\r\n")
            return
        connections = self._server.connections
        connections.discard(self)
        self._server.counters.requests += 1
        socket = Socket(request, handler, connections.discard)
        connections.add(socket)
        socket.take_over(self._transport, rest)

    def pause_writing(self) -> None:
        self._writable = self._loop.create_future()

    def resume_writing(self) -> None:
        waiter, self._writable = self._writable, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def abort(self) -> None:
        """Drops the connection without a word."""
        self._transport.abort()

    @property
    def paused(self) -> bool:
        """Whether the client has stopped taking what is sent."""
        return self._writable is not None

    @property
    def unsent(self) -> int:
        """Bytes that wait for the client."""
        return self._transport.get_write_buffer_size()

    def _refuse(self, status_line: bytes) -> None:
        self._transport.write(status_line + b"content-length: 0\r\nconnection: close\r\n\r\n")
        self._transport.close()

    # --- httptools

    def on_message_begin(self) -> None:
        self._url = b""
        self._headers = []

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.decode("latin-1"), value.decode("latin-1")))

    def on_headers_complete(self) -> None:
        method = self._parser.get_method().decode("latin-1")
        version = self._parser.get_http_version()
        request = Request(method, self._url.decode("latin-1"), version, self._headers, self._resume_reading)
        request.keep_alive = self._parser.should_keep_alive()
        self._receiving = request
        self._headers = []  # trailers are not headers
        if self._parser.should_upgrade():
            self._upgrading = request
            return
        if self._current is None:
            self._begin(request)
            return
        self._waiting.append(request)
        if len(self._waiting) >= _PIPELINE:
            self._pause_reading()

    def on_body(self, body: bytes) -> None:
        if self._receiving is not None and not self._receiving.feed(body):
            self._pause_reading()

    def on_message_complete(self) -> None:
        if self._receiving is not None:
            self._receiving.finish()

    def _pause_reading(self) -> None:
        if self._reading:
            self._reading = False
            self._transport.pause_reading()

    def _resume_reading(self) -> None:
        if not self._reading and not self._transport.is_closing() and len(self._waiting) < _PIPELINE:
            self._reading = True
            self._transport.resume_reading()

    # --- one exchange

    def _begin(self, request: Request) -> None:
        self._current = request
        counters = self._server.counters
        counters.requests += 1
        counters.in_flight += 1
        if request.header("expect").lower() == "100-continue":
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        try:
            result = self._server.dispatch(request)
        except Refusal as refusal:
            result = refusal.response()
        except Exception:
            result = self._failure()
        if isinstance(result, Response) and isinstance(result.body, bytes):
            # PERF: a handler that need not wait costs no task.
            self._write_whole(request, result, result.body)
            self._end(request)
        else:
            self._pending = None if isinstance(result, Response) else result
            self._task = self._loop.create_task(self._run(request, result))

    async def _run(self, request: Request, result: Response | Awaitable[Response]) -> None:
        try:
            response = result if isinstance(result, Response) else await result
        except Refusal as refusal:
            response = refusal.response()
        except Exception:
            response = self._failure()
        try:
            if isinstance(response.body, bytes):
                self._write_whole(request, response, response.body)
            else:
                await self._write_stream(request, response)
        except Exception:
            self._failure()
            request.keep_alive = False
            self.abort()
        self._task = None
        self._end(request)

    def _failure(self) -> Response:
        self._server.counters.failures += 1
        traceback.print_exc()
        return Refusal(500, "internal", "The stub service failed; its log has the traceback.").response()

    def _end(self, request: Request) -> None:
        self._server.counters.in_flight -= 1
        self._current = None
        if not request.keep_alive:
            self._transport.close()
            return
        if not request.complete:
            request.discard()
        if self._waiting:
            # Through the loop, so that a long pipeline does not become a deep recursion.
            self._current = following = self._waiting.popleft()
            self._resume_reading()
            self._loop.call_soon(self._begin_next, following)

    def _begin_next(self, request: Request) -> None:
        if not self._transport.is_closing():
            self._begin(request)

    # --- writing

    def _head(self, request: Request, response: Response, framing: bytes) -> bytes:
        status = _STATUS.get(response.status) or f"HTTP/1.1 {response.status} Unknown\r\n".encode()
        lines = "".join([f"{name}: {value}\r\n" for name, value in response.headers]).encode("latin-1")
        close = b"" if request.keep_alive else b"connection: close\r\n"
        return b"".join((status, b"server: bakery-platform\r\n", lines, framing, close, b"\r\n"))

    def _write_whole(self, request: Request, response: Response, body: bytes) -> None:
        bodiless = response.status in (204, 304)
        framing = b"" if bodiless else b"content-length: %d\r\n" % len(body)
        head = self._head(request, response, framing)
        self._transport.write(head if bodiless or request.method == "HEAD" else head + body)

    async def _write_stream(self, request: Request, response: Response) -> None:
        chunked = False
        framing = b""
        if response.length >= 0:
            framing = b"content-length: %d\r\n" % response.length
        elif request.version == "1.0":
            request.keep_alive = False
        else:
            chunked = True
            framing = b"transfer-encoding: chunked\r\n"
        self._transport.write(self._head(request, response, framing))
        if request.method == "HEAD" or isinstance(response.body, bytes):
            return
        async for chunk in response.body:
            if self._writable is not None:
                await self._writable
            self._transport.write(b"%x\r\n%b\r\n" % (len(chunk), chunk) if chunked else chunk)
        if chunked:
            self._transport.write(b"0\r\n\r\n")
