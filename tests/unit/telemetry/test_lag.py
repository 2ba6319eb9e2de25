from __future__ import annotations

import asyncio
import time

from kernel.telemetry.lag import LoopLag


class Clock:
    """A loop that only knows the time."""

    def __init__(self) -> None:
        self.now = 100.0

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: object) -> None:
        self.when = when


def lagging() -> tuple[LoopLag, Clock]:
    clock = Clock()
    lag = LoopLag(clock)  # type: ignore[arg-type]
    lag.start()
    return lag, clock


def test_the_average_follows_and_the_worst_stays_for_two_windows() -> None:
    lag, clock = lagging()
    clock.now = clock.when + 0.5
    lag._tick()
    assert lag.worst == 0.5
    assert 0 < lag.average < 0.5
    for _ in range(130):
        clock.now = clock.when
        lag._tick()
    assert lag.worst == 0.5
    assert lag.average < 0.001
    for _ in range(130):
        clock.now = clock.when
        lag._tick()
    assert lag.worst == 0.0


def test_a_timer_that_is_early_is_no_lag() -> None:
    lag, clock = lagging()
    clock.now = clock.when - 0.001
    lag._tick()
    assert lag.worst == 0.0


async def test_a_blocked_loop_shows() -> None:
    lag = LoopLag(asyncio.get_running_loop())
    lag.start()
    await asyncio.sleep(0)
    time.sleep(0.35)
    while not lag.worst:
        await asyncio.sleep(0.01)
    assert lag.worst > 0.05
    assert lag.snapshot()["gateway_event_loop_lag_max_seconds"] == lag.worst
    lag.stop()
