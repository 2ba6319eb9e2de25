"""Pauses grow, have a bound, differ, and begin anew."""

from __future__ import annotations

from kernel.store.pace import Pace


def test_pauses_double_up_to_a_bound_below_two_seconds() -> None:
    pace = Pace(0.25)
    pauses = [pace.pause() for _ in range(200)]
    for pause, middle in zip(pauses, (0.25, 0.5, 1.0, 1.5, 1.5), strict=False):
        assert 0.75 * middle <= pause <= 1.25 * middle
    assert max(pauses) < 1.9
    assert len(set(pauses[4:])) > 100
    pace.rest()
    assert pace.pause() <= 0.3125
