"""Figures into tables: medians over rounds, ratios paired within each round, targets judged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, Protocol

from bench.load import Sample
from bench.run import Row, Scenario

REFERENCES = (
    ("haproxy-jwt", "x HAProxy+JWT"),
    ("stack", "x brief's stack"),
    ("granian-empty", "x granian empty"),
)


@dataclass(frozen=True)
class Target:
    """A figure the gateway must reach: its ratio to a peer, or a latency it may add at most."""

    title: str
    needed: float
    reached: float | None  # None: that peer was not measured
    at_most: bool = False
    noise: str = ""  # why the figure says nothing

    @property
    def passed(self) -> bool | None:
        if self.reached is None or self.noise:
            return None
        return self.reached <= self.needed if self.at_most else self.reached >= self.needed

    def line(self) -> str:
        """One line: verdict, what, figures."""
        verdict = "NOISE" if self.noise else {True: "pass", False: "FAIL", None: "----"}[self.passed]
        if self.noise:
            return f"{verdict} {self.title}: {self.noise}, repeat it on a quiet machine"
        reached = "not measured" if self.reached is None else f"{self.reached:.2f}"
        return f"{verdict}  {self.title}: {reached} (needed {'<=' if self.at_most else '>='} {self.needed:g})"


def ratio(over: Sequence[Sample], under: Sequence[Sample]) -> float | None:
    """The median over rounds of the ratio within a round, so that a slow minute of the machine hits both sides."""
    pairs = [a.rate / b.rate for a, b in zip(over, under, strict=False) if b.rate]
    return median(pairs) if pairs else None


def markdown(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """An aligned markdown table, first column to the left, the others to the right."""
    widths = [max(len(row[i]) for row in (head, *body)) for i in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return "| " + " | ".join(padded) + " |"

    rule = ["-" * width if i == 0 else "-" * (width - 1) + ":" for i, width in enumerate(widths)]
    return "\n".join([line(head), line(rule), *map(line, body)])


def throughput_table(rows: Sequence[Row], scenario: Scenario) -> str:
    """One row a peer: medians, spread, ratios to the references."""
    return markdown(*throughput_cells(rows, scenario))


def throughput_cells(rows: Sequence[Row], scenario: Scenario) -> tuple[list[str], list[list[str]]]:
    """Head and rows of that table."""
    by_name = {row.peer.name: row for row in rows}
    references = [
        (title, by_name[name].samples.get(scenario.name, []))
        for name, title in REFERENCES
        if name in by_name and not by_name[name].wrong
    ]
    head = [
        "peer",
        "version",
        "requests/s",
        "spread",
        "CPU us/req",
        "p50 ms",
        "p99 ms",
        *(title for title, _ in references),
    ]
    body = []
    for row in rows:
        samples = row.samples.get(scenario.name, [])
        if row.wrong or not samples:
            body.append([row.peer.title, row.version, "invalid", *([""] * (len(head) - 3))])
            continue
        cells = [row.peer.title, row.version, f"{_median(samples, lambda s: s.rate):,.0f}", _spread(samples)]
        cpu = _median(samples, lambda s: s.cpu)
        cells.append(f"{cpu:,.1f}" if cpu else "-")
        cells += [
            f"{_median(samples, lambda s: s.p50) / 1000:.2f}",
            f"{_median(samples, lambda s: s.p99) / 1000:.2f}",
        ]
        for _, reference in references:
            found = ratio(samples, reference)
            cells.append("-" if found is None else f"{found:.2f}")
        body.append(cells)
    return head, body


def latency_table(rows: Sequence[Row]) -> str:
    """One row a peer: latency at the constant rate, and what it adds to the direct call."""
    measured = [row for row in rows if row.latencies]
    direct = next((row for row in measured if row.peer.name == "direct"), None)
    head = ["peer", "p50 us", "p90 us", "p99 us", "p99.9 us", "added p50 us", "added p99 us"]
    body = []
    for row in measured:
        figures = [
            median(getattr(found, name) for found in row.latencies) for name in ("p50", "p90", "p99", "p999")
        ]
        cells = [row.peer.title, *(f"{figure:,.0f}" for figure in figures)]
        for name in ("p50", "p99"):
            more = added(row, direct, name)
            cells.append("-" if more is None or row is direct else f"{more:,.0f}")
        body.append(cells)
    return markdown(head, body)


def added(row: Row | None, direct: Row | None, name: str) -> float | None:
    """Microseconds that `row` adds to the direct call at a percentile, the median of the rounds' differences."""
    found = _differences(row, direct, name)
    return median(found) if found else None


def _differences(row: Row | None, direct: Row | None, name: str) -> list[float]:
    if row is None or direct is None or row.wrong or direct.wrong:
        return []
    pairs = zip(row.latencies, direct.latencies, strict=False)
    return [getattr(a, name) - getattr(b, name) for a, b in pairs]


def _added_target(title: str, needed: float, rows: dict[str, Row], name: str) -> Target:
    """A latency that may be added at most, in milliseconds; noise when rounds contradict each other or nature."""
    found = [each / 1000 for each in _differences(rows.get("gateway"), rows.get("direct"), name)]
    noise = ""
    if found and min(found) < 0:
        noise = f"{min(found):.2f} in a round, but nothing is faster than the direct call"
    elif found and len(found) < 3 and min(found) <= needed < max(found):
        noise = f"{min(found):.2f} to {max(found):.2f} in {len(found)} rounds"
    return Target(title, needed, median(found) if found else None, at_most=True, noise=noise)


def targets(rows: Sequence[Row], scenario: Scenario) -> list[Target]:
    """The product's figures, judged by this run."""
    by_name = {row.peer.name: row for row in rows if not row.wrong}

    def times(name: str, own: str = "gateway") -> float | None:
        if own not in by_name or name not in by_name:
            return None
        pair = (by_name[each].samples.get(scenario.name, []) for each in (own, name))
        return ratio(*pair)

    return [
        Target("throughput against HAProxy with JWT", 1.5, times("haproxy-jwt")),
        Target("throughput against Envoy with JWT", 1.0, times("envoy-jwt")),
        Target("throughput against the brief's stack", 50, times("stack")),
        Target("throughput against granian's empty answer", 0.55, times("granian-empty")),
        Target("compiled, against HAProxy with JWT", 2.0, times("haproxy-jwt", "gateway-compiled")),
        Target("compiled, against granian's empty answer", 0.65, times("granian-empty", "gateway-compiled")),
        _added_target("median latency added at 1,000 requests/s, ms", 1, by_name, "p50"),
        _added_target("99th percentile added at 1,000 requests/s, ms", 5, by_name, "p99"),
    ]


def noise(rows: Sequence[Row]) -> float:
    """The median share of a core's time that went to something outside the run."""
    shares = [sample.noise for row in rows for samples in row.samples.values() for sample in samples]
    return median(shares) if shares else 0.0


class Told(Protocol):
    """What a scenario beyond the table tells of itself."""

    def as_dict(self) -> dict[str, Any]: ...


def document(
    host: dict[str, object],
    rows: Sequence[Row],
    loads: Sequence[Scenario],
    judged: Sequence[Target],
    results: Sequence[Told] = (),
) -> dict[str, Any]:
    """Everything measured, for --json."""
    return {
        "host": host,
        "noise": noise(rows),
        "loads": {load.name: load.title for load in loads},
        "peers": [
            {
                "name": row.peer.name,
                "title": row.peer.title,
                "version": row.version,
                "does": row.peer.does,
                "wrong": row.wrong,
                "start_seconds": [round(seconds, 3) for seconds in row.start_seconds],
                "throughput": {name: [s.as_dict() for s in samples] for name, samples in row.samples.items()},
                "constant_rate": [asdict(latency) for latency in row.latencies],
            }
            for row in rows
        ],
        "targets": [{**asdict(target), "passed": target.passed} for target in judged],
        "scenarios": [result.as_dict() for result in results],
    }


def _median(samples: Sequence[Sample], of: Callable[[Sample], float]) -> float:
    return median(of(sample) for sample in samples)


def _spread(samples: Sequence[Sample]) -> str:
    middle = _median(samples, lambda s: s.rate) or 1.0
    low, high = min(s.rate for s in samples) / middle - 1, max(s.rate for s in samples) / middle - 1
    return f"{low:+.0%} {high:+.0%}"
