"""Freshness: a token issued before its tenant's subscription changed is refused, so that nobody keeps an old tier."""

from __future__ import annotations

from collections.abc import Awaitable

from kernel.catalog import RouteRow
from kernel.exchange import Exchange
from kernel.problems import TOKEN_REVOKED, TOKEN_STALE, Problem
from kernel.route import Stage
from kernel.stages.authenticate import challenge
from kernel.state import State
from kernel.store.errors import StoreDown


def make(state: State, row: RouteRow) -> Stage | None:
    """The stage of every route that needs a token: revocation first, then freshness."""
    if row.public or row.admin:
        return None
    tracked = state.tracked
    metrics = state.metrics
    moments = state.moments
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
            changed = await settle(tracked.get(context.changed_key)) if context.changed_key else None
        except StoreDown:
            metrics.unchecked += 1
            return None
        return judge(x, changed)

    def judge(x: Exchange, changed: str | None) -> Problem | None:
        if changed is not None and x.identity.iat < moments.read(x.grant.changed_key, changed):
            return stale
        return None

    def freshness(x: Exchange) -> Problem | Awaitable[Problem | None] | None:
        context = x.grant
        if context.revoked_key:
            mark = tracked.get(context.revoked_key)
            if mark is not None:
                return revoked if isinstance(mark, str) else wait(x)
        if not context.changed_key:
            return None
        changed = tracked.get(context.changed_key)
        if changed is None:
            return None
        return judge(x, changed) if isinstance(changed, str) else wait(x)

    return freshness
