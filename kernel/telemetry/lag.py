"""How late the event loop is: what every request on this worker waits, whatever it asks for."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

SAMPLE_SECONDS = 0.25
_WINDOW_SECONDS = 30.0
_WEIGHT = 0.1


class LoopLag:
    """Samples by one timer: `average` (moving, seconds) and `worst` of the last 30 to 60 seconds."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.average = 0.0
        self._loop = loop
        self._window = 0.0
        self._before = 0.0
        self._window_end = 0.0
        self._expected = 0.0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def worst(self) -> float:
        """The largest lag of the current and the previous window."""
        return max(self._window, self._before)

    def start(self) -> None:
        """Sample from now on."""
        now = self._loop.time()
        self._window_end = now + _WINDOW_SECONDS
        self._schedule(now)

    def stop(self) -> None:
        """No more samples."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def snapshot(self) -> Mapping[str, float]:
        """A source for `Metrics.register_source`."""
        return {
            "gateway_event_loop_lag_seconds": self.average,
            "gateway_event_loop_lag_max_seconds": self.worst,
        }

    def sample(self, now: float) -> None:
        """Take the lag of a timer that fires at `now`."""
        lag = max(0.0, now - self._expected)
        self.average += _WEIGHT * (lag - self.average)
        if now >= self._window_end:
            self._before, self._window = self._window, 0.0
            self._window_end = now + _WINDOW_SECONDS
        self._window = max(self._window, lag)

    def _tick(self) -> None:
        now = self._loop.time()
        self.sample(now)
        self._schedule(now)

    def _schedule(self, now: float) -> None:
        self._expected = now + SAMPLE_SECONDS
        self._timer = self._loop.call_at(self._expected, self._tick)
