"""Read-only mode: no writes while a tenant, or the whole platform, is locked."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Final

from kernel.config import Settings
from kernel.exchange.exchange import Exchange, Stage
from kernel.exchange.phase import Phase
from kernel.http.problems import PLATFORM_READ_ONLY, TENANT_READ_ONLY, Problem
from kernel.routing.catalog import WRITES, RouteRow
from kernel.stages.lookup import Lookup
from kernel.stages.subscription import READ_ONLY
from kernel.state import State
from kernel.store.keys import PLATFORM_READ_ONLY as PLATFORM_KEY
from kernel.store.tracked import Values

NAME: Final = Phase("readonly")

_OPENING = frozenset({"GET"})


def _tenant_locked(reason: str) -> Problem:
    return TENANT_READ_ONLY(f"The tenant is read-only: {reason}" if reason else "")


def _platform_locked(reason: str) -> Problem:
    return PLATFORM_READ_ONLY(f"The platform is read-only: {reason}" if reason else "")


def describe(settings: Settings, row: RouteRow) -> str:
    """What the stage demands of a request, in words; empty where it has no part in the route."""
    writes = _writes(row)
    if not writes:
        return ""
    if row.websocket:
        return "only while neither the tenant nor the platform is locked"
    return f"{', '.join(sorted(writes))} only while neither the tenant nor the platform is locked"


def make(state: State, row: RouteRow) -> Stage | None:
    """The stage of every route but those that stay writable (auth and billing), write nothing, or are the operators' own."""
    writes = _writes(row)
    if not writes:
        return None
    lookup = Lookup(state)
    platform_only = (PLATFORM_KEY,)

    def judge(x: Exchange, values: Values) -> Problem | None:
        if values[0] is not None:
            return _platform_locked(values[0])
        if len(values) > 1 and values[1] is not None:
            return _tenant_locked(values[1])
        return None

    def read_only(x: Exchange) -> Problem | Awaitable[Problem | None] | None:
        if x.method not in writes:
            return None
        identity = x.identity
        if identity is not None and identity.status in READ_ONLY:
            return _tenant_locked(f"its subscription is {identity.status}")
        context = x.grant
        return lookup.judge(x, platform_only if context is None else context.lock_keys, judge)

    return read_only


def _writes(row: RouteRow) -> frozenset[str]:
    """The methods that are refused while there is a lock."""
    if row.admin or row.always_writable or row.safe:
        return frozenset()
    if row.websocket:
        return _OPENING  # what will be said in it is not known
    return WRITES if row.methods is None else WRITES & row.methods
