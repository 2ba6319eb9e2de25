"""Freshness: a token issued before its tenant's subscription changed is refused, so that nobody keeps an old tier.

Moments are compared as they are, to the microsecond where they have it. A token whose `iat` is in whole seconds was issued
at or after that second, so it may be refused in the second of the change although it is younger; one that is older never
passes. The gateway's own marks have fractions; what others write in whole seconds counts from that second's start.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Final

from kernel.config import Settings
from kernel.exchange.exchange import Exchange, Stage
from kernel.exchange.phase import Phase
from kernel.http.problems import TOKEN_REVOKED, TOKEN_STALE, Problem
from kernel.identity.errors import challenge
from kernel.routing.catalog import RouteRow
from kernel.stages.lookup import Lookup
from kernel.state import State
from kernel.store.tracked import Values

NAME: Final = Phase("freshness")


def describe(settings: Settings, row: RouteRow) -> str:
    """What the stage demands of a request, in words; empty where it has no part in the route."""
    return "not revoked, and issued after the tenant's subscription last changed" if row.identified else ""


def make(state: State, row: RouteRow) -> Stage | None:
    """The stage of every route that asks who calls: revocation first, then freshness."""
    if not row.identified:
        return None
    tracked = state.tracked
    timestamps = state.timestamps
    lookup = Lookup(state)
    stale = TOKEN_STALE(headers=challenge("invalid_token", TOKEN_STALE.title))
    revoked = TOKEN_REVOKED(headers=challenge("invalid_token", TOKEN_REVOKED.title))

    def judge(x: Exchange, values: Values) -> Problem | None:
        identity, context = x.identity, x.grant
        assert identity is not None
        assert context is not None
        for key, value in zip(context.freshness_keys, values, strict=True):
            if value is None:
                continue
            if key == context.revoked_key:
                return revoked
            if identity.iat < timestamps.read(key, value):
                return stale
        return None

    def freshness(x: Exchange) -> Problem | Awaitable[Problem | None] | None:
        context = x.grant
        assert context is not None
        # PERF: decided once until any tracked key changes.
        generation = tracked.generation
        if context.fresh == generation:
            return None
        values = lookup.peek(context.freshness_keys)
        if values is None:
            return lookup.fetched(x, context.freshness_keys, judge)
        outcome = judge(x, values)
        if outcome is None:
            context.fresh = generation
        return outcome

    return freshness
