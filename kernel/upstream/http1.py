"""One HTTP/1.1 connection to a service: an asyncio protocol around httptools' response parser.

Rules:
- One exchange at a time. `start` writes a request; its future is done when a read has brought the response's head, and
  the body that came in the same read is in `chunks` by then: a small response costs one await.
- The head decides the framing (RFC 9112 section 6.3). Whatever is ambiguous is a protocol error and ends the connection.
- SECURITY: a byte that arrives when no response is due ends the connection: it would become the next client's response
  otherwise (response splitting, desynchronisation).
- Deadlines are numbers the sweeper compares; no timer is made for a request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import httptools

from kernel.headers import HOP_BY_HOP, connection_options
from kernel.problems import UPSTREAM_PROTOCOL, UPSTREAM_RESET, GatewayError, ProblemKind

NEVER = float("inf")
MAX_HEAD_BYTES = 64 * 1024
MAX_HEADERS = 256
HIGH_WATER = 64 * 1024
_MEMO_LIMIT = 1024

# What a header of a response is to us, when it is not simply passed on under its lower-case name.
_DROP, _LENGTH, _ENCODING, _CONNECTION = 0, 1, 2, 3
_SPECIAL = {b"content-length": _LENGTH, b"transfer-encoding": _ENCODING, b"connection": _CONNECTION}
# The gateway says these itself; a service's copy would contradict or double it.
_OURS = frozenset(
    {
        b"ratelimit",
        b"ratelimit-policy",
        b"strict-transport-security",
        b"x-content-type-options",
        b"x-ratelimit-limit",
        b"x-ratelimit-remaining",
        b"x-ratelimit-reset",
        b"x-request-id",
    }
)


class ResponseNames(dict[bytes, bytes | int]):
    """Response header name as sent -> its lower-case form to pass on, or one of the codes above. A bounded memo."""

    def __missing__(self, name: bytes) -> bytes | int:
        lower = name.lower()
        kind: bytes | int = _SPECIAL.get(lower, lower)
        if kind is lower and (lower in HOP_BY_HOP or lower in _OURS or lower.startswith(b"access-control-")):
            kind = _DROP
        if len(self) < _MEMO_LIMIT:
            self[name] = kind
        return kind


class Connection(asyncio.Protocol):
    """A connection and the exchange it is busy with.

    `on_lost(connection)` is called once, when the transport is gone. After an exchange, `reusable()` tells whether another
    may follow.
    """

    __slots__ = (
        "_buffered",
        "_can_write",
        "_connection_names",
        "_head_bytes",
        "_head_only",
        "_informational",
        "_keep_alive",
        "_loop",
        "_names",
        "_on_lost",
        "_parser",
        "_paused",
        "_unframed",
        "busy",
        "chunks",
        "closed",
        "complete",
        "deadline",
        "dirty",
        "error",
        "exchanges",
        "got_bytes",
        "head_done",
        "headers",
        "idle_since",
        "status",
        "transport",
        "waiter",
        "watched",
        "watching",
    )

    def __init__(
        self, loop: asyncio.AbstractEventLoop, names: ResponseNames, on_lost: Callable[[Connection], None]
    ) -> None:
        # For the connection's life.
        self._loop = loop
        self._names = names
        self._on_lost = on_lost
        self._parser = httptools.HttpResponseParser(self)
        self.transport: asyncio.Transport = None  # type: ignore[assignment]  # set before anyone sees it
        self._can_write: asyncio.Future[None] | None = None
        self._paused = False
        self.closed = False
        self.exchanges = 0
        self.idle_since = 0.0
        # For one exchange.
        self.busy = False
        self.waiter: asyncio.Future[None] | None = None
        self.deadline = NEVER
        self.watched: Any = None  # the Exchange whose client may leave
        self.watching: asyncio.Task[None] | None = None
        self._reset(False)

    def _reset(self, head_only: bool) -> None:
        self.headers: list[tuple[bytes, bytes]] = []
        self.chunks: list[bytes] = []
        self.status = 0
        self.head_done = False
        self.complete = False
        self.dirty = False
        self.got_bytes = False
        self.error: GatewayError | None = None
        self._head_only = head_only
        self._head_bytes = 0
        self._buffered = 0
        self._informational = False
        self._unframed = True
        self._keep_alive = False
        self._connection_names: frozenset[bytes] | None = None

    # --- the exchange ---

    def start(self, data: bytes, head_only: bool, deadline: float) -> asyncio.Future[None]:
        """Write a request (or its head). The future is done with the response's head, or fails with GatewayError."""
        self._reset(head_only)
        self.exchanges += 1
        self.busy = True
        self.deadline = deadline
        waiter = self.waiter = self._loop.create_future()
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
            if self.complete:
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

    def reusable(self) -> bool:
        """Whether the last exchange ended so cleanly that another may follow."""
        return self.complete and not self.dirty and self._keep_alive and not self.closed

    def finish(self) -> None:
        """The exchange is over."""
        self.busy = False
        self.waiter = None
        self.deadline = NEVER
        self.watched = None
        if self.watching is not None:
            self.watching.cancel()
            self.watching = None
        if self._head_only:
            # httptools cannot be told that this response has no body; a fresh parser has forgotten that it waits for one.
            self._parser = httptools.HttpResponseParser(self)

    def fail(self, error: GatewayError) -> None:
        """End the exchange with `error` and the connection with it."""
        if self.error is None:
            self.error = error
        self.dirty = True
        self._wake(self.error)
        self.abort()

    def abort(self) -> None:
        """Close at once, unsent bytes and all."""
        if not self.closed:
            self.transport.abort()

    def _wake(self, error: GatewayError | None) -> None:
        waiter = self.waiter
        if waiter is not None and not waiter.done():
            if error is None:
                waiter.set_result(None)
            else:
                waiter.set_exception(error)
        if error is not None and self._can_write is not None and not self._can_write.done():
            self._can_write.set_result(None)

    def _break(self, kind: ProblemKind, detail: str) -> None:
        self.fail(GatewayError(kind(detail)))

    # --- asyncio.Protocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is one, without the inheritance

    def data_received(self, data: bytes) -> None:
        if not self.busy or self.complete:
            self.dirty = True
            self.abort()
            return
        self.got_bytes = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._garbage(type(error).__name__)
        if self.error is not None:
            return
        if self.head_done:
            self._wake(None)
            if self._buffered > HIGH_WATER and not self._paused and not self.complete:
                self._paused = True
                self.transport.pause_reading()
        else:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._break(UPSTREAM_PROTOCOL, "response head too large")

    def _garbage(self, what: str) -> None:
        """The parser gave up. After a complete response that only costs the connection."""
        self.dirty = True
        if not self.complete:
            self._break(UPSTREAM_PROTOCOL, f"malformed response ({what})")

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        if self.busy and not self.complete and self.error is None:
            if self.head_done and self._unframed and exc is None:
                self.complete = (
                    True  # the end of the connection is the end of the body (RFC 9112 section 6.3, rule 8)
                )
                self.dirty = True
                self._wake(None)
            else:
                phase = "in its body" if self.head_done else "before its response"
                self.error = GatewayError(UPSTREAM_RESET(f"connection closed {phase}"))
                self._wake(self.error)
        if self._can_write is not None and not self._can_write.done():
            self._can_write.set_result(None)
        self._on_lost(self)

    def pause_writing(self) -> None:
        self._can_write = self._loop.create_future()

    def resume_writing(self) -> None:
        if self._can_write is not None:
            if not self._can_write.done():
                self._can_write.set_result(None)
            self._can_write = None

    # --- httptools ---

    def on_message_begin(self) -> None:
        if self.complete:
            self.dirty = True

    def on_header(self, name: bytes, value: bytes) -> None:
        kind = self._names[name]
        if kind.__class__ is bytes:
            self.headers.append((kind, value))
        elif kind == _LENGTH:
            self._unframed = False
            self.headers.append((b"content-length", value))
        elif kind == _ENCODING:
            if value.lower() != b"chunked" or not self._unframed:
                self._break(UPSTREAM_PROTOCOL, "unsupported Transfer-Encoding")
            self._unframed = False
        elif kind == _CONNECTION:
            named = connection_options(value)
            if named:
                self._connection_names = (self._connection_names or frozenset()) | named
        if len(self.headers) > MAX_HEADERS:
            self._break(UPSTREAM_PROTOCOL, "too many response headers")

    def on_headers_complete(self) -> None:
        if self.complete:
            return
        status = self.status = self._parser.get_status_code()
        if status < 200:
            if status == 101:
                self._break(UPSTREAM_PROTOCOL, "unexpected protocol switch")
            self._informational = True
            return
        if self._connection_names:
            self.headers = [pair for pair in self.headers if pair[0] not in self._connection_names]
        if self._head_only or status in {204, 304}:
            self._unframed = False
            if self._head_only:
                self.complete = True
        self._keep_alive = self._parser.should_keep_alive()
        self.head_done = True

    def on_body(self, body: bytes) -> None:
        if self.complete:
            self.dirty = True  # a body after HEAD
            return
        self.chunks.append(body)
        self._buffered += len(body)

    def on_message_complete(self) -> None:
        if self._informational:
            self._informational = False
            self.headers = []
            self.status = 0
            self._unframed = True
            return
        self.complete = True
