"""Admin routes outside development: for operators' networks and service tokens only; to anyone else they do not exist."""

from __future__ import annotations

from kernel.catalog import RouteRow
from kernel.exchange import Exchange
from kernel.identity.errors import TokenError
from kernel.problems import ROUTE_UNKNOWN, Problem
from kernel.route import Stage
from kernel.stages.limit import bearer
from kernel.state import State


def make(state: State, row: RouteRow) -> Stage | None:
    """The stage of /metrics, /docs and the like in staging and prod."""
    if not row.admin or state.settings.environment == "dev":
        return None
    admins = state.admins
    verify = state.verifier.verify

    def admin(x: Exchange) -> Problem | None:
        if x.client_ip in admins:
            return None
        token = bearer(x)
        try:
            if token is not None and verify(token).kind == "service":
                return None
        except TokenError:
            pass
        # 404, not 403: a stranger learns nothing of what is there.
        return ROUTE_UNKNOWN()

    return admin
