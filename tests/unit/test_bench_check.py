"""The regression gate decides by evidence, and says so when there is none yet."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from bench.check import judge, verdict
from bench.paired import Evidence, interval
from bench.peers.base import fill

BASELINE = {"economy": 0.6, "speed": 0.62}


def noisy(centre: float, spread: float, count: int, seed: int = 1) -> list[float]:
    draw = random.Random(seed)
    return [draw.gauss(centre, spread) for _ in range(count)]


def test_an_unchanged_gateway_passes_despite_noise() -> None:
    for seed in range(20):
        assert verdict(noisy(0.6, 0.03, 40, seed), 0.6, last=True) is True


def test_a_loss_of_ten_per_cent_fails_despite_noise() -> None:
    for seed in range(20):
        assert verdict(noisy(0.54, 0.03, 120, seed), 0.6, last=True) is False


def test_what_straddles_the_line_asks_for_more_evidence() -> None:
    values = noisy(0.57, 0.05, 20)
    assert verdict(values, 0.6, last=False) is None
    assert verdict(values, 0.6, last=True) is not None


def test_one_figure_that_is_worse_is_enough() -> None:
    # A gateway that waits costs no CPU time, and answers less.
    evidence = Evidence(speed=noisy(0.5, 0.01, 40), economy=noisy(0.6, 0.01, 40))
    assert judge(evidence, BASELINE, last=True) is False
    assert judge(evidence, {**BASELINE, "speed": 0.5}, last=True) is True


def test_the_interval_holds_the_median_of_most_samples() -> None:
    held = sum(
        low <= 1.0 <= high for low, high in (interval(noisy(1.0, 0.1, 40, seed)) for seed in range(200))
    )
    assert held >= 184  # 95 % of 200 are 190; fewer than 184 has a chance of 1 in 1,000


def test_the_interval_of_few_samples_is_their_range() -> None:
    assert interval([3.0, 1.0, 2.0]) == (1.0, 3.0)


def test_a_template_with_a_name_left_over_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="@PORT@"):
        fill("haproxy-plain.cfg.in", tmp_path / "haproxy.cfg", {"UPSTREAM": "127.0.0.1:1"})
