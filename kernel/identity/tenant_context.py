"""What an identity may do in one tenant, and the header block that tells its services.

Access is
- "direct": the token's own tenant (for a demo identity the only one there is),
- "listed": an entry of `tenant_access`, whose role and tier count there,
- "hierarchical": a tenant below one whose entry says `can_view_children`; that entry's role and tier count,
- "service": a service token, in its own tenant or, when it names none, in any,
- "": no tenant at all.
"""

from __future__ import annotations

from kernel.http.headers import encode_block
from kernel.http.problems import DEMO_FORBIDDEN, TENANT_FORBIDDEN, Problem
from kernel.identity.claims import Identity
from kernel.store.keys import subscription_changed_at, tenant_demo, tenant_read_only, token_revoked

# The `trust` of identities made from a demo session instead of a token.
DEMO_SESSION = "demo-session"


class TenantContext:
    """An identity in one tenant: the keys that decide about its requests, and the header block its services get.

    `changed_keys` are those of every tenant whose subscription the token's claims speak of here: the one asked for, the
    token's own (its status and expiry count everywhere) and, below a group, the group's. The keys are "" or () where
    there is nothing to ask.
    """

    __slots__ = (
        "access",
        "block",
        "changed_keys",
        "demo_key",
        "fresh",
        "grace_block",
        "parent",
        "read_only_key",
        "real",
        "revoked_key",
        "role",
        "sees_children",
        "tenant",
        "tier",
    )

    def __init__(
        self,
        identity: Identity,
        tenant: str | None,
        access: str,
        role: str,
        tier: str,
        *,
        sees_children: bool = False,
        parent: str = "",
    ) -> None:
        self.tenant = tenant
        self.access = access
        self.role = role
        self.tier = tier
        self.sees_children = sees_children
        self.parent = parent
        self.changed_keys: tuple[str, ...] = ()
        self.demo_key = ""
        if tenant and identity.kind == "access":
            # A session is asked for anew twice a minute, and nobody could issue it again.
            if identity.trust != DEMO_SESSION:
                named = dict.fromkeys((tenant, parent, identity.tenant_id or ""))
                self.changed_keys = tuple(subscription_changed_at(each) for each in named if each)
            if not identity.is_demo:
                self.demo_key = tenant_demo(tenant)
        self.read_only_key = tenant_read_only(tenant) if tenant else ""
        # A service has no session to go stale; its token can still be revoked.
        self.revoked_key = token_revoked(identity.jti) if identity.jti else ""
        # The generation of the tracked keys by which the token was found fresh here, and the tenant no demo's.
        self.fresh = self.real = -1
        self.block = self.encode(identity, identity.status)
        # Made when the first request in the grace period needs it.
        self.grace_block = b""

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
            (b"x-is-demo", "true" if identity.is_demo else ""),
            (b"x-demo-session-id", identity.demo_session_id or ""),
            (b"x-demo-account-type", identity.demo_account_type or ""),
            (b"x-tenant-access-type", self.access),
            (b"x-can-view-children", "true" if self.sees_children else ""),
            (b"x-parent-tenant-id", self.parent),
        ]
        return encode_block((name, value) for name, value in pairs if value)


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
