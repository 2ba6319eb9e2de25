"""Horizontal bars as SVG, readable on light and dark pages, without any library."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

_ROW = 30
_LEFT = 200
_WIDTH = 760
_STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#24292f}.v{font-variant-numeric:tabular-nums}"
    ".b{fill:#8c959f}.o{fill:#bf7417}"
    "@media(prefers-color-scheme:dark){text{fill:#e6edf3}.b{fill:#6e7681}.o{fill:#e09b3d}}"
)


def bars(title: str, rows: Sequence[tuple[str, float]], own: str) -> str:
    """A picture of `rows` (label, value), the longest bar the largest value; the row called `own` stands out."""
    largest = max(value for _, value in rows)
    height = 44 + _ROW * len(rows)
    room = _WIDTH - _LEFT - 90
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img" '
        f'aria-label="{escape(title)}"><title>{escape(title)}</title><style>{_STYLE}</style>',
        f'<text x="8" y="20" font-weight="600">{escape(title)}</text>',
    ]
    for number, (label, value) in enumerate(rows):
        y = 36 + _ROW * number
        width = max(1.0, room * value / largest)
        kind = "o" if label == own else "b"
        parts += [
            f'<text x="{_LEFT - 10}" y="{y + 15}" text-anchor="end">{escape(label)}</text>',
            f'<rect class="{kind}" x="{_LEFT}" y="{y}" width="{width:.1f}" height="20" rx="3"/>',
            f'<text class="v" x="{_LEFT + width + 8:.1f}" y="{y + 15}">{value:,.0f}</text>',
        ]
    return "\n".join([*parts, "</svg>"]) + "\n"
