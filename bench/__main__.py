"""`make bench`: the gateway and its peers side by side, one run, one machine, one table. `python -m bench --help`."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from bench import machine, page, report, run, scenarios
from bench.families.base import Context, Result
from bench.load import many_tokens, one_token
from bench.peers import PEERS
from bench.rig import BODY, MissingTool, Rig

RATE = 1000.0
RATED = ("gateway", "haproxy-jwt", "direct")
METHOD = """\
Method: one core runs the peer (one worker, started afresh each round, checked beforehand that it does the work
named below), the other runs wrk, the upstream (nginx, {size} bytes of JSON from memory) and Valkey. Peers take turns:
{rounds} rounds of {seconds} s after 1 s of warm-up, {connections} keep-alive connections. Figures are medians over
the rounds, ratios medians of the ratios within a round. A peer with one failed request, or with fewer log lines than
requests, is invalid."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run it; 0 when it ran, 1 when --strict and a target was missed or lost in noise, 2 when wrk or nginx is missing."""
    options = _options(argv)
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - began:5.0f} s] {text}", file=sys.stderr, flush=True)

    try:
        rig = Rig()
    except MissingTool as error:
        print(error, file=sys.stderr)
        return 2
    with rig:
        host = machine.describe(rig.cores)
        if rig.cores.shared:
            say("only one core: the load competes with the peers, the figures mean little")
        loads = _loads(rig, options, say) if options.table else []
        peers = [peer for peer in PEERS if not options.peers or peer.name in options.peers]
        rows = run.rows_for(peers, say) if options.table else []
        run.check(rig, rows, say)
        run.throughput(rig, rows, loads, rounds=options.rounds, seconds=options.seconds, say=say)
        if not options.no_latency:
            rated = [row for row in rows if row.peer.name in RATED]
            turns = 2 if options.quick else 3
            run.constant_rate(rig, rated, rate=RATE, rounds=turns, seconds=options.seconds, say=say)
        context = Context(rig, say, only=options.peers)
        if options.quick:
            context.rounds = context.seconds = 1
        results = scenarios.run(options.cases, context)
    judged = report.targets(rows, loads[0]) if loads else []
    judged += [target for result in results if result.outcome for target in result.outcome.targets]
    _print(options, host, rows, loads, judged, results, time.monotonic() - began)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(
            json.dumps(report.document(host, rows, loads, judged, results), indent=1) + "\n"
        )
    if options.page:
        page.write(host, rows, loads, judged, results, options.command)
    return 1 if options.strict and any(target.passed is False or target.noise for target in judged) else 0


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    names = ", ".join(peer.name for peer in PEERS)
    parser = argparse.ArgumentParser(
        prog="python -m bench", description="The gateway and its peers side by side."
    )
    parser.add_argument("--quick", action="store_true", help="two short rounds, under 90 s")
    parser.add_argument("--peers", type=lambda text: text.split(","), help=f"only these: {names}")
    parser.add_argument("--rounds", type=int, help="rounds (4; quick 2)")
    parser.add_argument("--seconds", type=int, help="seconds a peer and round, whole (3; quick 1)")
    parser.add_argument(
        "--connections",
        type=lambda text: [int(part) for part in text.split(",")],
        default=[64],
        help="one table for each number, the first is the main one (64)",
    )
    parser.add_argument("--users", type=int, metavar="N", help="also: N tokens of as many users in turn")
    parser.add_argument("--no-latency", action="store_true", help="leave out the constant-rate part")
    parser.add_argument(
        "--scenarios",
        metavar="A,B",
        help="only these scenarios, without the table (all with it; quick none): "
        + ", ".join(case.name for case in scenarios.CASES),
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write everything as JSON")
    parser.add_argument(
        "--page", action="store_true", help="also write the tables and a picture into docs/benchmarks.md"
    )
    parser.add_argument(
        "--strict", action="store_true", help="exit 1 when a target is missed, or lost in noise"
    )
    options = parser.parse_args(argv)
    options.rounds = options.rounds or (2 if options.quick else 4)
    options.seconds = options.seconds or (1 if options.quick else 3)
    options.table = options.scenarios in {None, "all", "none"}
    try:
        options.cases = scenarios.chosen(options.scenarios, default=() if options.quick else scenarios.CASES)
    except ValueError as error:
        parser.error(str(error))
    if options.page and not options.table:
        parser.error("--page needs the table: leave --scenarios away")
    given = " ".join(argument for argument in sys.argv[1:] if argument != "--page")
    options.command = f"make bench ARGS='{given}'" if given else "make bench"
    if interpreter := os.environ.get("PYTHON"):  # make passes on what it was given
        options.command += f" PYTHON={interpreter}"
    unknown = set(options.peers or ()) - {peer.name for peer in PEERS}
    if unknown:
        parser.error(f"unknown peers: {', '.join(sorted(unknown))} (known: {names})")
    return options


def _loads(rig: Rig, options: argparse.Namespace, say: run.Say) -> list[run.Scenario]:
    script = one_token(rig.directory, rig.token)
    found = [
        run.Scenario(f"c{count}", f"one token, {count} connections", count, script)
        for count in options.connections
    ]
    if options.users:
        say(f"signing {options.users:,} tokens")
        many = many_tokens(rig.directory, "users", list(rig.keys.users(options.users)))
        title = f"{options.users:,} users in turn, {options.connections[0]} connections"
        found.append(run.Scenario("users", title, options.connections[0], many))
    return found


def _print(
    options: argparse.Namespace,
    host: dict[str, object],
    rows: Sequence[run.Row],
    loads: Sequence[run.Scenario],
    judged: Sequence[report.Target],
    results: Sequence[Result],
    seconds: float,
) -> None:
    kind = "virtual, " if host["virtual"] else ""
    print(
        f"\nHost: {host['cpu']} ({kind}{host['cores']} cores, {host['memory_gib']} GiB), Linux {host['kernel']}",
        end="",
    )
    print(f", Python {host['python']}; peer on core {host['peer_core']}, load on core {host['load_core']}")
    if loads:
        _print_table(options, rows, loads)
    for result in results:
        print(f"\n{result.text()}")
    if judged:
        print("\nTargets:")
        for target in judged:
            print(f"  {target.line()}")
    share = report.noise(rows)
    print(
        f"\n{seconds:.0f} s in all; {share:.0%} of a core went to something else in the median measurement",
        end="",
    )
    print(": a noisy run, repeat it." if share > 0.1 else ".")


def _print_table(
    options: argparse.Namespace,
    rows: Sequence[run.Row],
    loads: Sequence[run.Scenario],
) -> None:
    print(
        METHOD.format(
            size=len(BODY),
            rounds=options.rounds,
            seconds=options.seconds,
            connections=loads[0].connections,
        )
    )
    for load in loads:
        print(f"\n{load.title}\n\n{report.throughput_table(rows, load)}")
    if any(row.latencies for row in rows):
        print(f"\nlatency at a constant {RATE:,.0f} requests/s, coordinated omission corrected\n")
        print(report.latency_table(rows))
    print("\nWhat each does:")
    for row in rows:
        print(f"  {row.peer.title}: {row.peer.does}")
        for reason in row.wrong:
            print(f"    INVALID: {reason}")
    for peer in PEERS:
        if not peer.available():
            print(f"  {peer.title}: not installed ({peer.install})")


if __name__ == "__main__":
    sys.exit(main())
