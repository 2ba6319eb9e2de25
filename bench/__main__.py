"""`make bench`: the gateway and its peers side by side, one run, one machine, one table. `python -m bench --help`."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from bench import machine, readme, report, run
from bench.load import many_tokens, one_token
from bench.peers import PEERS
from bench.rig import MissingTool, Rig

RATE = 1000.0
RATED = ("gateway", "haproxy-jwt", "direct")
METHOD = """\
Method: one core runs the peer (one worker, started afresh each round, checked beforehand that it does the work
named below), the other runs wrk, the upstream (nginx, {size} bytes of JSON from memory) and Valkey. Peers take turns:
{rounds} rounds of {seconds} s after 1 s of warm-up, {connections} keep-alive connections. Figures are medians over
the rounds, ratios medians of the ratios within a round. A peer with one failed request, or with fewer log lines than
requests, is invalid."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run it; 0 when it ran, 1 when --strict and a target was missed, 2 when wrk or nginx is missing."""
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
        scenarios = _scenarios(rig, options, say)
        rows = run.rows_for([peer for peer in PEERS if not options.peers or peer.name in options.peers], say)
        run.check(rig, rows, say)
        run.throughput(rig, rows, scenarios, rounds=options.rounds, seconds=options.seconds, say=say)
        if not options.no_latency:
            rated = [row for row in rows if row.peer.name in RATED]
            turns = 1 if options.quick else 3
            run.constant_rate(rig, rated, rate=RATE, rounds=turns, seconds=options.seconds, say=say)
    judged = report.targets(rows, scenarios[0])
    _print(options, host, rows, scenarios, judged, time.monotonic() - began)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(report.document(host, rows, scenarios, judged), indent=1) + "\n")
    if options.readme:
        readme.write(host, rows, scenarios, judged, options.command)
    return 1 if options.strict and any(target.passed is False for target in judged) else 0


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
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write everything as JSON")
    parser.add_argument(
        "--readme", action="store_true", help="also write the tables and a picture into the README"
    )
    parser.add_argument("--strict", action="store_true", help="exit 1 when a target is missed")
    options = parser.parse_args(argv)
    options.rounds = options.rounds or (2 if options.quick else 4)
    options.seconds = options.seconds or (1 if options.quick else 3)
    given = " ".join(argument for argument in sys.argv[1:] if argument != "--readme")
    options.command = f"make bench ARGS='{given}'" if given else "make bench"
    unknown = set(options.peers or ()) - {peer.name for peer in PEERS}
    if unknown:
        parser.error(f"unknown peers: {', '.join(sorted(unknown))} (known: {names})")
    return options


def _scenarios(rig: Rig, options: argparse.Namespace, say: run.Say) -> list[run.Scenario]:
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
    scenarios: Sequence[run.Scenario],
    judged: Sequence[report.Target],
    seconds: float,
) -> None:
    from bench.rig import BODY

    kind = "virtual, " if host["virtual"] else ""
    print(
        f"\nHost: {host['cpu']} ({kind}{host['cores']} cores, {host['memory_gib']} GiB), Linux {host['kernel']}",
        end="",
    )
    print(f", Python {host['python']}; peer on core {host['peer_core']}, load on core {host['load_core']}")
    print(
        METHOD.format(
            size=len(BODY),
            rounds=options.rounds,
            seconds=options.seconds,
            connections=scenarios[0].connections,
        )
    )
    for scenario in scenarios:
        print(f"\n{scenario.title}\n\n{report.throughput_table(rows, scenario)}")
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
    print("\nTargets:")
    for target in judged:
        print(f"  {target.line()}")
    share = report.noise(rows)
    print(
        f"\n{seconds:.0f} s in all; {share:.0%} of a core went to something else in the median measurement",
        end="",
    )
    print(": a noisy run, repeat it." if share > 0.1 else ".")


if __name__ == "__main__":
    sys.exit(main())
