"""Tenant access: which tenant is asked for, may this identity reach it, and the context headers that follow.

The tenant is the path's, else `X-Tenant-ID`, else the token's own, in its one spelling from here on; the path goes on as it
came. What was allowed once is kept with the identity, encoded:
a known pair of token and tenant costs one dict hit. A tenant below another one is looked up each time, in memory when the
answer is known: families move.

SECURITY: a demo's virtual tenant is marked in the store by the session's check; a real identity is kept out of it
whatever its token lists.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Final

from kernel.config import Settings
from kernel.exchange.exchange import Exchange, Stage
from kernel.exchange.phase import Phase
from kernel.http.problems import DEMO_FORBIDDEN, TENANT_FORBIDDEN, TENANT_INVALID, GatewayError, Problem
from kernel.identity.access import below, decide, overseen
from kernel.identity.identity import Identity, TenantContext
from kernel.primitives.tenant_id import canonical
from kernel.routing.catalog import RouteRow
from kernel.stages.lookup import Lookup
from kernel.state import State
from kernel.store.tracked import Values

NAME: Final = Phase("tenancy")

# Contexts kept with an identity: of tenants by the client's spelling, and as many of those below others by their id.
_MOST = 64
_IN_DEMO = DEMO_FORBIDDEN("This is a demo's tenant: only its own session reaches it.")

Outcome = Problem | Awaitable[Problem | None] | None


def describe(settings: Settings, row: RouteRow) -> str:
    """What the stage demands of a request, in words; empty where it has no part in the route."""
    if not row.identified:
        return ""
    asked = "the path's tenant" if "{tenant_id}" in row.pattern else "X-Tenant-ID, else the token's tenant"
    return f"access to {asked}: its own, one it lists, or one below a group it oversees"


def make(state: State, row: RouteRow) -> Stage | None:
    """The stage of every route that asks who calls."""
    if not row.identified:
        return None
    segments = [part for part in row.pattern.split("/") if part.startswith("{")]
    place = segments.index("{tenant_id}") if "{tenant_id}" in segments else -1
    marks = state.tracked
    tenants = state.tenants
    lookup = Lookup(state)

    def enter(x: Exchange, context: TenantContext) -> Outcome:
        x.grant = context
        x.tenant = context.tenant
        x.context = context.block
        if context.demo_key and context.real != marks.generation:
            generation = marks.generation
            keys = (context.demo_key,)
            values = lookup.peek(keys)
            if values is None:
                return lookup.fetched(x, keys, outside)
            if values[0] is not None:
                return _IN_DEMO
            context.real = generation
        return None

    def outside(x: Exchange, values: Values) -> Problem | None:
        return None if values[0] is None else _IN_DEMO

    def first_time(x: Exchange, identity: Identity, asked: bytes | None) -> Outcome:
        """A pair of token and tenant that is not known here."""
        try:
            tenant = identity.tenant_id if asked is None else canonical(asked.decode("latin-1"))
        except ValueError as error:
            return TENANT_INVALID(f"{error}.")
        made = decide(identity, tenant)
        if isinstance(made, Problem):
            return made
        if made is None:
            assert tenant is not None
            return find(x, identity, tenant)
        if len(identity.contexts) < _MOST:
            identity.contexts[asked] = made
        return enter(x, made)

    def find(x: Exchange, identity: Identity, tenant: str) -> Outcome:
        above = identity.overseen
        if above is None:
            above = identity.overseen = overseen(identity)
        parent = tenants.parent(tenant, above)
        if parent is None or isinstance(parent, str):
            return judge(x, identity, tenant, parent)
        return ask(x, identity, tenant, parent)

    async def ask(
        x: Exchange, identity: Identity, tenant: str, pending: Awaitable[str | None]
    ) -> Problem | None:
        try:
            parent = await pending
        except GatewayError as error:
            return error.problem
        outcome = judge(x, identity, tenant, parent)
        return await outcome if isinstance(outcome, Awaitable) else outcome

    def judge(x: Exchange, identity: Identity, tenant: str, parent: str | None) -> Outcome:
        if parent is None:
            return TENANT_FORBIDDEN()
        context = identity.below.get(tenant)
        if context is None or context.parent != parent:
            context = below(identity, tenant, parent)
            if len(identity.below) < _MOST:
                identity.below[tenant] = context
        return enter(x, context)

    def tenancy(x: Exchange) -> Outcome:
        asked = x.params[place] if place >= 0 else x.captured.get(b"x-tenant-id")
        identity = x.identity
        assert identity is not None
        context = identity.contexts.get(asked)
        return enter(x, context) if context is not None else first_time(x, identity, asked)

    return tenancy
