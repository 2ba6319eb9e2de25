"""Replay: the requests of a capture once more, and in what the answers differ, gathered by place."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from time import perf_counter
from typing import NamedTuple
from urllib.parse import urlsplit

from kernel.capture.compare import BODY, FAILURE, Difference, Rules, differences
from kernel.capture.reading import Read
from kernel.capture.resend import Outgoing, Resender, answer
from kernel.capture.target import Target, Unanswered

_ID = re.compile(r"[0-9]+|[0-9a-fA-F-]{16,}|(?=[^/]*[0-9])[A-Za-z0-9_-]{20,}")
# A capture of what is no longer alike must not fill the memory.
_MOST_PLACES = 1000
_WAITING = 64


class Unreachable(Exception):
    """Nobody answers at the target; the message says why."""


class Place(NamedTuple):
    """Where answers differ: ids in a path and positions in a list do not make another place."""

    method: str
    path: str
    kind: str
    where: str


@dataclass
class Found:
    """What was found at a place: in how many requests, and the first of them."""

    requests: int
    first: Read
    difference: Difference


class Result(NamedTuple):
    """One request whose answer was another, or none."""

    read: Read
    differences: list[Difference]


@dataclass
class Report:
    """What became of a replay."""

    sent: int = 0
    same: int = 0
    different: int = 0
    unanswered: int = 0
    # Of those that are the same: how many whose bodies there was nothing to compare of.
    bodies_unknown: int = 0
    # Of those that were sent: how many without a secret that their query had.
    shortened: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    places: dict[Place, Found] = field(default_factory=dict)
    more_places: int = 0
    seconds: float = 0.0

    def add(self, read: Read, found: list[Difference]) -> None:
        """Count what one answer differs in; once at each place."""
        request = read.entry.request
        path = _path(request.url)
        known: set[Place] = set()
        for difference in found:
            where = "" if difference.kind == BODY else re.sub(r"/[0-9]+(?=/|\Z)", "/*", difference.where)
            place = Place(request.method, path, difference.kind, where)
            if place in known:
                continue
            known.add(place)
            if place in self.places:
                self.places[place].requests += 1
            elif len(self.places) < _MOST_PLACES:
                self.places[place] = Found(1, read, difference)
            else:
                self.more_places += 1


async def replay(
    reads: Iterable[Read],
    resender: Resender,
    target: Target,
    rules: Rules,
    *,
    concurrency: int = 1,
    rate: float = 0.0,
    each: Callable[[Result], None] = lambda result: None,
) -> Report:
    """Send what `reads` gives, in its order, and compare.

    Args:
        concurrency: how many at once. Requests of one captured connection stay in their order.
        rate: requests a second, begun evenly; 0.0: each as soon as the one before is answered.
        each: is told of every request whose answer differs.

    Raises:
        Unreachable: before anything was answered. Unreadable.
    """
    report = Report()
    lanes = [_Lane(report, target, rules, each) for _ in range(concurrency)]
    started = perf_counter()
    runs = [asyncio.create_task(lane.run()) for lane in lanes]
    try:
        for number, (read, request) in enumerate(_requests(reads, resender, report)):
            if rate:
                await asyncio.sleep(started + number / rate - perf_counter())
            connection = read.entry.connection
            lane = lanes[(hash(connection) if connection else number) % concurrency]
            await _put(lane, (read, request), runs)
        for lane in lanes:
            await _put(lane, None, runs)
        await asyncio.gather(*runs)
    finally:
        for run in runs:
            run.cancel()
        await asyncio.gather(*runs, return_exceptions=True)
    report.seconds = perf_counter() - started
    return report


def _requests(reads: Iterable[Read], resender: Resender, report: Report) -> Iterable[tuple[Read, Outgoing]]:
    for read in reads:
        request = resender.request(read.entry)
        if isinstance(request, str):
            report.left_out[request] += 1
        else:
            yield read, request


async def _put(lane: _Lane, item: tuple[Read, Outgoing] | None, runs: list[asyncio.Task[None]]) -> None:
    """Hand over to a lane, unless one of them has failed: that is raised."""
    putting = asyncio.ensure_future(lane.queue.put(item))
    try:
        while not putting.done():
            going = [run for run in runs if not run.done()]
            await asyncio.wait((putting, *going), return_when=asyncio.FIRST_COMPLETED)
            for run in runs:
                if run.done():
                    run.result()
    finally:
        putting.cancel()


class _Lane:
    """Requests that are sent one after the other."""

    def __init__(self, report: Report, target: Target, rules: Rules, each: Callable[[Result], None]) -> None:
        self.queue: asyncio.Queue[tuple[Read, Outgoing] | None] = asyncio.Queue(_WAITING)
        self._report = report
        self._target = target
        self._rules = rules
        self._each = each

    async def run(self) -> None:
        while (item := await self.queue.get()) is not None:
            await self._one(*item)

    async def _one(self, read: Read, request: Outgoing) -> None:
        report = self._report
        now = await self._target.ask(request)
        report.sent += 1
        report.shortened += request.shortened
        if isinstance(now, Unanswered):
            if now.unreached and not report.same + report.different:
                raise Unreachable(now.why)
            report.unanswered += 1
            found = [Difference(FAILURE, "", str(read.entry.response.status), now.why)]
        else:
            was = answer(read.entry)
            found = differences(was, now, self._rules)
            if found:
                report.different += 1
            else:
                report.same += 1
                report.bodies_unknown += was.body is None and now.body not in (None, "")
        if found:
            report.add(read, found)
            self._each(Result(read, found))


def _path(url: str) -> str:
    """The path of a URL, ids in it as one."""
    return "/".join(
        "{id}" if _ID.fullmatch(segment) else segment for segment in urlsplit(url).path.split("/")
    )
