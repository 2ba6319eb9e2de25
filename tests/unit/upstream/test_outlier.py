"""Outlier detection by its rules: who is ejected, for how long, and who never is."""

from __future__ import annotations

import pytest

from kernel.upstream.outlier import Standing, blame


def service(size: int) -> list[Standing]:
    """Replicas that have given a good answer."""
    replicas = [Standing() for _ in range(size)]
    for each in replicas:
        each.answered(200)
    return replicas


def fail(replicas: list[Standing], which: int, times: int, now: float = 100.0) -> None:
    it = replicas[which]
    for _ in range(times):
        blame(it, len(replicas), [each for each in replicas if each is not it], now)


def test_five_failures_in_a_row_eject_for_half_a_minute() -> None:
    replicas = service(3)
    fail(replicas, 0, 4)
    assert not replicas[0].until
    fail(replicas, 0, 1)
    assert replicas[0].until == 130.0
    fail(replicas, 0, 9)  # those under way
    assert replicas[0].until == 130.0


def test_one_good_answer_between_them_begins_the_count_again() -> None:
    replicas = service(2)
    for _ in range(20):
        fail(replicas, 0, 4)
        assert not replicas[0].answered(404)
    assert not replicas[0].until


@pytest.mark.parametrize("status", [500, 502, 503, 504, 599])
def test_statuses_that_count(status: int) -> None:
    assert Standing().answered(status)


@pytest.mark.parametrize("status", [200, 304, 404, 429, 501, 505])
def test_statuses_that_do_not(status: int) -> None:
    assert not Standing().answered(status)


@pytest.mark.parametrize(("size", "most"), [(1, 0), (2, 1), (3, 1), (4, 2), (5, 2), (16, 8)])
def test_never_more_than_half(size: int, most: int) -> None:
    replicas = service(size)
    for which in range(size):
        fail(replicas, which, 5)
        if not replicas[which].until:
            replicas[which].answered(200)
    assert sum(1 for each in replicas if each.until) == most


def test_nobody_is_ejected_while_most_of_the_others_fail_too() -> None:
    replicas = service(4)
    for which in (0, 1, 2):
        fail(replicas, which, 4)
    fail(replicas, 0, 20)
    assert not replicas[0].until


def test_nor_while_nothing_good_is_known_of_the_others() -> None:
    replicas = [Standing(), Standing()]
    fail(replicas, 0, 20)
    assert not replicas[0].until


def test_nor_while_the_others_cannot_be_reached() -> None:
    it = Standing()
    for _ in range(20):
        blame(it, 3, [Standing()], 100.0)
        blame(it, 2, [], 100.0)
    assert not it.until


def test_who_comes_back_and_fails_again_is_ejected_sooner_and_for_longer() -> None:
    replicas = service(3)
    fail(replicas, 0, 5)
    now = 100.0
    for seconds in (60, 90, 120, 150, 180, 210, 240, 270, 300, 300):
        now = replicas[0].until
        fail(replicas, 0, 2, now)
        assert replicas[0].until == now + seconds
    # Each half minute without it is one less.
    quiet = replicas[0].until + 30 * 9
    fail(replicas, 0, 5, quiet)
    assert replicas[0].until == quiet + 30 * 3
