"""Demo mode: an identity that says it is a demo's is one only while its session lasts, and in its own tenant only.

A request without a token enters by its session in the authentication stage; a real token makes the session's header
mean nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Final

from kernel.config import Settings
from kernel.exchange.exchange import Exchange, Stage
from kernel.exchange.phase import Phase
from kernel.http.problems import Problem
from kernel.identity.identity import DEMO_SESSION
from kernel.routing.catalog import RouteRow
from kernel.state import State

NAME: Final = Phase("demo")


def describe(settings: Settings, row: RouteRow) -> str:
    """What the stage demands of a request, in words; empty where it has no part in the route."""
    return "a demo's token only while its session lasts" if row.identified else ""


def make(state: State, row: RouteRow) -> Stage | None:
    """The stage of every route that asks who calls."""
    if not row.identified:
        return None
    stay = state.demo.stay

    def demo(x: Exchange) -> Problem | Awaitable[Problem | None] | None:
        identity = x.identity
        assert identity is not None
        # One that entered by its session was checked on the way in.
        if not identity.is_demo or identity.trust == DEMO_SESSION:
            return None
        return stay(x)

    return demo
