"""The CORS stage: puts the origin's headers on whatever the answer will be."""

from __future__ import annotations

from kernel.exchange.exchange import Exchange
from kernel.exchange.route import Stage
from kernel.http.problems import Problem
from kernel.routing.catalog import RouteRow
from kernel.state import State


def make(state: State, row: RouteRow) -> Stage:
    """First of all stages, so that every refusal can be read by the page that caused it."""
    cors = state.cors
    vary = cors.vary()

    def stage(x: Exchange) -> Problem | None:
        origin = x.captured.get(b"origin")
        x.extra += vary if origin is None else cors.headers(origin)
        return None

    return stage
