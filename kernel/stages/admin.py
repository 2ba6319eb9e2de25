"""Admin routes outside development: for operators' networks and service tokens only; to anyone else they do not exist."""

from __future__ import annotations

from collections.abc import Awaitable

from kernel.exchange.exchange import Exchange
from kernel.exchange.route import Stage
from kernel.http.problems import ROUTE_UNKNOWN, Problem
from kernel.identity.errors import TokenError
from kernel.routing.catalog import RouteRow
from kernel.stages.limit import bearer
from kernel.state import State
from kernel.store.errors import StoreDown
from kernel.store.keys import token_revoked


def make(state: State, row: RouteRow) -> Stage | None:
    """The stage of /metrics, /docs and the like in staging and prod."""
    if not row.admin or state.settings.environment == "dev":
        return None
    admins = state.admins
    verify = state.verifier.verify
    tracked = state.tracked

    def admin(x: Exchange) -> Problem | Awaitable[Problem | None] | None:
        if x.client_ip in admins:
            return None
        token = bearer(x)
        try:
            identity = verify(token) if token is not None else None
        except TokenError:
            identity = None
        if identity is None or identity.kind != "service":
            # 404, not 403: a stranger learns nothing of what is there.
            return ROUTE_UNKNOWN()
        mark = tracked.get(token_revoked(identity.jti)) if identity.jti else None
        return judge(mark) if mark is None or isinstance(mark, str) else wait(mark)

    def judge(mark: str | None) -> Problem | None:
        return None if mark is None else ROUTE_UNKNOWN()

    async def wait(mark: Awaitable[str | None]) -> Problem | None:
        try:
            return judge(await mark)
        except StoreDown:
            return None

    return admin
