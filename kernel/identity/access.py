"""What an identity may do in one tenant.

Access is
- "direct": the token's own tenant (for a demo identity the only one there is),
- "listed": an entry of `tenant_access`, whose role and tier count there,
- "hierarchical": a tenant below one whose entry says `can_view_children`; that entry's role and tier count,
- "service": a service token, in its own tenant or, when it names none, in any,
- "": no tenant at all.
"""

from __future__ import annotations

from kernel.http.problems import DEMO_FORBIDDEN, TENANT_FORBIDDEN, Problem
from kernel.identity.identity import Identity, TenantContext


def decide(identity: Identity, tenant: str | None) -> TenantContext | Problem | None:
    """The context of `identity` in `tenant`, or why it may not go there; None: that depends on what stands above it."""
    if identity.kind == "service":
        if identity.tenant_id and tenant != identity.tenant_id:
            return TENANT_FORBIDDEN("This service token is bound to another tenant.")
        return TenantContext(identity, tenant, "service" if tenant else "", identity.role, "")
    entries = identity.tenant_access
    if tenant is None or tenant == identity.tenant_id:
        own = entries.get(tenant) if tenant else None
        return TenantContext(
            identity,
            tenant,
            "direct" if tenant else "",
            identity.role,
            identity.tier,
            sees_children=own is not None and own.can_view_children and not identity.is_demo,
        )
    if identity.is_demo:
        # SECURITY: whatever its token lists: a demo identity is anybody who came by.
        return DEMO_FORBIDDEN("A demo identity reaches its own demo tenant only.")
    grant = entries.get(tenant)
    if grant is not None:
        return TenantContext(
            identity, tenant, "listed", grant.role, grant.tier, sees_children=grant.can_view_children
        )
    return None if any(entry.can_view_children for entry in entries.values()) else TENANT_FORBIDDEN()


def overseen(identity: Identity) -> frozenset[str]:
    """The tenants whose descendants `identity` may reach."""
    return frozenset(tenant for tenant, entry in identity.tenant_access.items() if entry.can_view_children)


def below(identity: Identity, tenant: str, parent: str) -> TenantContext:
    """The context of `identity` in `tenant`, which stands below `parent`, one of those it oversees."""
    grant = identity.tenant_access[parent]
    own = parent == identity.tenant_id
    return TenantContext(
        identity,
        tenant,
        "hierarchical",
        grant.role or (identity.role if own else ""),
        grant.tier or (identity.tier if own else ""),
        sees_children=True,
        parent=parent,
    )
