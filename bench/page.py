"""The run in docs/benchmarks.md: tables, targets and a picture, between the markers, with the day and the command."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from bench import plot, report
from bench.families.base import Result
from bench.rig import REPOSITORY
from bench.run import Row, Scenario

BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"
PICTURE = "docs/bench.svg"
PAGE = REPOSITORY / "docs" / "benchmarks.md"


def write(
    host: dict[str, object],
    rows: Sequence[Row],
    scenarios: Sequence[Scenario],
    judged: Sequence[report.Target],
    results: Sequence[Result],
    command: str,
) -> None:
    """Rewrite the page's block and the picture."""
    main = scenarios[0]
    measured = [
        (row.peer.title, median(sample.rate for sample in row.samples[main.name]))
        for row in rows
        if not row.wrong and row.samples.get(main.name)
    ]
    title = f"requests per second, {main.title}, one core"
    (REPOSITORY / PICTURE).write_text(plot.bars(title, measured, "Bakery Gateway"), encoding="utf-8")
    text = PAGE.read_text(encoding="utf-8")
    head, _, rest = text.partition(BEGIN)
    tail = rest.partition(END)[2]
    PAGE.write_text(
        f"{head}{BEGIN}\n{block(host, rows, scenarios, judged, results, command)}\n{END}{tail}",
        encoding="utf-8",
    )


def block(
    host: dict[str, object],
    rows: Sequence[Row],
    scenarios: Sequence[Scenario],
    judged: Sequence[report.Target],
    results: Sequence[Result],
    command: str,
) -> str:
    """What stands between the markers."""
    day = datetime.now(UTC).strftime("%Y-%m-%d")
    kind = "virtual, " if host["virtual"] else ""
    noise = report.noise(rows)
    parts = [
        f"`{command}` on {day}: {host['cpu']} ({kind}{host['cores']} cores), Linux {host['kernel']}, Python "
        f"{host['python']}; {noise:.0%} of a core went to other programs.",
        f"![{scenarios[0].title}: requests per second]({Path(PICTURE).name})",
    ]
    for scenario in scenarios:
        parts += [
            f"**{scenario.title[0].upper()}{scenario.title[1:]}**",
            report.throughput_table(rows, scenario),
        ]
    if any(row.latencies for row in rows):
        parts += [
            "**At a constant 1,000 requests/s**, coordinated omission corrected",
            report.latency_table(rows),
        ]
    verdicts = [
        [
            target.title,
            f"{'<=' if target.at_most else '>='} {target.needed:g}",
            _reached(target),
            _word(target),
        ]
        for target in judged
    ]
    parts += ["**Against the figures it must reach**"]
    parts.append(report.markdown(["figure", "needed", "reached", ""], verdicts))
    if results:
        parts.append("<details><summary>Other scenarios</summary>")
        for result in results:
            title, _, table = result.text().partition("\n\n")
            parts += [f"**{title[0].upper()}{title[1:]}**", table]
        parts.append("</details>")
    return "\n\n".join(parts)


def _reached(target: report.Target) -> str:
    return "-" if target.reached is None else f"{target.reached:.2f}"


def _word(target: report.Target) -> str:
    return {True: "reached", False: "**missed**", None: "not measured"}[target.passed]
