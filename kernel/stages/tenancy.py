"""Tenant access: which tenant is asked for, may this identity reach it, and the context headers that follow.

The tenant is the path's, else `X-Tenant-ID`, else the token's own. What was allowed once is kept with the identity, encoded:
a known pair of token and tenant costs one dict hit.
"""

from __future__ import annotations

import re

from kernel.catalog import RouteRow
from kernel.exchange import Exchange
from kernel.headers import encode_block
from kernel.identity.claims import Identity
from kernel.problems import TENANT_FORBIDDEN, TENANT_INVALID, Problem
from kernel.route import Stage
from kernel.state import State
from kernel.store.keys import subscription_changed_at, tenant_read_only, token_revoked

_TENANT = re.compile(rb"[A-Za-z0-9_-]{1,64}")
_BLOCKS = 64


class TenantContext:
    """An identity in one tenant: what later stages ask and the header block its services get.

    `access` is direct (the token's own tenant), listed (an entry of `tenant_access`), service, or "" without a tenant.
    """

    __slots__ = ("access", "block", "changed_key", "read_only_key", "revoked_key", "role", "tenant", "tier")

    def __init__(self, identity: Identity, tenant: str | None, access: str, role: str, tier: str) -> None:
        self.tenant = tenant
        self.access = access
        self.role = role
        self.tier = tier
        self.changed_key = subscription_changed_at(tenant) if tenant and identity.kind == "access" else ""
        self.read_only_key = tenant_read_only(tenant) if tenant else ""
        # A service has no session to go stale; its token can still be revoked.
        self.revoked_key = token_revoked(identity.jti) if identity.jti else ""
        self.block = self.encode(identity, identity.status)

    def encode(self, identity: Identity, status: str) -> bytes:
        """The context header lines, with `status` as the subscription's."""
        pairs = [
            (b"x-user-id", identity.user_id),
            (b"x-user-email", identity.email),
            (b"x-user-role", self.role),
            (b"x-user-type", identity.kind),
            (b"x-service-name", identity.service or ""),
            (b"x-tenant-id", self.tenant or ""),
            (b"x-subscription-tier", self.tier),
            (b"x-subscription-status", status),
            (b"x-tenant-access-type", self.access),
        ]
        return encode_block((name, value) for name, value in pairs if value)


def decide(identity: Identity, tenant: str | None) -> TenantContext | Problem:
    """The context of `identity` in `tenant`, or why it may not go there."""
    if identity.kind == "service":
        if identity.tenant_id and tenant != identity.tenant_id:
            return TENANT_FORBIDDEN("This service token is bound to another tenant.")
        return TenantContext(identity, tenant, "service" if tenant else "", identity.role, "")
    if tenant is None or tenant == identity.tenant_id:
        return TenantContext(identity, tenant, "direct" if tenant else "", identity.role, identity.tier)
    grant = identity.tenant_access.get(tenant)
    if grant is None:
        return TENANT_FORBIDDEN()
    return TenantContext(identity, tenant, "listed", grant.role, grant.tier)


def make(state: State, row: RouteRow) -> Stage | None:
    """The stage of every route that needs a token."""
    if row.public or row.admin:
        return None
    segments = [part for part in row.pattern.split("/") if part.startswith("{")]
    place = segments.index("{tenant_id}") if "{tenant_id}" in segments else -1

    def tenancy(x: Exchange) -> Problem | None:
        identity = x.identity
        asked = x.params[place] if place >= 0 else x.captured.get(b"x-tenant-id")
        context = identity.blocks.get(asked)
        if context is None:
            if asked is not None and not _TENANT.fullmatch(asked):
                return TENANT_INVALID()
            made = decide(identity, identity.tenant_id if asked is None else asked.decode())
            if isinstance(made, Problem):
                return made
            context = made
            if len(identity.blocks) < _BLOCKS:
                identity.blocks[asked] = context
        x.grant = context
        x.tenant = context.tenant
        x.context = context.block
        return None

    return tenancy
