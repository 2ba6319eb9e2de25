"""Assertion: signs for the service who calls (see identity/assertion.py); with IDENTITY_ASSERTION."""

from __future__ import annotations

from typing import Final

from kernel.config import Settings
from kernel.exchange.exchange import Exchange, Stage
from kernel.exchange.phase import Phase
from kernel.routing.catalog import RouteRow
from kernel.state import State

NAME: Final = Phase("assertion")


def describe(settings: Settings, row: RouteRow) -> str:
    """What the stage does, in words; empty where it has no part in the route."""
    if not settings.identity_assertion or not row.identified or row.service is None:
        return ""
    return f"x-gateway-assertion: who calls, signed for {row.service}"


def make(state: State, row: RouteRow) -> Stage | None:
    """The stage of routes to services that need a token."""
    assertions, service = state.assertions, row.service
    if assertions is None or not row.identified or service is None:
        return None
    make = assertions.make

    def assertion(x: Exchange) -> None:
        context = x.grant
        assert context is not None
        # PERF: 0.2 us when it is made already.
        known = context.assertions
        if known is not None and service in known:
            line, until = known[service]
            if x.started < until:
                x.context += line
                return
        x.context += make(x.caller, context, service)

    return assertion
