"""Whom an identity is in a tenant: access, role, tier, and the keys that decide about its requests."""

from __future__ import annotations

from typing import Any

from kernel.http.problems import Problem
from kernel.identity.access import below, decide, overseen
from kernel.identity.claims import Access, Claims
from kernel.identity.identity import DEMO_SESSION, Identity, TenantContext, access_identity, service_identity


def user(trust: str = "key", **changes: Any) -> Identity:
    fields = {"tenant_id": "own", "tenant_role": "owner", "jti": "j", **changes}
    return access_identity(Claims(exp=2, iat=1, iss="i", **fields), "u", trust)


def context(identity: Identity, tenant: str | None) -> TenantContext:
    made = decide(identity, tenant)
    assert isinstance(made, TenantContext)
    return made


def refusal(identity: Identity, tenant: str | None) -> str:
    made = decide(identity, tenant)
    assert isinstance(made, Problem)
    return made.kind.code


def test_a_token_rests_on_every_tenant_it_speaks_of() -> None:
    listed = Access(id="listed", role="baker")
    group = Access(id="group", can_view_children=True)
    identity = user(tenant_access=[listed, group])
    key = "tenant:{}:subscription_changed_at".format
    revoked = "token:revoked:j"
    assert context(identity, "own").freshness_keys == (revoked, key("own"))
    assert context(identity, "listed").freshness_keys == (revoked, key("listed"), key("own"))
    assert below(identity, "outlet", "group").freshness_keys == (
        revoked,
        key("outlet"),
        key("group"),
        key("own"),
    )


def test_without_a_tenant_only_revocation_is_asked() -> None:
    made = context(user(tenant_id=None), None)
    assert (made.access, made.read_only_key, made.demo_key) == ("", "", "")
    assert made.freshness_keys == ("token:revoked:j",)
    assert made.lock_keys == ("platform:read_only",)
    assert b"x-tenant-access-type" not in made.block


def test_a_service_is_never_stale_but_can_be_locked_out_and_revoked() -> None:
    identity = service_identity(Claims(exp=2, iat=1, iss="i", jti="j"), "sales", "key")
    made = context(identity, "any")
    assert made.freshness_keys == ("token:revoked:j",)
    assert made.demo_key == ""
    assert made.read_only_key == "tenant:any:read_only"
    assert made.revoked_key == "token:revoked:j"


def test_a_visitor_is_never_stale_and_a_demo_token_is() -> None:
    assert context(user(DEMO_SESSION, is_demo=True), "own").freshness_keys == ("token:revoked:j",)
    assert len(context(user(is_demo=True), "own").freshness_keys) == 2
    assert context(user(is_demo=True), "own").demo_key == ""


def test_a_demo_identity_sees_no_children_whatever_it_lists() -> None:
    entries = [Access(id="own", can_view_children=True), Access(id="other", can_view_children=True)]
    identity = user(is_demo=True, tenant_access=entries)
    assert not context(identity, "own").sees_children
    assert refusal(identity, "other") == "demo-forbidden"
    assert refusal(identity, "outlet") == "demo-forbidden"


def test_only_who_oversees_somebody_depends_on_the_hierarchy() -> None:
    plain = [Access(id="other", role="baker"), Access(id="third", can_view_children=False)]
    assert refusal(user(tenant_access=plain), "outlet") == "tenant-forbidden"
    overseer = user(tenant_access=[*plain, Access(id="group", can_view_children=True)])
    assert decide(overseer, "outlet") is None
    assert overseen(overseer) == {"group"}
