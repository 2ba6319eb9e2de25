"""The CORS stage: puts the origin's headers on whatever the answer will be."""

from __future__ import annotations

from typing import Final

from kernel.config import Settings
from kernel.exchange.exchange import Exchange, Stage
from kernel.exchange.phase import Phase
from kernel.http.problems import Problem
from kernel.routing.catalog import RouteRow
from kernel.state import State

NAME: Final = Phase("cors")


def describe(settings: Settings, row: RouteRow) -> str:
    """What the stage demands of a request, in words; empty where it has no part in the route."""
    origins = ", ".join(settings.cors_origins) or "no origin"
    return f"pages of {origins} may read the answer"


def make(state: State, row: RouteRow) -> Stage:
    """First of all stages, so that every refusal can be read by the page that caused it."""
    cors = state.cors
    vary = cors.vary()

    def stage(x: Exchange) -> Problem | None:
        origin = x.captured.get(b"origin")
        x.extra += vary if origin is None else cors.headers(origin)
        return None

    return stage
