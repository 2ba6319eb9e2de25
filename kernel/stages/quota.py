"""Quota: what a tenant may do altogether by gateway.toml, its own limit or its tier's; paid once the tenant is verified."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Final

from kernel.config import Settings
from kernel.exchange.exchange import Exchange, Stage
from kernel.exchange.phase import Phase
from kernel.http.problems import Problem
from kernel.routing.catalog import RouteRow
from kernel.stages.limit import Ledger
from kernel.state import State

NAME: Final = Phase("quota")


def describe(settings: Settings, row: RouteRow) -> str:
    """What the stage demands of a request, in words; empty where it has no part in the route."""
    if not row.identified or row.service_only or not (settings.tier_limits or settings.tenant_limits):
        return ""
    limits = {**settings.tier_limits, **settings.tenant_limits}
    return "of the whole tenant: " + "; ".join(f"{name} {limit.text}" for name, limit in limits.items())


def make(state: State, row: RouteRow) -> Stage | None:
    """The stage of routes that need a token, when any tier or tenant has a limit. Service tokens do not pay for tenants."""
    settings = state.settings
    if not row.identified or row.service_only or not (settings.tier_limits or settings.tenant_limits):
        return None
    tenants = {tenant: Ledger("tenant", limit, state) for tenant, limit in settings.tenant_limits.items()}
    tiers = {tier: Ledger("tier", limit, state) for tier, limit in settings.tier_limits.items()}

    def quota(x: Exchange) -> Problem | Awaitable[Problem | None] | None:
        tenant = x.tenant
        identity, context = x.identity, x.grant
        assert identity is not None
        assert context is not None
        if tenant is None or identity.kind == "service":
            return None
        ledger = tenants.get(tenant) or tiers.get(context.tier)
        return ledger.charge(x, "tenant:" + tenant + ledger.suffix) if ledger is not None else None

    return quota
