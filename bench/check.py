"""The regression gate: is the gateway as fast as it was? `python -m bench.check`: under a minute, without wrk or nginx.

The gateway is measured beside a fixed reference (a bare ASGI proxy on the same server, loop and interpreter) with
`bench.paired`; `bench/baseline.json` holds the ratio recorded when it was last changed on purpose (`--record`).

A verdict needs evidence: the 95 % interval of the median ratio lies on one side of the line (5 % under the baseline,
half of the 10 % that must be caught); until then another batch is measured, and after the last one the median decides.
CPU time a request and throughput must both hold: code that waits costs no CPU time, other programs' bursts do.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

import uvloop

from bench.machine import cores, describe
from bench.paired import Evidence, compare, interval
from bench.peers.base import Launch
from bench.peers.gateway import Gateway
from bench.peers.granian import BareProxy
from bench.rig import Rig

BASELINE = Path(__file__).parent / "baseline.json"
TOLERATED = 0.05
BATCHES = (2, 6)  # at least, at most
FIGURES = ("economy", "speed")


def verdict(values: Sequence[float], baseline: float, *, last: bool) -> bool | None:
    """True: as good as the baseline; False: worse; None: not certain yet (never when `last`)."""
    line = baseline * (1 - TOLERATED)
    low, high = interval(values)
    if low >= line:
        return True
    if high < line:
        return False
    return median(values) >= line if last else None


def judge(evidence: Evidence, baseline: dict[str, float], *, last: bool) -> bool | None:
    """The verdict on all figures together: one that is worse is enough."""
    verdicts = {verdict(getattr(evidence, name), baseline[name], last=last) for name in FIGURES}
    return False if False in verdicts else None if None in verdicts else True


def main(argv: Sequence[str] | None = None) -> int:
    """0: as fast as the baseline (or recorded); 1: slower, or requests failed."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.check", description="Has the gateway become slower?"
    )
    parser.add_argument(
        "--record", action="store_true", help="write the measured ratios to bench/baseline.json"
    )
    parser.add_argument(
        "--slow", type=float, metavar="US", help="make the gateway slower, to see the gate close"
    )
    options = parser.parse_args(argv)
    began = time.monotonic()
    baseline = None if options.record else json.loads(BASELINE.read_text())
    least, most = BATCHES

    def enough(evidence: Evidence, batch: int) -> bool:
        return baseline is not None and batch >= least and judge(evidence, baseline, last=False) is not None

    def reference(rig: Rig, directory: Path, port: int) -> Launch:
        return BareProxy().launch(rig, directory, port)

    def gateway(rig: Rig, directory: Path, port: int) -> Launch:
        launch = Gateway().launch(rig, directory, port)
        if options.slow:
            return replace(launch, command=[sys.executable, "-m", "bench.slowed", str(options.slow), "run"])
        return launch

    evidence = uvloop.run(compare(reference, gateway, batches=most, enough=enough))
    seconds = time.monotonic() - began
    print(f"gateway against a bare proxy: {evidence.summary()}, {seconds:.0f} s")
    if evidence.errors:
        print(f"FAIL: {evidence.errors} requests failed")
        return 1
    if baseline is None:
        found = {name: round(median(getattr(evidence, name)), 3) for name in FIGURES}
        BASELINE.write_text(json.dumps({**found, "host": describe(cores())}, indent=1) + "\n")
        print(f"recorded in {BASELINE.name}")
        return 0
    passed = judge(evidence, baseline, last=True)
    changes = [f"{name} {median(getattr(evidence, name)) / baseline[name] - 1:+.1%}" for name in FIGURES]
    print(
        f"{'ok' if passed else 'FAIL'}: {', '.join(changes)} against the baseline (line at {-TOLERATED:+.0%})"
    )
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
