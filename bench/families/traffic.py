"""Closed-loop traffic of other shapes than the main table's: one script and one table each."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from bench import load, report, run
from bench.families.base import FAST, POLICED, TOKENS, Context, Outcome
from bench.peers.gateway import Gateway
from bench.rig import LARGE
from bench.run import Row, Scenario

_CONNECTIONS = 64
_COUNTS = (1, 32, 256, 5000)
# By default a worker refuses the 1,025th request that waits for one service; here they shall wait.
_ROOMY = {"gateway": {"MAX_REQUESTS_IN_FLIGHT": "16384", "UPSTREAM_MAX_WAITING": "16384"}}


def post(context: Context) -> Outcome:
    """Bodies of 10 KiB to the upstream, its small answer back."""
    script = load.posting(context.rig.directory, context.rig.token, 10 * 1024)
    return _table(context, Scenario("post", "POST of 10 KiB", _CONNECTIONS, script))


def large(context: Context) -> Outcome:
    """Answers of 1 MiB."""
    script = load.one_token(context.rig.directory, context.rig.token)
    found = _table(context, Scenario("large", "answers of 1 MiB", _CONNECTIONS, script, path=LARGE))
    return Outcome(found.head, found.body, found.figures, [*found.notes, "requests/s are MiB/s here"])


def closing(context: Context) -> Outcome:
    """A connection for every request."""
    script = load.closing(context.rig.directory, context.rig.token)
    return _table(context, Scenario("close", "a connection a request", _CONNECTIONS, script))


def cold(context: Context) -> Outcome:
    """Every request brings a token, and a user, never seen before; the warm-up has one token of its own."""
    tokens = context.tokens
    script = load.many_tokens(context.rig.directory, "cold", tokens)
    warm = load.one_token(context.rig.directory, context.rig.token)
    scenario = Scenario(
        "cold", "every token new", _CONNECTIONS, script, warm_up=warm, most=len(tokens) + _CONNECTIONS
    )
    return _table(context, scenario, rows=context.rows(POLICED), seconds=1, rounds=context.rounds + 1)


def users(context: Context) -> Outcome:
    """10,000 users take turns."""
    script = load.many_tokens(context.rig.directory, "users", context.tokens[: TOKENS // 2])
    scenario = Scenario("users", "10,000 users in turn", _CONNECTIONS, script, warm_seconds=4)
    return _table(context, scenario, rows=context.rows(POLICED))


def connections(context: Context) -> Outcome:
    """The same requests over 1, 32, 256 and 5,000 connections."""
    script = load.one_token(context.rig.directory, context.rig.token)
    cells: dict[str, list[str]] = {}
    figures: dict[str, object] = {}
    notes: list[str] = []
    for count in _COUNTS:
        # Opening thousands of connections is a second's work for some.
        scenario = Scenario(
            f"c{count}", f"{count:,} connections", count, script, warm_seconds=1 + count // 2500
        )
        rows = context.rows(FAST, env=_ROOMY)
        _run(context, rows, scenario)
        for row in rows:
            samples = row.samples.get(scenario.name, [])
            fine = not row.wrong and bool(samples)
            cells.setdefault(row.peer.title, []).extend(
                [f"{median(s.rate for s in samples):,.0f}", f"{median(s.p99 for s in samples) / 1000:,.1f}"]
                if fine
                else ["invalid", ""]
            )
        figures[scenario.name] = _figures(rows, scenario)
        notes += _wrong(rows)
    head = ["peer", *(cell for count in _COUNTS for cell in (f"{count:,}: requests/s", "p99 ms"))]
    return Outcome(head, [[title, *found] for title, found in cells.items()], figures, notes)


class _TwoWorkers(Gateway):
    name = "gateway-2"
    title = "Bakery Gateway, 2 workers"


def workers(context: Context) -> Outcome:
    """One worker and two, both free to use any core."""
    everything = frozenset(context.rig.allowed)
    script = load.one_token(context.rig.directory, context.rig.token)
    one, two = Gateway(), _TwoWorkers()
    rows = [
        Row(one, one.version(), cores=everything),
        Row(two, two.version(), env={"WORKERS": "2"}, cores=everything),
    ]
    found = _table(context, Scenario("workers", "two workers", 2 * _CONNECTIONS, script), rows=rows)
    note = f"the load shares the {len(everything)} cores; with more cores a second worker has one of its own"
    return Outcome(found.head, found.body, found.figures, [*found.notes, note])


def _table(
    context: Context,
    scenario: Scenario,
    *,
    rows: list[Row] | None = None,
    seconds: int | None = None,
    rounds: int | None = None,
) -> Outcome:
    measured = context.rows() if rows is None else rows
    _run(context, measured, scenario, seconds=seconds, rounds=rounds)
    head, body = report.throughput_cells(measured, scenario)
    return Outcome(head, body, _figures(measured, scenario), _wrong(measured))


def _run(
    context: Context,
    rows: Sequence[Row],
    scenario: Scenario,
    *,
    seconds: int | None = None,
    rounds: int | None = None,
) -> None:
    run.throughput(
        context.rig,
        rows,
        [scenario],
        rounds=rounds or context.rounds,
        seconds=seconds or context.seconds,
        say=lambda text: context.say(f"{scenario.title}: {text}"),
    )


def _figures(rows: Sequence[Row], scenario: Scenario) -> dict[str, object]:
    return {
        row.peer.name: {
            "wrong": row.wrong,
            "rounds": [sample.as_dict() for sample in row.samples.get(scenario.name, [])],
        }
        for row in rows
    }


def _wrong(rows: Sequence[Row]) -> list[str]:
    return [f"{row.peer.title}: {reason}" for row in rows for reason in row.wrong]
