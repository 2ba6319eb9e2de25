"""How the time of a subscription change is read."""

from __future__ import annotations

from time import time

import pytest

from kernel.tenancy.timestamps import Timestamps


@pytest.mark.parametrize(
    ("value", "moment"),
    [
        ("1735689600", 1735689600.0),
        ("1735689600.5", 1735689600.5),
        (" 1735689600 ", 1735689600.0),
        ("2025-01-01T00:00:00Z", 1735689600.0),
        ("2025-01-01T01:00:00+01:00", 1735689600.0),
        ("2025-01-01T00:00:00", 1735689600.0),
        ("2025-01-01", 1735689600.0),
    ],
)
def test_seconds_and_iso_8601_are_read(value: str, moment: float) -> None:
    timestamps = Timestamps()
    assert timestamps.read("k", value) == moment
    assert timestamps.unreadable == 0


@pytest.mark.parametrize("value", ["", "yesterday", "nan", "inf", "-inf", "{}", "1735689600000", "-1e20"])
def test_an_unreadable_value_is_the_moment_it_was_first_seen(value: str) -> None:
    complaints: list[tuple[str, str]] = []
    timestamps = Timestamps(lambda key, value: complaints.append((key, value)))
    before = time()
    first = timestamps.read("k", value)
    assert before <= first <= time()
    assert timestamps.read("k", value) == first
    assert timestamps.unreadable == 1
    assert complaints == [("k", value)]


def test_memory_stays_bounded() -> None:
    timestamps = Timestamps()
    for number in range(10_000):
        timestamps.read("k", str(number))
    assert len(timestamps._memo) <= 4096
