"""One HTTP/1.1 connection to a service: an asyncio protocol around the response being read.

Rules:
- One exchange at a time. `start` writes a request; its future is done when a read has brought the response's head, and
  the body that came in the same read is in `chunks` by then: a small response costs one await.
- Futures only wake; whether an exchange failed is in `error`, which whoever was woken looks at first. A `listener` is called
  in a future's place, once.
- SECURITY: a byte that arrives when no response is due ends the connection: it would become the next client's response
  otherwise (response splitting, desynchronisation). A response is due from the write of its request on, not from the moment
  the connection was taken: what lies between answers something else, a 408 to the silence before, or nothing at all.
- What piles up is bounded, in here by pausing the transport, in the parser by refusing endless heads and trailers.
- Deadlines are numbers the sweeper compares; no timer is made for a request.
"""

from __future__ import annotations

import asyncio
import select
import ssl
from collections.abc import Callable
from typing import Any, cast

from kernel.exchange.disconnect import Disconnect
from kernel.http.problems import UPSTREAM_RESET, UPSTREAM_TIMEOUT, GatewayError
from kernel.upstream.fast_response import FastResponseReader
from kernel.upstream.parts import PartReader, Parts
from kernel.upstream.response import BODY, COMPLETE, HEAD, IDLE, UNSENT, Response

NEVER = float("inf")
MAX_HEAD_BYTES = 64 * 1024
HIGH_WATER = 64 * 1024
_AT_REST = (IDLE, COMPLETE)


def _said_goodbye(transport: asyncio.Transport) -> bool:
    """Whether the peer has closed as its protocol wants: with TLS by close_notify, without by closing.

    SECURITY: whoever is on the way can close a TCP connection, and so cut a body that ends with it (RFC 9112 section 9.8).
    """
    tls = transport.get_extra_info("ssl_object")
    if tls is None:
        return True
    try:
        return not tls.read(1)
    except ssl.SSLError as error:  # "want read": there was no close_notify
        return isinstance(error, ssl.SSLZeroReturnError)


def _nothing(_milliseconds: int) -> list[Any]:
    return []


class Outbox:
    """Requests about to be written, all at the end of the loop's turn. One a worker.

    PERF: a write wakes the service, perhaps on another core, and what is between two writes gives it time to fall asleep
    again; back to back only the first one has to wake it.
    """

    __slots__ = ("_loop", "_pending")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._pending: list[tuple[Connection, bytes]] = []

    def put(self, connection: Connection, data: bytes) -> None:
        """Write `data` soon, unless the connection is closed by then."""
        pending = self._pending
        if not pending:
            self._loop.call_soon(self._flush)
        pending.append((connection, data))

    def _flush(self) -> None:
        pending, self._pending = self._pending, []
        for connection, data in pending:
            connection.dispatch(data)


class Connection(Response):
    """A connection and the exchange it is busy with: an asyncio protocol by its methods.

    `on_lost(connection)`, once set, is called when the transport is gone; `lost` tells that it is. `closed` comes earlier:
    nothing can be sent any more.
    """

    __slots__ = (
        "_by_parts",
        "_can_write",
        "_idle_bytes",
        "_loop",
        "_outbox",
        "_parts",
        "_paused",
        "_readable",
        "_tls",
        "born",
        "cause",
        "closed",
        "deadline",
        "exchanges",
        "expires",
        "idle_since",
        "listener",
        "lost",
        "on_lost",
        "pool",
        "transport",
        "waiter",
        "watched",
        "watching",
    )

    def __init__(
        self, loop: asyncio.AbstractEventLoop, reader: FastResponseReader, outbox: Outbox, parts: Parts
    ) -> None:
        super().__init__(reader)
        self._outbox = outbox
        # For the connection's life.
        self._loop = loop
        self._can_write: asyncio.Future[None] | None = None
        self._parts = parts
        self._by_parts: PartReader | None = None  # what reads go by
        self._paused = False
        self.transport: asyncio.Transport = None  # type: ignore[assignment]  # set before anyone sees it
        self._readable: Callable[[int], list[Any]] = _nothing  # whether the kernel holds something unread
        self._tls = False
        self.on_lost: Callable[[Connection], None] | None = None
        self.pool: Any = None  # the Pool it is of
        self.born = 0.0  # loop time
        self.expires = 0.0  # loop time after which no exchange may follow
        self.closed = False
        self.lost = False
        self.cause: Exception | None = None  # of being lost
        self.exchanges = 0
        self.idle_since = 0.0
        # For one exchange.
        self._idle_bytes = 0  # since the request or the last part of the body: head, chunk framing, trailers
        self.waiter: asyncio.Future[None] | None = None
        self.listener: Callable[[Connection], None] | None = None
        self.deadline = NEVER
        self.watched: Any = None  # the Exchange whose client may leave
        self.watching: Disconnect | None = None

    # --- the exchange ---

    def start(self, data: bytes, head_only: bool, deadline: float, x: Any = None) -> asyncio.Future[None]:
        """Write a request (or its head). The future is done with the response's head, or when `error` is set.

        `x` is the Exchange whose client is watched while this takes long.
        """
        waiter = self.waiter = self._loop.create_future()
        self.launch(data, head_only, deadline, x, None)
        return waiter

    def launch(
        self,
        data: bytes,
        head_only: bool,
        deadline: float,
        x: Any,
        listener: Callable[[Connection], None] | None,
    ) -> None:
        """The same with `listener(connection)` called when the future would be done; perhaps before this returns."""
        self.expect(head_only)
        self.listener = listener
        self._idle_bytes = 0
        self.exchanges += 1
        self.deadline = deadline
        self.watched = x
        if self.closed:
            self._ended(clean=False)
        elif deadline == NEVER:
            self.dispatch(data)
        else:
            self._outbox.put(self, data)

    def dispatch(self, data: bytes) -> None:
        """Write the request, unless something came before it.

        SECURITY: the loop may not have read yet what the kernel holds. PERF: 0.25 us, where a `recv` that raises takes 0.7.
        """
        if self.stage != UNSENT or self.closed:
            return
        if (self.exchanges > 1 or not self._tls) and self._readable(0):
            self._stale()
            return
        self.stage = HEAD
        self.transport.write(data)

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
        return self.stage == UNSENT or (self.stage == HEAD and not self._idle_bytes)

    def finish(self) -> bool:
        """The exchange is over, however it ended; True when another may follow."""
        clean = self.stage == COMPLETE and self._keep_alive and not self.dirty and not self.closed
        self.forget()
        self.deadline = NEVER
        self.watched = None
        if self.watching is not None:
            self.watching.cancel()
            self.watching = None
        if self._by_parts is not None and clean:
            self._by_parts = None
            self._paused = False
            self.transport.pause_reading()  # how is read is settled when reading begins
            self.transport.set_protocol(cast("asyncio.BaseProtocol", self))
            self.transport.resume_reading()
        return clean

    def fail(self, error: GatewayError) -> None:
        """End the exchange with `error` and the connection with it."""
        if self.error is None:
            self.error = error
        self._wake()
        self.abort()

    def expire(self) -> None:
        """The deadline has passed; unless what it was for has come, and only nobody has run since."""
        self.deadline = NEVER
        if self.listener is not None or (self.waiter is not None and not self.waiter.done()):
            what = "no response head in time" if self.stage == HEAD else "the response stalled"
            self.fail(GatewayError(UPSTREAM_TIMEOUT(what)))

    def abort(self) -> None:
        """Close at once, unsent bytes and all."""
        if not self.closed:
            self.closed = True
            self.transport.abort()

    def _wake(self) -> None:
        listener = self.listener
        if listener is not None:
            self.listener = None
            listener(self)
            return
        waiter = self.waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
        if self.error is not None:
            self.resume_writing()

    def _stale(self) -> None:
        """Something came, were it the end, before the request was written, which therefore is not."""
        self.fail(GatewayError(UPSTREAM_RESET("the connection was no longer at rest when it was taken")))

    def _ended(self, clean: bool) -> None:
        """Nothing more will come. Where only the end of the connection ends a body, a clean end completes it."""
        if self.error is not None or self.stage in _AT_REST:
            return
        if clean and self.stage == BODY and self._unframed and _said_goodbye(self.transport):
            self.stage = COMPLETE  # RFC 9112 section 6.3, rule 8
        else:
            phase = "in its body" if self.stage == BODY else "before its response"
            self.error = GatewayError(UPSTREAM_RESET(f"connection closed {phase}"))
        self._wake()

    # --- asyncio.Protocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is one, without the inheritance
        # With TLS 1.3 session tickets come unasked until the first response has.
        self._tls = transport.get_extra_info("ssl_object") is not None
        poll = select.poll()
        poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN)
        self._readable = poll.poll

    def data_received(self, data: bytes) -> None:
        stage = self.stage
        if stage == HEAD:
            if self.whole(data):
                listener = self.listener
                if listener is None:
                    self._wake()
                else:
                    self.listener = None
                    listener(self)
                return
        elif stage != BODY:
            if stage == UNSENT:
                self._stale()
            else:
                self.abort()
            return
        buffered = self._buffered
        self.feed(data)
        if self.error is not None:
            self.fail(self.error)
        elif self.stage == COMPLETE:
            self._wake()
        else:
            self._partial(len(data), self._buffered > buffered)

    def _partial(self, size: int, body: bool) -> None:
        """A read that did not complete the response: bound what may pile up, in here and in the parser."""
        if body:
            self._idle_bytes = 0
            by_parts = self._by_parts
            enough = HIGH_WATER if by_parts is None else min(HIGH_WATER, len(by_parts.view()))
            if self._buffered >= enough and not self._paused:
                self._paused = True
                self.transport.pause_reading()
                if by_parts is None:
                    x = self.watched
                    http2 = x is not None and x.scope.get("http_version") == "2"
                    self._by_parts = by_parts = PartReader(self, self._parts, self._length(), http2=http2)
                    self.transport.set_protocol(by_parts)
        else:
            self._idle_bytes += size
            if self._idle_bytes > MAX_HEAD_BYTES:
                what = "head" if self.stage == HEAD else "chunk framing"
                self.refuse(f"response {what} too large")
                self.fail(cast("GatewayError", self.error))
                return
        if self.stage == BODY:
            self._wake()

    def _length(self) -> int | None:
        """Of the response's body, when it is told."""
        told = next((value for name, value in self.headers if name == b"content-length"), b"")
        return int(told) if told.isdigit() else None

    def eof_received(self) -> None:
        self._ended(clean=True)
        self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = self.lost = True
        self.cause = exc
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
