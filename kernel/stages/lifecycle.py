"""Lifecycle: tells callers of a version that it is deprecated, when it ends and what takes its place."""

from __future__ import annotations

from typing import Final

from kernel.config import Settings
from kernel.exchange.exchange import Exchange, Stage
from kernel.exchange.phase import Phase
from kernel.http.problems import Problem
from kernel.routing.catalog import RouteRow
from kernel.state import State
from kernel.traffic.versions import announcement, in_words

NAME: Final = Phase("lifecycle")


def describe(settings: Settings, row: RouteRow) -> str:
    """What the stage tells, in words; empty where it has no part in the route."""
    return f"callers are told: {in_words(row.life)}" if row.life is not None and announcement(row) else ""


def make(state: State, row: RouteRow) -> Stage | None:
    """Before all that may refuse: who gets a 401 is told, too. What is told changes nothing of the answer (RFC 9745, 4)."""
    announce = announcement(row)
    if announce is None:
        return None

    def stage(x: Exchange) -> Problem | None:
        x.extra += announce(x.raw_path)
        return None

    return stage
