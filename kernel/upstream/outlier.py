"""Outlier detection: a replica that does nothing but fail is left alone for a while, as long as the others are well.

As Envoy's: five failures in a row (statuses of 5xx, answers that break off, connections that do), half a minute for each time
it happened lately, five minutes at most; never more than half of the replicas, never the last that is well.

A response that is late counts as nothing here: it may be the question's fault (see breaker.py). So do 501 and 505.
"""

from __future__ import annotations

from collections.abc import Sequence

_IN_A_ROW = 5
# Who was let back in is known: it takes fewer.
_IN_A_ROW_AGAIN = 2
_SECONDS = 30.0
_LONGEST_SECONDS = 300.0
_BLAMELESS = frozenset({501, 505})


class Standing:
    """How one replica does beside the others. `until` (loop time) is when it may have requests again; 0: it always could."""

    __slots__ = ("ejections", "in_a_row", "until", "well")

    def __init__(self) -> None:
        self.well = False  # its last answer was a good one
        self.in_a_row = 0
        self.until = 0.0
        self.ejections = 0

    def answered(self, status: int) -> bool:
        """It gave a whole answer; True when that is a failure, for which it is to be blamed."""
        if status < 500 or status in _BLAMELESS:
            self.in_a_row = 0
            self.well = True
            return False
        return True


def blame(it: Standing, all_of_them: int, others: Sequence[Standing], now: float) -> None:
    """Count a failure of `it`, and eject it if that is fair. `others` are those whose breakers are closed."""
    it.in_a_row += 1
    it.well = False
    if it.in_a_row < _IN_A_ROW or now < it.until:
        return
    left = [each for each in others if now >= each.until]
    well = [each for each in left if each.well]
    # When most of them fail too, it is what was asked.
    if not well or 2 * len(well) < len(left) or 2 * len(left) < all_of_them:
        return
    quiet = int((now - it.until) / _SECONDS) if it.until else 0
    it.ejections = max(0, it.ejections - quiet) + 1
    it.until = now + min(_SECONDS * it.ejections, _LONGEST_SECONDS)
    it.in_a_row = _IN_A_ROW - _IN_A_ROW_AGAIN
