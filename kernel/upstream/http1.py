"""One HTTP/1.1 connection to a service: an asyncio protocol around httptools' response parser.

Rules:
- One exchange at a time. `start` writes a request; its future is done when a read has brought the response's head, and
  the body that came in the same read is in `chunks` by then: a small response costs one await.
- Futures only wake; whether an exchange failed is in `error`, which whoever was woken looks at first.
- The head decides the framing (RFC 9112 section 6.3). Whatever is ambiguous is a protocol error and ends the connection.
- SECURITY: a byte that arrives when no response is due ends the connection: it would become the next client's response
  otherwise (response splitting, desynchronisation). Trailers are never merged into the head (RFC 9110 section 6.5.1).
- Deadlines are numbers the sweeper compares; no timer is made for a request.
- A connection is used again only after a clean exchange, so `start` resets no more than such a one leaves behind.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import httptools

from kernel.headers import connection_options
from kernel.problems import UPSTREAM_PROTOCOL, UPSTREAM_RESET, GatewayError, ProblemKind
from kernel.upstream.names import CONNECTION, ENCODING, LENGTH, ResponseNames

NEVER = float("inf")
MAX_HEAD_BYTES = 64 * 1024
MAX_HEADERS = 256
HIGH_WATER = 64 * 1024

# How far the exchange is: none, waiting for the response's head, in its body, response complete.
IDLE, HEAD, BODY, COMPLETE = 0, 1, 2, 3


class Connection(asyncio.Protocol):
    """A connection and the exchange it is busy with.

    `on_lost(connection)`, once set, is called when the transport is gone; `lost` tells that it is. `closed` comes earlier:
    nothing can be sent any more.
    """

    __slots__ = (
        "_buffered",
        "_can_write",
        "_connection_names",
        "_fields",
        "_head_only",
        "_idle_bytes",
        "_informational",
        "_keep_alive",
        "_loop",
        "_names",
        "_parser",
        "_paused",
        "_unframed",
        "chunks",
        "closed",
        "deadline",
        "dirty",
        "error",
        "exchanges",
        "headers",
        "idle_since",
        "lost",
        "on_lost",
        "stage",
        "status",
        "transport",
        "waiter",
        "watched",
        "watching",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, names: ResponseNames) -> None:
        # For the connection's life.
        self._loop = loop
        self._names = names
        self._parser = httptools.HttpResponseParser(self)
        self._can_write: asyncio.Future[None] | None = None
        self._paused = False
        self.transport: asyncio.Transport = None  # type: ignore[assignment]  # set before anyone sees it
        self.on_lost: Callable[[Connection], None] | None = None
        self.closed = False
        self.lost = False
        self.dirty = False  # no other exchange may follow
        self.error: GatewayError | None = None
        self.exchanges = 0
        self.idle_since = 0.0
        # For one exchange.
        self._fields: list[tuple[bytes, bytes]] = []
        self._head_only = False
        self._idle_bytes = 0  # since the request or the last part of the body: head, chunk framing, trailers
        self._buffered = 0
        self._informational = False
        self._unframed = True
        self._keep_alive = False
        self._connection_names: frozenset[bytes] | None = None
        self.stage = IDLE
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.chunks: list[bytes] = []
        self.waiter: asyncio.Future[None] | None = None
        self.deadline = NEVER
        self.watched: Any = None  # the Exchange whose client may leave
        self.watching: asyncio.Task[None] | None = None

    # --- the exchange ---

    def start(self, data: bytes, head_only: bool, deadline: float) -> asyncio.Future[None]:
        """Write a request (or its head). The future is done with the response's head, or when `error` is set."""
        self.stage = HEAD
        self.chunks = []
        self._fields = []
        self._head_only = head_only
        self._idle_bytes = 0
        self._buffered = 0
        self._unframed = True
        self.exchanges += 1
        self.deadline = deadline
        waiter = self.waiter = self._loop.create_future()
        if self.closed:
            self._ended(clean=False)
        else:
            self.transport.write(data)
        return waiter

    async def read(self, deadline: float) -> bytes:
        """The next bytes of the response's body; b"" at its end.

        Raises:
            GatewayError: the service broke off, sent garbage or was silent until `deadline` (loop time).
        """
        while not self.chunks:
            if self.error is not None:
                raise self.error
            if self.stage == COMPLETE:
                return b""
            self.deadline = deadline
            self.waiter = self._loop.create_future()
            try:
                await self.waiter
            finally:
                self.deadline = NEVER
        chunks = self.chunks
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        chunks.clear()
        self._buffered = 0
        if self._paused and not self.closed:
            self._paused = False
            self.transport.resume_reading()
        return data

    def write(self, data: bytes) -> None:
        """Write a part of the request's body."""
        if not self.closed:
            self.transport.write(data)

    async def drain(self) -> None:
        """Wait until the service has taken enough of what was written."""
        if self._can_write is not None:
            await self._can_write

    def unanswered(self) -> bool:
        """Whether not one byte of a response has come."""
        return self.stage == HEAD and not self._idle_bytes

    def finish(self) -> bool:
        """The exchange is over, however it ended; True when another may follow."""
        clean = self.stage == COMPLETE and self._keep_alive and not self.dirty and not self.closed
        self.stage = IDLE
        self.deadline = NEVER
        self.watched = None
        if self.watching is not None:
            self.watching.cancel()
            self.watching = None
        if self._head_only:
            # httptools cannot be told that this response has no body; a fresh parser has forgotten that it waits for one.
            self._parser = httptools.HttpResponseParser(self)
        self.chunks.clear()  # an idle connection must not hold a large body
        return clean

    def fail(self, error: GatewayError) -> None:
        """End the exchange with `error` and the connection with it."""
        if self.error is None:
            self.error = error
        self._wake()
        self.abort()

    def abort(self) -> None:
        """Close at once, unsent bytes and all."""
        if not self.closed:
            self.closed = True
            self.transport.abort()

    def _wake(self) -> None:
        waiter = self.waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
        if self.error is not None:
            self.resume_writing()

    def _break(self, kind: ProblemKind, detail: str) -> None:
        self.fail(GatewayError(kind(detail)))

    def _ended(self, clean: bool) -> None:
        """Nothing more will come. Where only the end of the connection ends a body, a clean end completes it."""
        if self.error is not None or self.stage == IDLE or self.stage == COMPLETE:
            return
        if clean and self.stage == BODY and self._unframed:
            self.stage = COMPLETE  # RFC 9112 section 6.3, rule 8
        else:
            phase = "in its body" if self.stage == BODY else "before its response"
            self.error = GatewayError(UPSTREAM_RESET(f"connection closed {phase}"))
        self._wake()

    # --- asyncio.Protocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is one, without the inheritance

    def data_received(self, data: bytes) -> None:
        if self.stage == IDLE or self.stage == COMPLETE:
            self.abort()
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self.dirty = True
            if self.stage != COMPLETE:  # after a complete response it only costs the connection
                self._break(UPSTREAM_PROTOCOL, f"malformed response ({type(error).__name__})")
        if self.stage == COMPLETE:
            self._wake()
        elif self.error is None:
            self._partial(len(data))

    def _partial(self, size: int) -> None:
        """A read that did not complete the response: bound what may pile up, in here and in the parser."""
        if self._buffered:
            self._idle_bytes = 0
            if self._buffered > HIGH_WATER and not self._paused:
                self._paused = True
                self.transport.pause_reading()
        else:
            self._idle_bytes += size
            if self._idle_bytes > MAX_HEAD_BYTES:
                what = "head" if self.stage == HEAD else "chunk framing"
                self._break(UPSTREAM_PROTOCOL, f"response {what} too large")
        if self.stage == BODY:
            self._wake()

    def eof_received(self) -> None:
        self._ended(clean=True)
        self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = self.lost = True
        self._ended(clean=exc is None)
        self.resume_writing()
        if self.on_lost is not None:
            self.on_lost(self)

    def pause_writing(self) -> None:
        self._can_write = self._loop.create_future()

    def resume_writing(self) -> None:
        if self._can_write is not None:
            if not self._can_write.done():
                self._can_write.set_result(None)
            self._can_write = None

    # --- httptools ---

    def on_message_begin(self) -> None:
        if self.stage == COMPLETE:
            self.dirty = True

    def on_header(self, name: bytes, value: bytes) -> None:
        kind = self._names[name]
        if kind.__class__ is bytes:
            self._fields.append((kind, value))
        elif self.stage != HEAD:
            return  # a trailer
        elif kind == LENGTH:
            self._unframed = False
            self._fields.append((b"content-length", value.strip()))
        elif kind == ENCODING:
            chunked = self._unframed and value.strip().lower() == b"chunked"
            if not chunked or self._parser.get_http_version() != "1.1":
                self._break(UPSTREAM_PROTOCOL, "unsupported Transfer-Encoding")
            self._unframed = False
        elif kind == CONNECTION:
            named = connection_options(value)
            if named:
                self._connection_names = (self._connection_names or frozenset()) | named

    def on_headers_complete(self) -> None:
        if self.stage != HEAD:
            return
        status = self.status = self._parser.get_status_code()
        if status < 200:
            if status < 100 or status == 101:
                self._break(UPSTREAM_PROTOCOL, f"unexpected status {status}")
            self._informational = True
            return
        headers = self._fields
        self._fields = []  # what comes now is a trailer
        if len(headers) > MAX_HEADERS:
            self._break(UPSTREAM_PROTOCOL, "too many response headers")
        if self._connection_names:
            headers = [pair for pair in headers if pair[0] not in self._connection_names]
            self._connection_names = None
        if status in {204, 304}:
            self._unframed = False
        self._keep_alive = self._parser.should_keep_alive()
        self.headers = headers
        self.stage = COMPLETE if self._head_only else BODY

    def on_body(self, body: bytes) -> None:
        if self.stage != BODY:
            self.dirty = True  # a body after HEAD, or a second response
            return
        self.chunks.append(body)
        self._buffered += len(body)

    def on_message_complete(self) -> None:
        if self._informational:
            self._informational = False
            self._fields = []
            self._unframed = True
        elif self.stage == BODY:
            self.stage = COMPLETE
