"""What a peer is: how it is found, configured, started, and which of the run's checks it must pass."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Flag, auto
from pathlib import Path
from typing import ClassVar

from bench.rig import Rig

HERE = Path(__file__).parent
UNLIMITED = 1_000_000_000


class Check(Flag):
    """What is verified of a peer before it is measured."""

    ANSWERS = auto()  # 200 to the run's request
    PROXIES = auto()  # the body is the upstream's, the target unchanged
    POLICIES = (
        auto()
    )  # refuses bad tokens, sets identity headers, drops forged ones, limits, logs one line a request


@dataclass(frozen=True)
class Launch:
    """How to start a configured peer."""

    command: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    access_log: Path | None = None  # None: it keeps none
    cwd: Path | None = None


class Peer:
    """One row of the table."""

    name: ClassVar[str]
    title: ClassVar[str]
    does: ClassVar[str]
    checks: ClassVar[Check]
    install: ClassVar[str] = ""
    settle: ClassVar[int] = 0  # > 0: so many seconds of load, and one, before any warm-up

    def available(self) -> bool:
        """Whether it is installed."""
        raise NotImplementedError

    def version(self) -> str:
        """Its version, one short word or two."""
        raise NotImplementedError

    def launch(self, rig: Rig, directory: Path, port: int, *, limit: int = UNLIMITED) -> Launch | None:
        """Write its configuration into `directory`; None when there is nothing to start.

        `limit` is what its rate limiter allows one user in ten seconds.
        """
        raise NotImplementedError


def fill(template: str, target: Path, values: Mapping[str, object]) -> Path:
    """Write bench/peers/`template` to `target` with every `@NAME@` replaced; a name left over is an error."""
    text = (HERE / template).read_text()
    for name, value in values.items():
        text = text.replace(f"@{name}@", str(value))
    if left := re.search(r"@[A-Z_]+@", text):
        raise ValueError(f"{template}: {left[0]} is not filled")
    target.write_text(text)
    return target


def first_line(*command: str) -> str:
    """The first line a program prints, stdout or stderr."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    text = (done.stdout + done.stderr).strip()
    return text.splitlines()[0] if text else ""
