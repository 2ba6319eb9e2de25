"""The scenarios beyond the main table: which run, what is shown of one that fails, and what the JSON holds of all."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from bench import scenarios
from bench.families.base import Case, Context, Outcome
from bench.families.memory import Curve
from bench.report import Target
from tests.support.poll import poll

FINE = Case(
    "fine",
    "one that works",
    lambda context: Outcome(
        ["peer", "MiB"], [["gateway", "1"]], {"gateway": 1}, ["a note"], [Target("t", 2, 1)]
    ),
)


def broken(context: Context) -> Outcome:
    raise RuntimeError("the peer went away")


def context(said: list[str]) -> Context:
    rig: Any = None
    return Context(rig, said.append)


def test_names_choose_scenarios_in_the_list_s_order() -> None:
    chosen = scenarios.chosen("large,post", default=())
    assert [case.name for case in chosen] == ["post", "large"]
    assert scenarios.chosen("all", default=()) == scenarios.CASES
    assert scenarios.chosen("none", default=scenarios.CASES) == ()
    assert scenarios.chosen(None, default=(FINE,)) == (FINE,)


def test_an_unknown_scenario_is_named_beside_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"unknown scenarios: lareg \(known: .*large.*\)"):
        scenarios.chosen("lareg", default=())


def test_one_that_fails_says_why_and_the_others_go_on() -> None:
    said: list[str] = []
    failed, fine = scenarios.run((Case("bad", "one that fails", broken), FINE), context(said))
    assert failed.text() == "one that fails\n\nFAILED: RuntimeError: the peer went away"
    assert any("bad FAILED" in line for line in said)
    assert "| gateway |" in fine.text()
    assert fine.text().endswith("- a note")
    assert failed.as_dict()["failed"] == "RuntimeError: the peer went away"
    assert fine.as_dict()["figures"] == {"gateway": 1}


def test_names_are_distinct_and_titles_too() -> None:
    assert len({case.name for case in scenarios.CASES}) == len(scenarios.CASES)
    assert len({case.title for case in scenarios.CASES}) == len(scenarios.CASES)


def test_a_memory_curve_has_its_beginning_and_tells_the_peak_above_it() -> None:
    grow = "import sys; sys.stdin.readline(); ballast = bytearray(32 << 20); print(flush=True); sys.stdin.readline()"
    with subprocess.Popen(
        [sys.executable, "-c", grow],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
        start_new_session=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        with Curve(process.pid) as curve:
            poll(lambda: curve.points)
            process.stdin.write("\n")
            process.stdout.readline()
            grown = len(curve.points)
            poll(lambda: len(curve.points) > grown + 1)
        process.stdin.write("\n")
    assert curve.points[0][0] == 0.0
    assert curve.more >= 24 * 1024 * 1024
