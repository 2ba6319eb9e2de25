"""Recording: what one exchange says, noted while it says it. Nothing is formatted, redacted or written here.

PERF: the loop pays an object, the exchange's `send` by way of a method, and an entry in a dict; the rest is the thread's
(writing.py). Figures are in docs/capture.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from time import perf_counter, time

from kernel.exchange.asgi import HeaderList, Message
from kernel.exchange.exchange import Exchange
from kernel.exchange.inner import INNER

FLUSH_SECONDS = 0.1
# What waits to be written, in records and in bytes of bodies; more is dropped, and counted.
MAX_WAITING = 16_384
MAX_BODY_BYTES = 32 * 1024 * 1024
_STREAM = b"text/event-stream"

Take = Callable[[list["Recording"]], None]


class Recording:
    """One exchange. `x` is read when it is over: what it holds then lasts."""

    __slots__ = (
        "_receive",
        "_recorder",
        "_send",
        "answer",
        "asked",
        "began",
        "client",
        "cut_asked",
        "cut_told",
        "ended",
        "headed",
        "headers",
        "held",
        "host",
        "query",
        "socket",
        "status",
        "told",
        "version",
        "x",
    )

    def __init__(self, recorder: Recorder, x: Exchange) -> None:
        self.x = x
        self.began = time()
        scope = x.scope
        self.headers: HeaderList = scope["headers"]
        self.host: bytes = x.captured.get(b"host", b"")
        self.query = x.query  # before credentials are taken out of it
        self.client: str = scope["client"][1]
        self.version: str = scope["http_version"]
        self.socket: bool = scope["type"] == "websocket"
        # The response's head, and when it went out.
        self.status = 0
        self.answer: HeaderList = []
        self.headed = self.ended = 0.0
        # Bodies: as much of each as is kept.
        self.asked: list[bytes] = []
        self.told: list[bytes] = []
        self.cut_asked = self.cut_told = False  # there was more
        self.held = 0
        self._recorder = recorder
        self._send = x.send
        x.send = self._sent
        self._receive = x.receive
        if recorder.body_bytes and x.has_body:
            x.receive = self._received

    def _sent(self, message: Message) -> Awaitable[None]:
        if not self.status:
            self.status = message["status"]
            self.answer = message["headers"]
            self.headed = perf_counter()
            if any(name == b"content-type" and value.startswith(_STREAM) for name, value in self.answer):
                self._recorder.streams(self)
        else:
            self.tell(message.get("body", b""))
        return self._send(message)

    async def _received(self) -> Message:
        message = await self._receive()
        body = message.get("body", b"")
        if body and not self.ended and self._recorder.keep(self.asked, body, self):
            self.cut_asked = True
        return message

    def tell(self, body: bytes) -> None:
        """A part of the response's body."""
        if body and not self.ended and self._recorder.body_bytes:
            self.cut_told = self._recorder.keep(self.told, body, self) or self.cut_told

    def leave(self) -> None:
        """The exchange goes on without this: a stream, of which no more is kept."""
        x = self.x
        if x.send == self._sent:
            x.send = self._send


class Recorder:
    """One a worker. `take` gets what is over, in batches, and tells `written` when it let go of them.

    Args:
        body_bytes: of each body, how much is kept; 0: bodies are not looked at.
    """

    def __init__(self, take: Take, body_bytes: int) -> None:
        self.body_bytes = body_bytes
        self.dropped = 0
        self._take = take
        self._live: dict[Exchange, Recording] = {}
        self._over: list[Recording] = []
        self._timer: asyncio.TimerHandle | None = None
        # Each is written by one side only, the loop's and the thread's: no lock.
        self._taken = self._taken_bytes = 0
        self._done = self._done_bytes = 0

    def begin(self, x: Exchange) -> None:
        """Note what becomes of `x` from here on; of what the gateway asks itself for a client, nothing."""
        if x.scope["type"] != INNER:
            self._live[x] = Recording(self, x)

    def finished(self, x: Exchange) -> None:
        """It is over, whether anything was answered or not."""
        recording = self._live.pop(x, None)
        if recording is not None:
            if x.held is not None:
                recording.tell(x.held)
            recording.ended = perf_counter()
            self._end(recording)

    def streams(self, recording: Recording) -> None:
        """A stream has begun: of it only the head is kept, and that at once."""
        self._live.pop(recording.x, None)
        recording.ended = recording.headed
        recording.leave()
        self._end(recording)

    def keep(self, parts: list[bytes], body: bytes, recording: Recording) -> bool:
        """Keep `body` as far as there is room for it; True when some of it was not kept."""
        left = self.body_bytes - sum(map(len, parts))
        left = min(left, MAX_BODY_BYTES - (self._taken_bytes - self._done_bytes))
        kept = body if len(body) <= left else body[: max(left, 0)]
        if kept:
            parts.append(kept)
            recording.held += len(kept)
            self._taken_bytes += len(kept)
        return len(kept) < len(body)

    def written(self, count: int, held: int) -> None:
        """The thread has let go of `count` records with bodies of `held` bytes."""
        self._done_bytes += held
        self._done += count

    def flush(self) -> None:
        """Hand over what is over; returns at once."""
        over, self._over = self._over, []
        if over:
            self._take(over)

    def close(self) -> None:
        """Hand over everything, what is still going on as it is now."""
        for x in list(self._live):
            self.finished(x)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.flush()

    def _end(self, recording: Recording) -> None:
        if self._taken - self._done >= MAX_WAITING:
            self.dropped += 1
            self._taken_bytes -= recording.held
            del recording.x  # each holds the other
            return
        self._taken += 1
        self._over.append(recording)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_SECONDS, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self.flush()
