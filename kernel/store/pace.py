"""Pace: how long to wait before somebody who was lost is asked again."""

from __future__ import annotations

import random

_MOST = 6


class Pace:
    """Pauses that double from `first` seconds to six times that, with jitter: a fleet's workers shall not knock in step.

    With the usual quarter of a second the longest is 1.9 s: so long may a store be back before it is noticed.
    """

    __slots__ = ("_first", "_next")

    def __init__(self, first: float) -> None:
        self._first = first
        self._next = first

    def pause(self) -> float:
        """Seconds to wait now."""
        pause = self._next
        self._next = min(2 * pause, _MOST * self._first)
        return pause * random.uniform(0.75, 1.25)  # noqa: S311

    def rest(self) -> None:
        """It went well: begin with the shortest pause the next time."""
        self._next = self._first
