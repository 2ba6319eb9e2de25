"""GATEWAY_PROFILE: how long each stage and handler takes, and how long garbage collection stops the worker.

What is measured is wrapped when routes are compiled; without the setting nothing is wrapped and nothing is asked. A stage or
handler that waits counts until it has its outcome, so a handler's time has its service's in it; for that every request is a
task, as none on the callback lane is.
"""

from __future__ import annotations

import gc
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Any

from kernel.http.problems import Problem

_Step = Callable[[Any], Any]


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
        """`step`, measured under `name`."""
        sums = self._steps.setdefault(name, [0.0, 0.0])

        def add(began: float) -> None:
            sums[0] += perf_counter() - began
            sums[1] += 1

        async def finish(outcome: Awaitable[Any], began: float) -> Any:
            try:
                return await outcome
            finally:
                add(began)

        def measured(x: Any) -> Any:
            began = perf_counter()
            outcome = step(x)
            if outcome is None or isinstance(outcome, Problem):
                add(began)
                return outcome
            return finish(outcome, began)

        return measured

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
