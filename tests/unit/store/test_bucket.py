"""A worker's own view of a bucket: how much to ask for, and how to go on without a store."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel.routing.catalog import Limit
from kernel.store.bucket import Bucket


def bucket(requests: int = 100, window: float = 10.0) -> Bucket:
    return Bucket("k", Limit(requests=requests, window=window), 1, 0.0, 0)


def alone(each: Bucket, at: float, fleet: int, most: int = 1000) -> int:
    """How many requests are admitted at one moment."""
    count = 0
    while count < most and each.take_alone(at, fleet)[0]:
        count += 1
    return count


def test_alone_a_worker_has_its_share_of_the_limit() -> None:
    each = bucket(100)
    assert alone(each, 1.0, 4) == 25
    admitted, remaining, reset, retry = each.take_alone(1.0, 4)
    assert (admitted, remaining) == (False, 0)
    assert reset == pytest.approx(10.0)
    assert retry == pytest.approx(0.4)  # a quarter of 10 tokens a second
    assert alone(each, 3.0, 4) == 5
    assert alone(each, 1000.0, 4) == 25


def test_alone_it_begins_with_its_share_of_what_was_left() -> None:
    each = bucket(100)
    each.land(0, 40, 0.0, 1.0, 10.0, 4)
    assert alone(each, 1.0, 4) == 10
    each = bucket(100)
    each.land(0, 40, 0.0, 1.0, 10.0, 4)
    assert alone(each, 3.0, 4) == 15  # 2 s of refill for the whole fleet have passed


def test_a_share_below_one_token_admits_at_the_fleets_pace() -> None:
    each = bucket(2, 10.0)
    assert alone(each, 1.0, 8) == 0
    admitted = sum(alone(each, 1.0 + step, 8) for step in range(401))
    assert admitted == 10  # 2 in 10 s, an eighth of it, for 400 s


@given(
    requests=st.integers(1, 1000),
    fleet=st.integers(1, 8),
    pauses=st.lists(st.floats(0, 20), max_size=20),
)
def test_a_fleet_alone_stays_within_the_limit(requests: int, fleet: int, pauses: list[float]) -> None:
    fleets = [bucket(requests) for _ in range(fleet)]
    now, admitted = 1.0, 0
    for pause in pauses:
        now += pause
        admitted += sum(alone(each, now, fleet) for each in fleets)
    # Shares below one token may each have grown to one.
    assert admitted <= max(requests, fleet) + (now - 1.0) * requests / 10.0 + 1e-6


def test_what_is_left_is_estimated_with_the_refill_since() -> None:
    each = bucket(100)
    assert each.estimate(5.0) == 100
    each.land(0, 40, 0.0, 1.0, 10.0, 4)
    assert each.estimate(2.0) == pytest.approx(50)
    assert each.estimate(60.0) == 100
    assert alone(each, 1.0, 4) == 10
    assert each.estimate(1.0) == pytest.approx(0)


def test_alone_a_worker_has_already_had_what_it_spent_of_leases() -> None:
    each = bucket(100, 1e6)
    each.land(40, 60, 0.0, 1.0, 10.0, 4)
    each.left = 22  # 18 of 40 spent
    assert alone(each, 1.0, 4) == 7
    each = bucket(100, 1e6)
    each.land(40, 60, 0.0, 1.0, 10.0, 4)
    each.left = 0
    assert alone(each, 1.0, 4) == 0


def test_it_asks_for_a_second_at_the_present_pace_and_for_all_who_wait() -> None:
    each = bucket(1000)
    assert each.wanted(0.0, 1) == 30  # the spare tokens of a client that comes now and then
    assert each.wanted(0.0, 10) == 3
    each.waiting = 1
    assert each.wanted(0.0, 1) == 31  # and one for now
    each.waiting = 200
    assert each.wanted(0.0, 1) == 200
    each.waiting = 0
    each.land(100, 900, 0.0, 1.0, 10.0, 4)
    each.left = 20
    assert each.wanted(1.5, 1) == 140
    each.left = 100
    assert each.wanted(1.5, 1) == -70


def test_tokens_that_count_as_used_elsewhere_are_not_used_here() -> None:
    each = bucket(100)
    each.land(5, 90, 0.0, 1.0, 10.0, 4, gone=2)
    assert each.left == 3
    each.land(5, 90, 0.0, 1.0, 10.0, 4, gone=9)
    assert each.left == 0


def test_it_renews_early_only_while_there_is_plenty() -> None:
    each = bucket(100)
    each.land(8, 90, 0.0, 1.0, 10.0, 4)
    assert each.low == 0  # nobody knows yet how fast it is
    each.pace = 5.0
    each.land(8, 90, 0.0, 1.0, 10.0, 4)
    assert each.low == 4
    each = bucket(100)
    each.pace = 5.0
    each.land(2, 60, 0.0, 1.0, 10.0, 4)
    assert each.low == 1
    each = bucket(100)
    each.land(2, 20, 0.0, 1.0, 10.0, 4)
    assert each.low == -1
    each = bucket(100)
    each.land(8, 0, 0.3, 1.0, 10.0, 4)
    assert each.low == -1


def test_a_refusal_says_when_the_next_token_comes_and_asks_again_soon() -> None:
    each = bucket(10, 60.0)
    each.land(0, 0, 5.5, 100.0, 110.0, 4)
    assert each.blocked == 100.5
    assert each.refuse(101.0) == (False, 0, 59.0, 4.5)
    each.land(0, 0, 0.2, 100.0, 110.0, 4)
    assert each.blocked == pytest.approx(100.2)
