"""Tenant access: which tenant is asked for, may this identity reach it, and the context headers that follow.

The tenant is the path's, else `X-Tenant-ID`, else the token's own. What was allowed once is kept with the identity, encoded:
a known pair of token and tenant costs one dict hit. A tenant below another one is looked up each time, in memory when the
answer is known: families move.

SECURITY: a demo's virtual tenant is marked in the store by the session's check; a real identity is kept out of it
whatever its token lists.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable

from kernel.exchange.exchange import Exchange
from kernel.exchange.route import Stage
from kernel.http.problems import DEMO_FORBIDDEN, TENANT_FORBIDDEN, TENANT_INVALID, GatewayError, Problem
from kernel.identity.tenant_context import TenantContext, below, decide, overseen
from kernel.routing.catalog import RouteRow
from kernel.state import State
from kernel.store.errors import StoreDown

_TENANT = re.compile(rb"[A-Za-z0-9_-]{1,64}")
# Contexts kept with an identity: of tenants by the client's spelling, and of those below others by their id.
_BLOCKS = 64
_OVERSEEN = ("overseen",)
_IN_DEMO = DEMO_FORBIDDEN("This is a demo's tenant: only its own session reaches it.")

Outcome = Problem | Awaitable[Problem | None] | None


def make(state: State, row: RouteRow) -> Stage | None:
    """The stage of every route that asks who calls."""
    if not row.identified:
        return None
    segments = [part for part in row.pattern.split("/") if part.startswith("{")]
    place = segments.index("{tenant_id}") if "{tenant_id}" in segments else -1
    marks = state.tracked
    tenants = state.tenants
    metrics = state.metrics

    def enter(x: Exchange, context: TenantContext) -> Outcome:
        x.grant = context
        x.tenant = context.tenant
        x.context = context.block
        if context.demo_key and context.real != marks.generation:
            mark = marks.get(context.demo_key)
            if mark is not None:
                return _IN_DEMO if isinstance(mark, str) else wait(mark)
            context.real = marks.generation
        return None

    async def wait(mark: Awaitable[str | None]) -> Problem | None:
        try:
            return None if await mark is None else _IN_DEMO
        except StoreDown:
            metrics.unchecked += 1
            return None

    def first_time(x: Exchange, asked: bytes | None) -> Outcome:
        """A pair of token and tenant that is not known here."""
        identity = x.identity
        if asked is not None and not _TENANT.fullmatch(asked):
            return TENANT_INVALID()
        tenant = identity.tenant_id if asked is None else asked.decode()
        made = decide(identity, tenant)
        if isinstance(made, Problem):
            return made
        if made is None:
            return lookup(x, tenant)
        if len(identity.blocks) < _BLOCKS:
            identity.blocks[asked] = made
        return enter(x, made)

    def lookup(x: Exchange, tenant: str) -> Outcome:
        blocks = x.identity.blocks
        above = blocks.get(_OVERSEEN)
        if above is None:
            above = blocks[_OVERSEEN] = overseen(x.identity)
        parent = tenants.parent(tenant, above)
        return (
            judge(x, tenant, parent) if parent is None or isinstance(parent, str) else ask(x, tenant, parent)
        )

    async def ask(x: Exchange, tenant: str, pending: Awaitable[str | None]) -> Problem | None:
        try:
            parent = await pending
        except GatewayError as error:
            return error.problem
        outcome = judge(x, tenant, parent)
        return await outcome if isinstance(outcome, Awaitable) else outcome

    def judge(x: Exchange, tenant: str, parent: str | None) -> Outcome:
        if parent is None:
            return TENANT_FORBIDDEN()
        identity = x.identity
        context = identity.blocks.get(tenant)
        if context is None or context.parent != parent:
            context = below(identity, tenant, parent)
            if len(identity.blocks) < _BLOCKS:
                identity.blocks[tenant] = context
        return enter(x, context)

    def tenancy(x: Exchange) -> Outcome:
        asked = x.params[place] if place >= 0 else x.captured.get(b"x-tenant-id")
        context = x.identity.blocks.get(asked)
        return enter(x, context) if context is not None else first_time(x, asked)

    return tenancy
