"""GATEWAY_PROFILE: how long each stage and handler takes, and how long garbage collection stops the worker.

What is measured is wrapped when routes are compiled; without the setting nothing is wrapped and nothing is asked. A stage or
handler that waits counts until it has its outcome, and a handler whose request goes by callbacks until its lane hears of the
answer: so a handler's time has its service's in it, whichever way the request went.
"""

from __future__ import annotations

import gc
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Any

from kernel.http.problems import Problem

_Step = Callable[[Any], Any]


class _Sums:
    """Where a step's time goes: [seconds, times]."""

    __slots__ = ("_sums",)

    def __init__(self, sums: list[float]) -> None:
        self._sums = sums

    def add(self, began: float) -> None:
        self._sums[0] += perf_counter() - began
        self._sums[1] += 1

    async def finish(self, outcome: Awaitable[Any], began: float) -> Any:
        try:
            return await outcome
        finally:
            self.add(began)


class _TimedLane:
    """The lane of an exchange that is measured."""

    __slots__ = ("_began", "_lane", "_sums")

    def __init__(self, lane: Any, sums: _Sums, began: float) -> None:
        self._lane = lane
        self._sums = sums
        self._began = began

    def over(self, x: Any) -> None:
        self._sums.add(self._began)
        self._lane.over(x)

    def go_on(self, x: Any, rest: Awaitable[None]) -> None:
        self._lane.go_on(x, self._sums.finish(rest, self._began))


class Profile:
    """One a worker. `start` it after the last setting of the collector, `stop` it at the end."""

    def __init__(self) -> None:
        # [seconds, times]
        self._steps: dict[str, list[float]] = {}
        self._pauses: dict[str, list[float]] = {}
        self._began = 0.0

    def start(self) -> None:
        """Listen to the collector."""
        gc.callbacks.append(self._collected)

    def stop(self) -> None:
        if self._collected in gc.callbacks:
            gc.callbacks.remove(self._collected)

    def timed(self, name: str, step: _Step) -> _Step:
        """The stage `step`, measured under `name`."""
        sums = self._sums(name)

        def measured(x: Any) -> Any:
            began = perf_counter()
            outcome = step(x)
            if outcome is None or isinstance(outcome, Problem):
                sums.add(began)
                return outcome
            return sums.finish(outcome, began)

        return measured

    def timed_handler(self, name: str, handler: _Step) -> _Step:
        """The `handler`, measured under `name` until its answer is out."""
        sums = self._sums(name)

        def measured(x: Any) -> Any:
            began = perf_counter()
            if x.lane is not None:
                x.lane = _TimedLane(x.lane, sums, began)
            rest = handler(x)
            return None if rest is None else sums.finish(rest, began)

        return measured

    def _sums(self, name: str) -> _Sums:
        return _Sums(self._steps.setdefault(name, [0.0, 0.0]))

    def families(self) -> dict[str, Any]:
        """For the metrics."""
        return {
            "gateway_stage_seconds": {name: sums.copy() for name, sums in self._steps.items()},
            "gateway_gc_pause_seconds": {name: sums.copy() for name, sums in self._pauses.items()},
        }

    def _collected(self, phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            self._began = perf_counter()
            return
        sums = self._pauses.setdefault(str(info["generation"]), [0.0, 0.0])
        sums[0] += perf_counter() - self._began
        sums[1] += 1
