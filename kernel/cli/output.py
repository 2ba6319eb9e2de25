"""What the commands print: styles, tables, wrapped text. Colours only for a terminal, and not with NO_COLOR."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TextIO

from kernel.config import ConfigError
from kernel.config.values import PATH, sound


class Formatter(argparse.RawDescriptionHelpFormatter):
    """Keeps the line breaks of descriptions and examples."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=22, width=width())

    def add_argument(self, action: argparse.Action) -> None:
        """Count the indent of commands, too: argparse would give the longest one a line of its own."""
        super().add_argument(action)
        if isinstance(action, argparse._SubParsersAction):
            longest = max(map(len, action.choices)) + self._current_indent + self._indent_increment
            self._action_max_length = max(self._action_max_length, longest)


def file_argument(text: str) -> Path:
    """The type of arguments that name files."""
    try:
        path = PATH.parse(sound(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if not path.name:
        raise argparse.ArgumentTypeError("names no file")
    return path


class Style:
    """Dresses text for `stream`."""

    def __init__(self, stream: TextIO) -> None:
        dumb = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
        self._colour = stream.isatty() and not dumb
        unicode = (stream.encoding or "").lower().replace("-", "") == "utf8"
        self.good, self.bad, self.doubtful = ("✓", "✗", "!") if unicode else ("+", "x", "!")

    def __call__(self, code: str, text: str) -> str:
        """`text` with the SGR `code`, such as "1" (bold), "2" (faint), "31" (red)."""
        return f"\x1b[{code}m{text}\x1b[0m" if self._colour and text else text


def width() -> int:
    """Columns to fill: the terminal's, within reason."""
    return max(60, min(shutil.get_terminal_size((100, 24)).columns, 120))


def room(stream: TextIO) -> int | None:
    """Columns that a line to `stream` may have: a terminal's, or COLUMNS; None where nothing wraps, as in a pipe."""
    if not stream.isatty() and not os.environ.get("COLUMNS", "").isdecimal():
        return None
    return max(60, shutil.get_terminal_size((100, 24)).columns)


def printable(text: str) -> str:
    """Text that others have written, for a terminal: what would drive it is escaped."""
    return (
        text
        if text.isprintable()
        else "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)
    )


def plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


Row = Sequence[str]


def table(rows: Iterable[Row], codes: Row | Callable[[Row], Row], style: Style) -> list[str]:
    """Aligned lines. `codes` dress the cells of a row, in each column the same or by the row."""
    listed = list(rows)
    widths = [max(map(len, column)) for column in zip(*listed, strict=True)]
    lines: list[str] = []
    for row in listed:
        dressed = codes(row) if callable(codes) else codes
        cells = [
            style(code, cell) + " " * (size - len(cell))
            for cell, code, size in zip(row, dressed, widths, strict=True)
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


def wrapped(rows: Iterable[Row], columns: int | None) -> list[Row]:
    """The rows, the last cell of each on as many lines as it takes to stay within `columns`; None: as they are."""
    listed = list(rows)
    if columns is None or not listed:
        return listed
    *before, _ = (max(map(len, column)) + 2 for column in zip(*listed, strict=True))
    fill = max(columns - sum(before), 24)
    lines: list[Row] = []
    for *cells, last in listed:
        first, *others = textwrap.wrap(last, fill, break_long_words=False, break_on_hyphens=False) or [""]
        lines += [(*cells, first), *((*("" for _ in cells), other) for other in others)]
    return lines


def print_errors(
    errors: Sequence[ConfigError], warnings: Sequence[ConfigError], stream: TextIO | None = None
) -> None:
    """Every error and warning: a mark, the variable, the problem and an example below it."""
    out = stream or sys.stderr
    style = Style(out)
    for found, mark, code in ((errors, style.bad, "31"), (warnings, style.doubtful, "33")):
        for error in found:
            out.write(f"  {style(code, mark)} {style('1', error.variable)}\n")
            for line in textwrap.wrap(
                error.problem, width() - 6, break_long_words=False, break_on_hyphens=False
            ):
                out.write(f"      {line}\n")
            if error.example:
                out.write(f"      {style('2', 'for example:')} {style('36', _assignment(error))}\n")


def _assignment(error: ConfigError) -> str:
    """The example as it would be written: `NAME=value`, unless it is a line already."""
    ready = "=" in error.example.split("://")[0] or error.example.startswith(("[", "the output"))
    return error.example if ready or not error.variable.isupper() else f"{error.variable}={error.example}"


def summary(errors: Sequence[ConfigError], warnings: Sequence[ConfigError]) -> str:
    """`3 errors, 1 warning`."""
    parts = [plural(len(found), noun) for found, noun in ((errors, "error"), (warnings, "warning")) if found]
    return ", ".join(parts)
