"""The regression gate decides by evidence, and says so when there is none yet."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

import pytest

from bench import check, slowed
from bench.check import BASELINE, NoBaselineError, extract_baseline, judge, record, verdict
from bench.paired import Evidence, interval
from bench.peers.base import fill
from kernel.app import Gateway


def noisy(centre: float, spread: float, count: int, seed: int = 1) -> list[float]:
    draw = random.Random(seed)
    return [draw.gauss(centre, spread) for _ in range(count)]


def test_an_unchanged_gateway_passes_despite_noise() -> None:
    for seed in range(20):
        assert verdict(noisy(1.0, 0.05, 40, seed), last=True) is True


def test_a_loss_of_ten_per_cent_fails_despite_noise() -> None:
    for seed in range(20):
        assert verdict(noisy(0.9, 0.05, 120, seed), last=True) is False


def test_what_straddles_the_line_asks_for_more_evidence() -> None:
    values = noisy(0.95, 0.08, 20)
    assert verdict(values, last=False) is None
    assert verdict(values, last=True) is not None


def test_one_figure_that_is_worse_is_enough() -> None:
    # A gateway that waits costs no CPU time, and answers less.
    same, less = noisy(1.0, 0.01, 40), noisy(0.85, 0.01, 40)
    assert judge(Evidence(speed=less, economy=same), last=True) is False
    assert judge(Evidence(speed=same, economy=less), last=True) is False
    assert judge(Evidence(speed=same, economy=same), last=True) is True


def git(repository: Path, *arguments: str) -> None:
    who = ("-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "commit.gpgsign=false")
    subprocess.run(["git", "-C", str(repository), *who, *arguments], check=True, capture_output=True)


def commit(repository: Path, text: str) -> None:
    (repository / "kernel" / "speed.py").write_text(text)
    git(repository, "add", "-A")
    git(repository, "commit", "-q", "-m", text)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    clone = tmp_path / "clone"
    for name in ("kernel", "handlers", "bench"):
        (clone / name).mkdir(parents=True)
        (clone / name / "__init__.py").touch()
    git(clone, "init", "-q")
    return clone


def test_the_baseline_is_the_last_commit_that_recorded_one(repository: Path, tmp_path: Path) -> None:
    commit(repository, "before")
    record(repository)
    commit(repository, "recorded")
    commit(repository, "slower")
    target = tmp_path / "baseline"
    target.mkdir()
    extract_baseline(repository, target)
    assert (target / "kernel" / "speed.py").read_text() == "recorded"
    (repository / BASELINE).write_text("{}")
    commit(repository, "recorded again")
    extract_baseline(repository, target)
    assert (target / "kernel" / "speed.py").read_text() == "recorded again"


def test_a_clone_that_never_recorded_says_so(repository: Path, tmp_path: Path) -> None:
    commit(repository, "before")
    with pytest.raises(NoBaselineError, match="--record"):
        extract_baseline(repository, tmp_path)


def test_a_shallow_clone_is_not_taken_for_its_own_baseline(repository: Path, tmp_path: Path) -> None:
    commit(repository, "before")
    record(repository)
    commit(repository, "recorded")
    commit(repository, "slower")
    shallow = tmp_path / "shallow"
    git(tmp_path, "clone", "-q", "--depth", "1", f"file://{repository}", str(shallow))
    with pytest.raises(NoBaselineError, match="shallow"):
        extract_baseline(shallow, tmp_path)


@pytest.mark.parametrize(("ci", "code"), [("", 0), ("false", 0), ("true", 1), ("1", 1)])
def test_what_cannot_be_checked_does_not_pass_in_ci(
    ci: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(check, "REPOSITORY", tmp_path)
    monkeypatch.setenv("CI", ci)
    assert check.main([]) == code
    assert "speed NOT CHECKED: git log failed" in capsys.readouterr().out


def test_a_tree_that_is_no_clone_says_so(tmp_path: Path) -> None:
    with pytest.raises(NoBaselineError, match="git log failed"):
        extract_baseline(tmp_path, tmp_path)


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


def test_the_slowed_gateway_is_slowed_where_every_request_enters(monkeypatch: pytest.MonkeyPatch) -> None:
    genuine = Gateway.enter
    monkeypatch.setattr(Gateway, "enter", genuine)  # put back after the test
    monkeypatch.setattr("sys.argv", ["slowed", "0", "run"])
    monkeypatch.setattr("kernel.cli.main", lambda: 0)
    with pytest.raises(SystemExit):
        slowed.main()
    assert Gateway.enter is not genuine
