"""What a scenario gets and what it gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from bench import report
from bench.peers import PEERS, Peer
from bench.rig import Rig
from bench.run import Row, Say

MAIN = ("gateway", "haproxy-jwt", "fastify", "nginx", "stack")
# The brief's stack answers some fifty requests a second: nothing to compare where thousands are open or prepared.
FAST = ("gateway", "haproxy-jwt", "nginx")
POLICED = ("gateway", "haproxy-jwt")
TOKENS = 20_000


@dataclass(frozen=True)
class Outcome:
    """A table, the same figures for the JSON, and what a reader must know to read them."""

    head: Sequence[str]
    body: Sequence[Sequence[str]]
    figures: Any
    notes: Sequence[str] = ()
    targets: Sequence[report.Target] = ()

    def text(self) -> str:
        """The table as markdown, the notes below it."""
        return "\n".join(
            [
                report.markdown(self.head, self.body),
                *(["", *map("- {}".format, self.notes)] if self.notes else []),
            ]
        )


@dataclass
class Context:
    """A rig, the peers that may take part, and how long to measure."""

    rig: Rig
    say: Say
    rounds: int = 2
    seconds: int = 2
    only: Sequence[str] | None = None  # names of peers, None: all

    def peers(self, names: Sequence[str] = MAIN) -> list[Peer]:
        """Those of `names` that are installed and wanted."""
        return [
            peer
            for peer in PEERS
            if peer.name in names and (self.only is None or peer.name in self.only) and peer.available()
        ]

    def rows(
        self, names: Sequence[str] = MAIN, env: Mapping[str, Mapping[str, str]] | None = None
    ) -> list[Row]:
        """Fresh rows for those peers; `env` by the peer's name is beside what it sets itself."""
        return [Row(peer, peer.version(), env=(env or {}).get(peer.name, {})) for peer in self.peers(names)]

    @cached_property
    def tokens(self) -> list[str]:
        """Tokens of as many users, signed once a run."""
        self.say(f"signing {TOKENS:,} tokens")
        return list(self.rig.keys.users(TOKENS))


@dataclass(frozen=True)
class Case:
    """A scenario: its name on the command line, its title, what measures it."""

    name: str
    title: str
    measure: Callable[[Context], Outcome]


@dataclass(frozen=True)
class Result:
    """A case that ran, or failed for a reason."""

    case: Case
    outcome: Outcome | None
    failure: str = ""
    seconds: float = 0.0

    def text(self) -> str:
        """Title and table, or title and reason."""
        shown = self.outcome.text() if self.outcome else f"FAILED: {self.failure}"
        return f"{self.case.title}\n\n{shown}"

    def as_dict(self) -> dict[str, Any]:
        """For the JSON."""
        return {
            "name": self.case.name,
            "title": self.case.title,
            "seconds": round(self.seconds, 1),
            "failed": self.failure or None,
            "figures": self.outcome.figures if self.outcome else None,
            "notes": list(self.outcome.notes) if self.outcome else [],
        }
