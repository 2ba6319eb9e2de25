"""Mirror: copies of a service's requests go to another version of it, whose answers are compared and dropped.

A copy is sent when the service's answer is out, so that no client waits for it; of a request that the service did not answer
there is none. It says what the service was told, credentials included, and `x-mirrored: 1`.

All of it is bounded, for each worker and service: copies under way, bytes of their bodies, seconds, and what is read of an
answer. What is beyond the bounds is counted and not copied. A drain waits for no copy.
"""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Awaitable, Mapping
from functools import partial

from kernel.exchange.asgi import Message, Receive
from kernel.exchange.exchange import Exchange, Handler, Lane
from kernel.http.problems import UPSTREAM_CONNECT_TIMEOUT, GatewayError
from kernel.routing.catalog import RouteRow
from kernel.routing.traffic import Mirror
from kernel.telemetry.log import Log
from kernel.telemetry.trace import Tracer
from kernel.upstream.attempt import Attempt
from kernel.upstream.balance import Upstream
from kernel.upstream.forward import METHODS, NO_LENGTH
from kernel.upstream.http1 import Connection
from kernel.upstream.request_headers import header_lines, host_line

MOST_UNDER_WAY = 100
MOST_BODY = 64 * 1024
MOST_BYTES = 4 * 1024 * 1024
# More is not worth the time: what counts is the status.
MOST_ANSWER = 1024 * 1024
# Different pairs of statuses; more are told together.
_MOST_PAIRS = 100
_MARK = b"x-mirrored: 1\r\n"
_STREAM = b"text/event-stream"

# What became of a copy.
SAME, DIFFERENT, FAILED, BUSY, BODY = "same", "different", "failed", "busy", "body"


class Mirroring:
    """Of `service`, to `upstream`, as `mirror` says. One a worker and service."""

    def __init__(self, mirror: Mirror, service: str, upstream: Upstream, tracer: Tracer, log: Log) -> None:
        self.mirror = mirror
        self.results: defaultdict[str, int] = defaultdict(int)
        # (the service's status, the mirror's) where they differ.
        self.pairs: dict[tuple[str, str], int] = {}
        self.held = 0  # bytes of bodies
        self._service = service
        self._upstream = upstream
        self._tracer = tracer
        self._log = log
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def under_way(self) -> int:
        """Copies."""
        return len(self._tasks)

    def behind(self, handler: Handler, row: RouteRow) -> Handler:
        """`handler`, with copies made of some of its requests."""
        methods = self.mirror.methods & row.answered
        percent = self.mirror.percent
        if not methods or not percent:
            return handler

        def mirrored(x: Exchange) -> Awaitable[None] | None:
            drawn = x.method in methods and random.random() * 100 < percent  # noqa: S311  # hides nothing
            if not drawn or _streams(x):
                return handler(x)
            body: _Body | None = None
            if x.has_body:
                if x.content_length > MOST_BODY:
                    self.results[BODY] += 1
                    return handler(x)
                body = _Body(self, x)
                x.receive = body.receive
            # The forwarder makes the service's lines of them, in place.
            lines = x.lines.copy()
            if x.lane is not None:
                x.lane = _Behind(x.lane, self, lines)
            rest = handler(x)
            return None if rest is None else self.after(x, rest, lines, body)

        return mirrored

    async def after(
        self, x: Exchange, rest: Awaitable[None], lines: list[bytes], body: _Body | None = None
    ) -> None:
        """What is left of the exchange, then its copy; unless it was answered with an event stream."""
        send, stream = x.send, False

        def noting(message: Message) -> Awaitable[None]:
            nonlocal stream
            if message["type"] == "http.response.start":
                stream = any(
                    name == b"content-type" and value.lower().startswith(_STREAM)
                    for name, value in message["headers"]
                )
            return send(message)

        x.send = noting
        try:
            await rest
            if stream:
                return
            if body is None or body.whole:
                self.copy(x, lines, body)
            else:
                self.results[BODY] += 1
        finally:
            if body is not None:
                body.drop()

    def copy(self, x: Exchange, lines: list[bytes], body: _Body | None = None) -> None:
        """Send a copy of `x`, which came with `lines` and is answered. Returns at once, and raises nothing."""
        if len(self._tasks) >= MOST_UNDER_WAY:
            self.results[BUSY] += 1
            return
        x.lines = lines
        try:
            self._start(x, b"" if body is None else b"".join(body.parts))
        except Exception:
            self._failed()

    async def close(self) -> None:
        """Give up what is under way."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _start(self, x: Exchange, data: bytes) -> None:
        trace = x.trace
        lines = header_lines(x, self._tracer, refresh_token=self._service == "auth")
        x.trace = trace  # the access log's
        if self._upstream.stand_in:
            lines = host_line(x, self._upstream.stand_in) + lines
        framing = b"\r\n" if not data and x.method in NO_LENGTH else b"content-length: %d\r\n\r\n" % len(data)
        target = x.target + b"?" + x.query if x.query else x.target
        request = (b"%b %b" % (METHODS[x.method], target), lines + _MARK + framing + data)
        task = asyncio.get_running_loop().create_task(self._send(request, x.method, bool(data), x.status))
        self._tasks.add(task)
        self.held += len(data)
        task.add_done_callback(partial(self._ended, len(data)))

    def _ended(self, size: int, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self.held -= size

    def _failed(self) -> None:
        """Within an `except`: whatever it is, the request was answered."""
        self.results[FAILED] += 1
        self._log.exception("a copy of a request could not be sent", service=self._upstream.name)

    async def _send(self, request: tuple[bytes, bytes], method: str, has_body: bool, status: int) -> None:
        try:
            theirs = await self._answer(request, method == "HEAD", has_body)
        except GatewayError:
            self.results[FAILED] += 1
        except Exception:
            self._failed()
        else:
            self._compare(status, theirs)

    async def _answer(self, request: tuple[bytes, bytes], head_only: bool, has_body: bool) -> int:
        """The status of the answer, which is read to its end if that is near.

        Raises:
            GatewayError: there is none. The breaker and the metrics know.
        """
        upstream = self._upstream
        first, rest = request
        end = upstream.sweeper.now + self.mirror.timeout
        # It is written once: whether the mirror may have it twice, only the mirror could say.
        attempt = Attempt(upstream, False, has_body)
        status = 0
        while True:
            try:
                connection = attempt.take_idle() or await self._connect(attempt, end)
                await attempt.send(first + attempt.replica.proxy_line + rest, head_only, end)
                if connection.error is not None:
                    raise connection.error
                attempt.answered()
                status = connection.status
                left = MOST_ANSWER
                while left > 0 and (part := await connection.read(end)):
                    left -= len(part)
                return status
            except GatewayError as error:
                if status:
                    attempt.broke_off(error.problem.kind)
                    return status
                if not attempt.failed(error.problem.kind, in_hand=True):
                    raise
            finally:
                attempt.give_back()

    async def _connect(self, attempt: Attempt, end: float) -> Connection:
        sweeper = self._upstream.sweeper
        try:
            with sweeper.timeouts.limit(sweeper.now, end - sweeper.now):
                return await attempt.acquire()
        except TimeoutError:
            raise GatewayError(UPSTREAM_CONNECT_TIMEOUT("no connection in time")) from None

    def _compare(self, ours: int, theirs: int) -> None:
        if ours == theirs:
            self.results[SAME] += 1
            return
        self.results[DIFFERENT] += 1
        pair = (str(ours), str(theirs))
        if pair not in self.pairs and len(self.pairs) >= _MOST_PAIRS:
            pair = ("other", "other")
        self.pairs[pair] = self.pairs.get(pair, 0) + 1


class _Behind:
    """The lane of a request that is copied when it is over."""

    __slots__ = ("_lane", "_lines", "_mirroring")

    def __init__(self, lane: Lane, mirroring: Mirroring, lines: list[bytes]) -> None:
        self._lane = lane
        self._lines = lines
        self._mirroring = mirroring

    def over(self, x: Exchange) -> None:
        self._lane.over(x)
        self._mirroring.copy(x, self._lines)

    def go_on(self, x: Exchange, rest: Awaitable[None]) -> None:
        self._lane.go_on(x, self._mirroring.after(x, rest, self._lines))


class _Body:
    """What `x` has read of its body, as long as that is within bounds."""

    __slots__ = ("_length", "_mirroring", "_receive", "_size", "parts", "receive", "whole")

    def __init__(self, mirroring: Mirroring, x: Exchange) -> None:
        self._mirroring = mirroring
        self._length = x.content_length
        self._receive = x.receive
        self._size = 0
        self.parts: list[bytes] = []
        self.whole = False
        self.receive: Receive = self._next

    def drop(self) -> None:
        """It is of no use any more."""
        self._mirroring.held -= sum(map(len, self.parts))
        self.parts = []

    async def _next(self) -> Message:
        message = await self._receive()
        if self._size <= MOST_BODY:
            self._keep(message)
        return message

    def _keep(self, message: Message) -> None:
        part: bytes = message.get("body", b"")
        self._size += len(part)
        if self._size > MOST_BODY or self._mirroring.held + len(part) > MOST_BYTES:
            self._size = MOST_BODY + 1
            self.whole = False
            self.drop()
            return
        self.parts.append(part)
        self._mirroring.held += len(part)
        ended = not message.get("more_body", False) or self._size == self._length
        self.whole = ended and message["type"] == "http.request"


def _streams(x: Exchange) -> bool:
    """Whether it asks for an event stream, of which a copy would be another stream."""
    return any(line.startswith(b"accept:") and _STREAM in line.lower() for line in x.lines)


def families(mirrorings: Mapping[str, Mirroring]) -> dict[str, dict[tuple[str, ...] | str, int]]:
    """Their metrics, beside those that the mirrors have as services do."""
    return {
        "gateway_mirror_requests_total": {
            (name, result): count
            for name, each in mirrorings.items()
            for result, count in each.results.items()
        },
        "gateway_mirror_differences_total": {
            (name, *pair): count for name, each in mirrorings.items() for pair, count in each.pairs.items()
        },
        "gateway_mirror_under_way": {name: each.under_way for name, each in mirrorings.items()},
    }
