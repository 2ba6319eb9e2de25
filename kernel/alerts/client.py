"""Client: one open stream, from its first frame to its last.

1. It reads on from the position it knows, page by page, until it stands where this worker's fan-out stands.
2. It joins the fan-out, which from then on appends to its queue. Nothing can lie between the two: whoever is not beyond
   the fan-out's position has to read again.
3. It ends when its client leaves or cannot keep up, its rights are lost, or the worker drains.

A position that is no good any more (alerts after it were trimmed, or the store lost its data) gives one `reset`: what the
client knows has a gap, and what follows is all that is still kept, the oldest first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Protocol

from kernel.alerts.counters import Counters
from kernel.alerts.event import (
    HEARTBEAT,
    RETRY_DRAINED,
    Event,
    decoded,
    expired_frame,
    id_frame,
    reset_frame,
    retry_frame,
)
from kernel.store.alertlog import AlertLog, Position
from kernel.store.errors import StoreError

Write = Callable[[bytes], Awaitable[None]]

# Bytes that leave in one write.
_CHUNK = 64 * 1024
_RETRY = 0.5
# Between two looks at a fan-out that is itself catching up.
_MEANWHILE = 0.02
# A queue over its bound is forgiven for so long, and up to so many times the bound: a burst may fill it within one turn of
# the loop, before a stream that keeps up has had its turn.
_GRACE = 0.1
_EXCESS = 4
# How long what ends a stream may take: a client that does not read holds nothing up.
LINGER = 0.5

# Why a stream ended.
GONE, SLOW, AUTH, DRAIN = "client", "slow", "auth", "drain"


class Wants:
    """Which alerts a stream is for: of these severities (lower-case) and types; None: of any."""

    __slots__ = ("severities", "types")

    def __init__(self, severities: frozenset[str] | None = None, types: frozenset[str] | None = None) -> None:
        self.severities = severities
        self.types = types

    def __contains__(self, event: Event) -> bool:
        return (self.severities is None or event.severity in self.severities) and (
            self.types is None or event.type in self.types
        )


ALL = Wants()


class Place(Protocol):
    """Where a stream's alerts are handed on: a tenant's topic (see fanout.py)."""

    tenant: str

    def admit(self, client: Client) -> bool: ...


class Hub(Protocol):
    """What a stream needs of the fan-out that made it."""

    log: AlertLog
    numbers: Counters
    max_events: int
    max_bytes: int
    page: int
    readers: asyncio.Semaphore
    connection: int

    def wake_soon(self, client: Client) -> None: ...


class Client:
    """Made by `Fanout.open`; `run` it, then `Fanout.close` it.

    `ended` is why it ended, "" while it is open.
    """

    __slots__ = (
        "_fanout",
        "_last",
        "_queue",
        "_since",
        "_size",
        "_task",
        "_told",
        "_waiter",
        "_wants",
        "dirty",
        "ended",
        "position",
        "slot",
        "topic",
    )

    def __init__(self, fanout: Hub, topic: Place, known: Position | None, wants: Wants) -> None:
        self.topic = topic
        self.position = known
        self.ended = ""
        # In the fan-out's list of those to be woken.
        self.dirty = False
        # Which of the fan-out's heartbeats are its own.
        self.slot = 0
        self._fanout = fanout
        self._wants: Wants | None = None if wants is ALL else wants
        self._queue: list[bytes] = []
        self._size = 0
        # The newest position that the client has an id of.
        self._told = known
        self._last = b""
        # When the write that is under way began; 0: none is.
        self._since = 0.0
        self._waiter: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None

    async def run(self, write: Write) -> bool:
        """Write frames until the stream ends; False when a write had to be given up: the rest cannot be written either.

        Over at most half a second after `ended` is set, whatever it waits for.
        """
        self._task = asyncio.current_task()
        try:
            await self._catch_up(write)
            create_future = asyncio.get_running_loop().create_future
            while not self.ended:
                if self._queue:
                    await self._flush(write)
                else:
                    self._waiter = create_future()
                    await self._waiter
            if self._last:
                self._put(self._last)
                await self._flush(write)
            return self.ended != SLOW
        except asyncio.CancelledError:
            if not self.ended or self._task is None:
                raise
            self._task.uncancel()
            return False
        finally:
            self._task = None

    def offer(self, event: Event) -> None:
        """The next recorded alert. Nobody waits: a queue that is full ends the stream, and the client resumes it."""
        if self.position is None or event.position <= self.position or self.ended:
            return
        self.position = event.position
        if self._wants is None or event in self._wants:
            self._told = event.position
            self._put(event.frame)
            self._fanout.numbers.sent += 1

    def reset(self, reason: str, position: Position) -> None:
        """What was missed is lost; the client stands at `position` now."""
        self._fanout.numbers.resets[reason] += 1
        self.position = self._told = position
        self._put(reset_frame(reason, position))

    def beat(self, now: float, stall: float) -> None:
        """A sign of life; one write that takes longer than `stall` seconds ends the stream."""
        if self._since:
            if now - self._since > stall:
                self._cut()
        elif not self._queue:
            # Alerts that were filtered out count as known, too: they need not be read again after a break.
            if self.position is not None and self.position != self._told:
                self._told = self.position
                self._put(HEARTBEAT[:-1] + id_frame(self.position))
            else:
                self._put(HEARTBEAT)

    def end(self, reason: str, last: bytes = b"") -> None:
        """End the stream, with `last` as its last frame if it can be written soon."""
        if self.ended:
            return
        self.ended = reason
        self._last = last
        self.wake()
        asyncio.get_running_loop().call_later(LINGER, self._force)

    def leave(self) -> None:
        """The client has left."""
        self.end(GONE)

    def drain(self) -> None:
        """The worker ends."""
        self.end(DRAIN, retry_frame(RETRY_DRAINED))

    def expire(self, code: str) -> None:
        """The client's rights are lost; `code` is that of the problem a request would get."""
        self.end(AUTH, expired_frame(code))

    def wake(self) -> None:
        """There is something to do."""
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _put(self, frame: bytes) -> None:
        self._queue.append(frame)
        self._size += len(frame)
        fanout = self._fanout
        over = max(len(self._queue) / fanout.max_events, self._size / fanout.max_bytes)
        if over > 1 and (over > _EXCESS or (self._since and monotonic() - self._since > _GRACE)):
            self._cut()
        elif not self.dirty:
            fanout.wake_soon(self)

    def _cut(self) -> None:
        self.ended = self.ended or SLOW
        self._queue = []
        self._size = 0
        self.wake()
        if self._since:
            self._force()

    def _force(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _flush(self, write: Write) -> None:
        """Write all that is queued, several frames at a time."""
        while self._queue:
            queue = self._queue
            if self._size <= _CHUNK:
                chunk = b"".join(queue) if len(queue) > 1 else queue[0]
                self._queue = []
                self._size = 0
            else:
                count = size = 0
                # One frame may be larger than a chunk.
                while count < len(queue) and (not count or size + len(queue[count]) <= _CHUNK):
                    size += len(queue[count])
                    count += 1
                chunk = b"".join(queue[:count])
                del queue[:count]
                self._size -= size
            await self._write(write, chunk)

    async def _write(self, write: Write, chunk: bytes) -> None:
        self._since = monotonic()
        try:
            await write(chunk)
        finally:
            self._since = 0.0

    async def _catch_up(self, write: Write) -> None:
        fanout, topic = self._fanout, self.topic
        while not self.ended:
            connection = fanout.connection
            try:
                async with fanout.readers:
                    page = await fanout.log.read(topic.tenant, self.position, fanout.page)
            except StoreError:
                # The stream stays open: a page that is refused would not come back by itself.
                await self._pause(_RETRY, write)
                continue
            if page.verdict != "ok":
                self.reset(page.verdict, page.start)
            events = decoded(page.entries)
            frames = [event.frame for event in events if self._takes(event)]
            if frames:
                fanout.numbers.replayed += len(frames)
                fanout.numbers.sent += len(frames)
            # Not through the queue's bound: a page is bounded, and the next is read when this one is written.
            self._queue += frames
            self._size += sum(map(len, frames))
            self.position = page.position
            await self._flush(write)
            if page.more or connection != fanout.connection:
                continue
            if topic.admit(self):
                break
            await self._pause(_MEANWHILE, write)
        if not self.ended and self.position is not None and self._told != self.position:
            self._told = self.position
            self._put(id_frame(self.position))

    def _takes(self, event: Event) -> bool:
        if self._wants is not None and event not in self._wants:
            return False
        self._told = event.position
        return True

    async def _pause(self, seconds: float, write: Write) -> None:
        loop = asyncio.get_running_loop()
        self._waiter = loop.create_future()
        timer = loop.call_later(seconds, self.wake)
        await self._waiter
        timer.cancel()
        await self._flush(write)
