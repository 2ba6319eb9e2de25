"""Critical operations: the tenant service is asked each time, and what it cannot confirm is not done.

A token is as old as its last refresh; deleting a tenant on the word of one who was dismissed a minute ago cannot be
undone. The last of the stages: nothing is asked for a request that another one refuses.
"""

from __future__ import annotations

from typing import Final

from kernel.config import Settings
from kernel.exchange.exchange import Exchange, Stage
from kernel.exchange.phase import Phase
from kernel.http.problems import CRITICAL_DENIED, GatewayError, Problem
from kernel.routing.catalog import RouteRow
from kernel.state import State
from kernel.telemetry.audit import CRITICAL

NAME: Final = Phase("critical")


def describe(settings: Settings, row: RouteRow) -> str:
    """What the stage demands of a request, in words; empty where it has no part in the route."""
    if row.critical is None or not row.identified:
        return ""
    return f"the tenant service confirms {row.critical}; refused when it cannot"


def make(state: State, row: RouteRow) -> Stage | None:
    """The stage of a row that names an operation."""
    operation = row.critical
    if operation is None or not row.identified:
        return None
    verify = state.tenants.verify
    audit = state.audit

    def record(x: Exchange, problem: Problem | None) -> Problem | None:
        if problem is None:
            audit.exchange(CRITICAL, x, 0)
        else:
            audit.exchange(CRITICAL, x, problem.kind.status, problem.kind.code)
        return problem

    async def critical(x: Exchange) -> Problem | None:
        identity = x.identity
        assert identity is not None
        if x.tenant is None:
            return record(x, CRITICAL_DENIED("This operation needs a tenant: send X-Tenant-ID."))
        try:
            verdict = await verify(x.tenant, operation, identity.user_id)
        except GatewayError as error:
            return record(x, error.problem)
        if verdict.allowed:
            return record(x, None)
        return record(
            x,
            CRITICAL_DENIED(
                f"The tenant service refuses {operation}: {verdict.reason or 'no reason given'}."
            ),
        )

    return critical
