"""Read-only mode: no writes while a tenant, or the whole platform, is locked."""

from __future__ import annotations

from collections.abc import Awaitable

from kernel.exchange.exchange import Exchange
from kernel.exchange.route import Stage
from kernel.http.problems import PLATFORM_READ_ONLY, TENANT_READ_ONLY, Problem
from kernel.routing.catalog import WRITES, RouteRow
from kernel.stages.subscription import READ_ONLY
from kernel.state import State
from kernel.store.errors import StoreDown
from kernel.store.keys import PLATFORM_READ_ONLY as PLATFORM_KEY

_OPENING = frozenset({"GET"})


def _tenant_locked(reason: str) -> Problem:
    return TENANT_READ_ONLY(f"The tenant is read-only: {reason}" if reason else "")


def _platform_locked(reason: str) -> Problem:
    return PLATFORM_READ_ONLY(f"The platform is read-only: {reason}" if reason else "")


def make(state: State, row: RouteRow) -> Stage | None:
    """The stage of every route but those that stay writable (auth and billing), write nothing, or are the operators' own."""
    writes = WRITES if row.methods is None else WRITES & row.methods
    if row.websocket:
        writes = _OPENING  # what will be said in it is not known
    if row.admin or row.always_writable or row.safe or not writes:
        return None
    tracked = state.tracked
    metrics = state.metrics

    async def wait(x: Exchange) -> Problem | None:
        """The same checks when a key must be read from the store."""
        try:
            locked = tracked.get(PLATFORM_KEY)
            if locked is not None and not isinstance(locked, str):
                locked = await locked
            if locked is not None:
                return _platform_locked(locked)
            if x.tenant is None:
                return None
            reason = tracked.get(x.grant.read_only_key)
            if reason is not None and not isinstance(reason, str):
                reason = await reason
        except StoreDown:
            metrics.unchecked += 1
            return None
        return None if reason is None else _tenant_locked(reason)

    def read_only(x: Exchange) -> Problem | Awaitable[Problem | None] | None:
        if x.method not in writes:
            return None
        identity = x.identity
        if identity is not None and identity.status in READ_ONLY:
            return _tenant_locked(f"its subscription is {identity.status}")
        locked = tracked.get(PLATFORM_KEY)
        if locked is not None:
            return _platform_locked(locked) if isinstance(locked, str) else wait(x)
        if x.tenant is None:
            return None
        reason = tracked.get(x.grant.read_only_key)
        if reason is None:
            return None
        return _tenant_locked(reason) if isinstance(reason, str) else wait(x)

    return read_only
