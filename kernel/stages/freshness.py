"""Freshness: a token issued before its tenant's subscription changed is refused, so that nobody keeps an old tier.

Moments are compared as they are, to the microsecond where they have it. A token whose `iat` is in whole seconds was issued
at or after that second, so it may be refused in the second of the change although it is younger; one that is older never
passes. The gateway's own marks have fractions; what others write in whole seconds counts from that second's start.
"""

from __future__ import annotations

from collections.abc import Awaitable

from kernel.exchange.exchange import Exchange
from kernel.exchange.route import Stage
from kernel.http.problems import TOKEN_REVOKED, TOKEN_STALE, Problem
from kernel.routing.catalog import RouteRow
from kernel.stages.authenticate import challenge
from kernel.state import State
from kernel.store.errors import StoreDown


def make(state: State, row: RouteRow) -> Stage | None:
    """The stage of every route that asks who calls: revocation first, then freshness."""
    if not row.identified:
        return None
    tracked = state.tracked
    metrics = state.metrics
    timestamps = state.timestamps
    stale = TOKEN_STALE(headers=challenge("invalid_token", TOKEN_STALE.title))
    revoked = TOKEN_REVOKED(headers=challenge("invalid_token", TOKEN_REVOKED.title))

    async def settle(value: str | Awaitable[str | None] | None) -> str | None:
        return value if value is None or isinstance(value, str) else await value

    async def wait(x: Exchange) -> Problem | None:
        """The same checks when a key must be read from the store."""
        context = x.grant
        try:
            if context.revoked_key and await settle(tracked.get(context.revoked_key)) is not None:
                return revoked
            for key in context.changed_keys:
                changed = await settle(tracked.get(key))
                if changed is not None and x.identity.iat < timestamps.read(key, changed):
                    return stale
        except StoreDown:
            metrics.unchecked += 1
        return None

    def freshness(x: Exchange) -> Problem | Awaitable[Problem | None] | None:
        context = x.grant
        generation = tracked.generation
        if context.fresh == generation:
            return None
        if context.revoked_key:
            mark = tracked.get(context.revoked_key)
            if mark is not None:
                return revoked if isinstance(mark, str) else wait(x)
        for key in context.changed_keys:
            changed = tracked.get(key)
            if changed is not None:
                if not isinstance(changed, str):
                    return wait(x)
                if x.identity.iat < timestamps.read(key, changed):
                    return stale
        context.fresh = generation
        return None

    return freshness
