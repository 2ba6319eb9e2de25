"""The regression gate: is the gateway as fast as it was? `python -m bench.check`: under a minute, without wrk or nginx.

The gateway of this tree runs beside the gateway of the baseline, the last commit that changed `bench/baseline.json`,
with `bench.paired`: like with like, on one core at one moment, so that neither the machine nor its load decides. A
change that is meant to cost or gain is recorded with `--record`, and the commit with that file is the new baseline; small
losses cannot add up unseen, since the baseline stays until then.

A verdict needs evidence: the 95 % interval of the median ratio lies on one side of the line (5 % under the baseline,
half of the 10 % that must be caught); until then another batch is measured, and after the last one the median decides.
CPU time a request and throughput must both hold: code that waits costs no CPU time, other programs' bursts do.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import uvloop

from bench.machine import cores, describe
from bench.paired import Evidence, compare, gateway_of, interval
from bench.peers import Launch
from bench.process import StartError
from bench.rig import REPOSITORY, Rig

BASELINE = Path("bench") / "baseline.json"
LINE = 0.95
BATCHES = (2, 6)  # at least, at most


class NoBaselineError(RuntimeError):
    """There is nothing to compare with; the message says why."""


def verdict(values: Sequence[float], *, last: bool) -> bool | None:
    """True: as good as the baseline; False: worse; None: not certain yet (never when `last`)."""
    low, high = interval(values)
    if low >= LINE:
        return True
    if high < LINE:
        return False
    return median(values) >= LINE if last else None


def judge(evidence: Evidence, *, last: bool) -> bool | None:
    """The verdict on CPU time and throughput together: one that is worse is enough."""
    verdicts = {verdict(values, last=last) for values in (evidence.economy, evidence.speed)}
    return False if False in verdicts else None if None in verdicts else True


def extract_baseline(repository: Path, target: Path) -> str:
    """Put the sources of the baseline commit into `target`; returns its abbreviated hash.

    Raises:
        NoBaselineError: not a clone, or one whose history does not have the commit.
    """
    commit = _git(repository, "log", "-1", "--format=%H", "--", str(BASELINE)).decode().strip()
    if not commit:
        raise NoBaselineError(f"no commit has {BASELINE}: run `python -m bench.check --record` and commit it")
    # The oldest commit of a shallow clone seems to have changed every file.
    boundary = repository / _git(repository, "rev-parse", "--git-path", "shallow").decode().strip()
    if boundary.exists() and commit in boundary.read_text():
        raise NoBaselineError("the clone is shallow: `git fetch --unshallow`")
    archive = _git(repository, "archive", "--format=tar", commit, "kernel", "handlers")
    with tarfile.open(fileobj=io.BytesIO(archive)) as members:
        # Python 3.11.4 and later have filters, and warn without one; these members are our own.
        safe: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
        members.extractall(target, **safe)
    return commit[:10]


def _git(repository: Path, *arguments: str) -> bytes:
    try:
        return subprocess.run(
            ["git", "-C", str(repository), *arguments], check=True, capture_output=True
        ).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise NoBaselineError(f"git {arguments[0]} failed: {getattr(error, 'stderr', error)!r}") from None


def record(repository: Path) -> None:
    """Write what is known of this machine to the baseline's file; its commit is the new baseline."""
    known = {"recorded": time.strftime("%Y-%m-%d %H:%M:%S"), "host": describe(cores())}
    (repository / BASELINE).write_text(json.dumps(known, indent=1) + "\n")


def main(argv: Sequence[str] | None = None) -> int:
    """0: as fast as the baseline; 1: slower, or requests failed. Without a baseline 0, but 1 in CI: it has not passed."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.check", description="Has the gateway become slower?"
    )
    parser.add_argument("--record", action="store_true", help="make the next commit the baseline")
    parser.add_argument(
        "--slow", type=float, metavar="US", help="make the gateway slower, to see the gate close"
    )
    options = parser.parse_args(argv)
    if options.record:
        record(REPOSITORY)
        print(f"{BASELINE} written: commit it, and that commit is the baseline")
        return 0
    with tempfile.TemporaryDirectory(prefix="gateway-baseline-") as directory:
        try:
            commit = extract_baseline(REPOSITORY, Path(directory))
        except NoBaselineError as error:
            print(f"speed NOT CHECKED: {error}")
            return int(os.environ.get("CI", "").lower() in {"1", "true"})
        return _check(commit, Path(directory), options.slow)


def _check(commit: str, tree: Path, slow: float | None) -> int:
    began = time.monotonic()
    genuine = gateway_of(REPOSITORY)

    def gateway(rig: Rig, directory: Path, port: int) -> Launch:
        launch = genuine(rig, directory, port)
        if slow:
            return replace(launch, command=[sys.executable, "-m", "bench.slowed", str(slow), "run"])
        return launch

    least, most = BATCHES

    def enough(evidence: Evidence, batch: int) -> bool:
        return batch >= least and judge(evidence, last=False) is not None

    try:
        evidence = uvloop.run(compare(gateway_of(tree), gateway, batches=most, enough=enough))
    except StartError as error:
        print(f"FAIL: the gateway, or that of the baseline {commit}, does not start: {error}")
        return 1
    print(f"gateway against its baseline {commit}: {evidence.summary()}, {time.monotonic() - began:.0f} s")
    if evidence.errors:
        print(f"FAIL: {evidence.errors} requests failed")
        return 1
    passed = judge(evidence, last=True)
    print(
        "ok: as fast as the baseline"
        if passed
        else f"FAIL: slower than the baseline (line at {LINE - 1:+.0%})"
    )
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
