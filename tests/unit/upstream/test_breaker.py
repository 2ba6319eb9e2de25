"""The breaker by its rules: what opens it, what does not, who may probe."""

from __future__ import annotations

from kernel.upstream.breaker import CLOSED, HALF_OPEN, OPEN, Breaker


def failing(times: int, now: float = 100.0, answers: int = 0) -> Breaker:
    breaker = Breaker()
    for _ in range(times):
        breaker.failure(now, answers)
    return breaker


def test_it_opens_when_five_of_a_window_fail_and_no_more_are_answered() -> None:
    assert failing(4).state(100.0) == CLOSED
    assert failing(5).state(100.0) == OPEN
    assert failing(5, answers=5).state(100.0) == OPEN
    assert failing(5, answers=6).state(100.0) == CLOSED
    assert failing(500, answers=501).state(100.0) == CLOSED


def test_failures_older_than_the_window_are_forgotten() -> None:
    breaker = failing(4)
    breaker.failure(110.1, 0)
    assert breaker.state(110.1) == CLOSED


def test_answers_older_than_the_window_excuse_nothing() -> None:
    breaker = Breaker()
    for second in range(20):
        breaker.roll(min(second, 5) * 1000)
    for _ in range(5):
        breaker.failure(120.0, 5000)
    assert breaker.state(120.0) == OPEN


def test_what_is_late_opens_it_only_while_nothing_is_answered() -> None:
    busy, dead = Breaker(), Breaker()
    for answers in (7, 8):
        busy.roll(answers)
    dead.roll(8)
    assert not any(busy.timeout(100.0, 8) for _ in range(500))
    assert [dead.timeout(100.0, 8) for _ in range(5)] == [False] * 4 + [True]
    assert dead.state(100.0) == CLOSED  # until nothing speaks against it
    dead.silence(100.0)
    assert dead.state(100.0) == OPEN
    assert dead.silent
    dead.success()
    assert not dead.silent


def test_a_closed_one_asks_for_no_calls() -> None:
    breaker = failing(4)
    assert not breaker.troubled
    assert breaker.admits(100.0)
    assert not breaker.begin(100.0)
    breaker.success()
    breaker.failure(100.0, 1)  # the success above was nobody's probe: the four still count
    assert breaker.troubled


def test_one_probe_a_second_while_none_is_answered() -> None:
    breaker = failing(5)
    assert not breaker.admits(100.9)
    assert breaker.admits(101.0)
    assert breaker.begin(101.0)
    assert not breaker.admits(101.9)
    assert breaker.admits(102.0)
    breaker.begin(102.0)
    breaker.abandon()
    assert breaker.admits(102.1)
    breaker.success()
    assert breaker.state(102.1) == CLOSED
    breaker.failure(102.1, 1)
    assert breaker.state(102.1) == CLOSED


def test_it_stays_open_longer_each_time_it_fails_to_connect() -> None:
    breaker = failing(5)
    waits = []
    for _ in range(7):
        now = breaker.until
        assert breaker.state(now) == HALF_OPEN
        breaker.failure(now, 0)
        breaker.failure(now, 0)  # sent before: counts for nothing
        waits.append(breaker.until - now)
    assert waits == [2, 4, 8, 16, 30, 30, 30]
    assert breaker.opened == 1


def test_a_probe_that_hangs_prolongs_nothing() -> None:
    breaker = Breaker()
    breaker.silence(100.0)
    for _ in range(5):
        now = breaker.until
        breaker.timeout(now, 0)
        assert breaker.until - now == 1


def test_good_news_let_the_next_one_try() -> None:
    breaker = failing(5)
    breaker.relent(100.2)
    assert breaker.admits(100.2)
