"""Admin routes outside development: for operators' networks and service tokens only; to anyone else they do not exist."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Final

from kernel.config import Settings
from kernel.exchange.exchange import Exchange, Stage
from kernel.exchange.phase import Phase
from kernel.http.problems import ROUTE_UNKNOWN, Problem
from kernel.identity.errors import TokenError
from kernel.routing.catalog import RouteRow
from kernel.stages.limit import bearer
from kernel.stages.lookup import Lookup
from kernel.state import State
from kernel.store.keys import token_revoked
from kernel.store.tracked import Values

NAME: Final = Phase("admin")


def describe(settings: Settings, row: RouteRow) -> str:
    """What the stage demands of a request, in words; empty where it has no part in the route."""
    if not row.admin or settings.environment == "dev":
        return ""
    return "from the networks of ADMIN_ALLOW, or with a service token; else 404"


def make(state: State, row: RouteRow) -> Stage | None:
    """The stage of /metrics, /docs and the like in staging and prod."""
    if not row.admin or state.settings.environment == "dev":
        return None
    admins = state.admins
    verify = state.verifier.verify
    lookup = Lookup(state)

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
        assert identity.jti is not None  # a verified token has a name
        return lookup.judge(x, (token_revoked(identity.jti),), judge)

    def judge(x: Exchange, values: Values) -> Problem | None:
        return None if values[0] is None else ROUTE_UNKNOWN()

    return admin
