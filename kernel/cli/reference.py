"""The reference in the documentation, made from the code: `python -m kernel.cli.reference` writes it anew.

A block stands between `<!-- NAME:begin -->` and `<!-- NAME:end -->`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from kernel.cli.routes import cells
from kernel.config import Settings
from kernel.config.reference import reference as settings
from kernel.http.problems import CATALOGUE
from kernel.telemetry.families import FAMILIES

ROOT = Path(__file__).resolve().parents[2]


def problems() -> str:
    """Every error code."""
    rows = (
        (f"`{kind.code}`", str(kind.status), kind.title, kind.remedy)
        for kind in sorted(CATALOGUE.values(), key=lambda kind: (kind.status, kind.code))
    )
    return _table(("Code", "Status", "Title", "What to do"), rows)


def metrics() -> str:
    """Every metric family."""
    rows = (
        (f"`{family.name}`", family.kind, ", ".join(f"`{label}`" for label in family.labels), family.help)
        for family in FAMILIES.values()
    )
    return _table(("Metric", "Type", "Labels", "Meaning"), rows)


def routes() -> str:
    """The built-in route table."""
    rows = (
        (f"`{methods}`", f"`{pattern}`", service, callers, also)
        for methods, pattern, service, callers, also in sorted(
            map(cells, Settings().routes), key=lambda row: row[1::-1]
        )
    )
    return _table(("Methods", "Pattern", "Answered by", "Callers", "Also"), rows)


BLOCKS: dict[str, Callable[[], str]] = {
    "settings": settings,
    "problems": problems,
    "metrics": metrics,
    "routes": routes,
}


def renewed(text: str) -> str:
    """`text` with every block as the code would have it now."""
    for name, make in BLOCKS.items():
        begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
        if begin in text:
            head, _, rest = text.partition(begin)
            text = f"{head}{begin}\n{make().strip()}\n{end}{rest.partition(end)[2]}"
    return text


def documents() -> Iterator[Path]:
    """The files that may have blocks."""
    yield ROOT / "README.md"
    yield from sorted((ROOT / "docs").glob("*.md"))


def main() -> None:
    """Rewrite the blocks of every document that has some."""
    for path in documents():
        before = path.read_text(encoding="utf-8")
        after = renewed(before)
        if after != before:
            path.write_text(after, encoding="utf-8")
            sys.stdout.write(f"{path.relative_to(ROOT)} rewritten\n")


def _table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    listed = list(heads)
    lines = [listed, ["---"] * len(listed), *map(list, rows)]
    return "\n".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in line)} |" for line in lines)


if __name__ == "__main__":
    main()
