"""Runs what a page of the documentation shows: the commands of its ```console blocks, and what they print."""

from __future__ import annotations

import doctest
import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SECONDS = 60


class Shown(NamedTuple):
    """A command and what it prints; `...` stands for anything, blanks for any blanks."""

    command: str
    output: str


def blocks(page: Path, kind: str) -> list[str]:
    """The fenced blocks of a kind, such as "toml"."""
    return [text for name, text in _BLOCK.findall(page.read_text()) if name == kind]


def shown(page: Path) -> Iterator[Shown]:
    """All commands of `page`, in order."""
    for text in blocks(page, "console"):
        for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            yield Shown(command, output)


def run(each: Shown, directory: Path, environment: Mapping[str, str], replaced: Mapping[str, str]) -> None:
    """Run a command of a page with each key of `replaced` replaced, and compare what it prints."""
    command = each.command
    for old, new in replaced.items():
        command = command.replace(old, new)
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=directory,
        env=dict(environment),
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
    )
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    printed = done.stdout.strip() + "\n"
    assert doctest.OutputChecker().check_output(each.output.strip() + "\n", printed, flags), (
        f"$ {command}\n{done.stdout}{done.stderr}"
    )
