"""Identity: a verified caller; and `TenantContext`, the same caller in one tenant, with the header block its services get.

Both are plain classes in one module: each knows the other, and they are what a request's stages look at most.
"""

from __future__ import annotations

from typing import Literal

from kernel.http.headers import encode_block
from kernel.http.problems import TOKEN_CLAIMS
from kernel.identity.claims import Access, Claims, Grant, seconds
from kernel.identity.errors import TokenError
from kernel.identity.scopes import Rights
from kernel.store.keys import (
    PLATFORM_READ_ONLY,
    subscription_changed_at,
    tenant_demo,
    tenant_read_only,
    token_revoked,
)

# The `trust` of identities made from a demo session instead of a token.
DEMO_SESSION = "demo-session"

Kind = Literal["access", "service", "api-key"]

_NO_CLAIMS = Claims(0.0, 0.0, "")


class Identity:
    """A verified caller. Times are Unix seconds; an absent text claim is "".

    `bucket` is the limiter's key. `trust` names the key that vouched for `claims`; both go to the second-level cache.
    `rights` are an API key's; a token has none of its own.
    `contexts`, `below`, `overseen` and `confined` are what was decided about it before, kept here to die with it.
    """

    __slots__ = (
        "below",
        "bucket",
        "claims",
        "confined",
        "contexts",
        "demo_account_type",
        "demo_session_id",
        "email",
        "exp",
        "iat",
        "is_demo",
        "jti",
        "kind",
        "overseen",
        "rights",
        "role",
        "service",
        "status",
        "tenant_access",
        "tenant_id",
        "tier",
        "trust",
        "user_id",
        "valid_until",
    )

    def __init__(
        self,
        claims: Claims,
        trust: str,
        *,
        kind: Kind,
        user_id: str,
        email: str = "",
        role: str = "",
        tier: str = "",
        status: str = "",
        valid_until: float | None = None,
        tenant_access: dict[str, Grant] | None = None,
        service: str | None = None,
        is_demo: bool = False,
        demo_session_id: str | None = None,
        demo_account_type: str | None = None,
        exp: float | None = None,
    ) -> None:
        self.claims = claims
        self.trust = trust
        self.kind: Kind = kind
        self.user_id = user_id
        self.email = email
        self.role = role
        self.tier = tier
        self.status = status
        self.valid_until = valid_until
        self.tenant_id: str | None = claims.tenant_id
        self.tenant_access: dict[str, Grant] = {} if tenant_access is None else tenant_access
        self.service = service
        self.is_demo = is_demo
        self.demo_session_id = demo_session_id
        self.demo_account_type = demo_account_type
        self.exp: float = claims.exp if exp is None else exp
        self.iat: float = claims.iat
        self.jti: str | None = claims.jti
        self.bucket = f"service:{service}" if service is not None else f"user:{user_id}"
        self.rights: Rights | None = None
        # By the client's spelling of the tenant; None: it named none.
        self.contexts: dict[bytes | None, TenantContext] = {}
        # Of tenants below others, by their id.
        self.below: dict[str, TenantContext] = {}
        # The tenants whose descendants it may reach, once that was asked.
        self.overseen: frozenset[str] | None = None
        # A demo session's identity, and what was left of this one in it.
        self.confined: tuple[Identity, Identity] | None = None

    def __repr__(self) -> str:
        return f"Identity({self.bucket!r})"

    def within(self, session: Identity) -> Identity:
        """A copy that lasts no longer than the demo `session`, and is known by it."""
        copy = Identity(
            self.claims,
            self.trust,
            kind=self.kind,
            user_id=self.user_id,
            email=self.email,
            role=self.role,
            tier=self.tier,
            status=self.status,
            valid_until=self.valid_until,
            tenant_access=self.tenant_access,
            service=self.service,
            is_demo=self.is_demo,
            demo_session_id=session.demo_session_id,
            demo_account_type=session.demo_account_type,
            exp=min(self.exp, session.exp),
        )
        copy.jti = self.jti  # a token without one was given a name
        return copy

    def remains(self) -> Identity:
        """What logs and the audit trail say of it, without claims, rights, or what was decided about it."""
        rest = Identity(_NO_CLAIMS, self.trust, kind=self.kind, user_id=self.user_id, service=self.service)
        rest.bucket = ""
        return rest


class TenantContext:
    """An identity in one tenant: the keys that decide about its requests, and the header block its services get.

    `changed_keys` are those of every tenant whose subscription the token's claims speak of here: the one asked for, the
    token's own (its status and expiry count everywhere) and, below a group, the group's. The keys are "" or () where
    there is nothing to ask.
    """

    __slots__ = (
        "access",
        "assertions",
        "block",
        "demo_key",
        "fresh",
        "freshness_keys",
        "grace_block",
        "lock_keys",
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
        changed: tuple[str, ...] = ()
        self.demo_key = ""
        if tenant and identity.kind != "service":
            # A session is asked for anew twice a minute, and nobody could issue it again.
            if identity.trust != DEMO_SESSION:
                named = dict.fromkeys((tenant, parent, identity.tenant_id or ""))
                changed = tuple(subscription_changed_at(each) for each in named if each)
            if not identity.is_demo:
                self.demo_key = tenant_demo(tenant)
        self.read_only_key = tenant_read_only(tenant) if tenant else ""
        self.lock_keys = (PLATFORM_READ_ONLY, self.read_only_key) if tenant else (PLATFORM_READ_ONLY,)
        # A service has no session to go stale; its token can still be revoked.
        self.revoked_key = token_revoked(identity.jti) if identity.jti else ""
        self.freshness_keys = (self.revoked_key, *changed) if self.revoked_key else changed
        # The generation of the tracked keys by which the token was found fresh here, and the tenant no demo's.
        self.fresh = self.real = -1
        self.block = self.encode(identity, identity.status)
        # By service: the header line that asserts this, and when it was made; see assertion.py.
        self.assertions: dict[str, tuple[bytes, float]] | None = None
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


def _grants(entries: list[Access]) -> dict[str, Grant]:
    grants: dict[str, Grant] = {}
    for entry in entries:
        grant = Grant(entry.role or "", entry.tier or "", entry.can_view_children is True)
        # Two different grants for one tenant: neither the higher nor the lower is a safe guess.
        if grants.setdefault(entry.id, grant) != grant:
            raise TokenError(TOKEN_CLAIMS, "The token grants one tenant twice, differently.")
    return grants


def service_identity(claims: Claims, service: str, trust: str) -> Identity:
    """The caller of a service token. Its user and role follow from its name, whatever the token says of them."""
    return Identity(
        claims,
        trust,
        kind="service",
        user_id=f"{service}-service",
        email=f"{service}-service@internal",
        role="admin",
        service=service,
    )


def access_identity(claims: Claims, user_id: str, trust: str) -> Identity:
    """The caller of an access token. Raises `TokenError`: TOKEN_CLAIMS for contradicting grants."""
    subscription = claims.subscription
    return Identity(
        claims,
        trust,
        kind="access",
        user_id=user_id,
        email=claims.email or "",
        role=claims.tenant_role or claims.role or "",
        tier=(subscription.tier or "") if subscription else "",
        status=(subscription.status or "") if subscription else "",
        valid_until=seconds(subscription.valid_until) if subscription else None,
        tenant_access=_grants(claims.tenant_access) if claims.tenant_access else {},
        is_demo=claims.is_demo is True or claims.demo_session_id is not None,
        demo_session_id=claims.demo_session_id,
        demo_account_type=claims.demo_account_type,
    )
