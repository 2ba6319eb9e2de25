"""Minted tokens are accepted by our own verifier, and the gateway's is renewed in time."""

from __future__ import annotations

from typing import Any

import pytest

from kernel.identity.keys import KeyConfigError, KeySet, secret_key
from kernel.identity.mint import Minter, Signer, access_claims, service_claims
from kernel.identity.pem import load_public_keys
from kernel.identity.policy import Policy
from kernel.identity.tokens import Verifier
from tests.support.tokens import ISSUER, SECRET, TENANT, private_pem, public_pem


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def verifier(clock: Clock, **policy: Any) -> Verifier:
    keys = KeySet([*load_public_keys(public_pem(), "RS256"), secret_key(SECRET)])
    rules = Policy(issuers=frozenset((ISSUER,)), services=frozenset(("gateway", "demo-session")), **policy)
    return Verifier(keys, rules, clock=clock)


def test_gateways_own_token_is_a_service_token_kept_until_shortly_before_its_end() -> None:
    clock = Clock()
    minter = Minter(Signer(SECRET, "HS256"), issuer=ISSUER, audience="bakery-api", clock=clock)
    accepting = verifier(clock, audience="bakery-api")
    first = minter.token()
    identity = accepting.verify(first.encode())
    assert (identity.service, identity.role, identity.exp - clock.now) == ("gateway", "admin", 3600)
    clock.now += 3299
    assert minter.token() == first
    clock.now += 1
    second = minter.token()
    assert second != first
    assert accepting.verify(second.encode()).exp == clock.now + 3600


def test_short_lived_token_is_renewed_at_half_its_life() -> None:
    clock = Clock()
    minter = Minter(Signer(SECRET, "HS256"), issuer=ISSUER, lifetime=60, clock=clock)
    first = minter.token()
    clock.now += 29
    assert minter.token() == first
    clock.now += 1
    assert minter.token() != first


def test_a_token_of_the_future_is_replaced_when_the_clock_was_set_back() -> None:
    clock = Clock()
    minter = Minter(Signer(SECRET, "HS256"), issuer=ISSUER, clock=clock)
    minter.token()
    clock.now -= 3600
    assert verifier(clock).verify(minter.token().encode()).exp == clock.now + 3600


def test_minted_access_token_carries_the_briefs_payload() -> None:
    clock = Clock()
    claims = access_claims(
        "user-1",
        issuer=ISSUER,
        email="a@b.example",
        tenant_id=TENANT,
        tier="starter",
        valid_until="2030-01-01T00:00:00Z",
        tenant_access=[{"id": "other", "role": "admin", "tier": "starter", "can_view_children": True}],
        now=clock.now,
        extra={"is_demo": True},
    )
    identity = verifier(clock).verify(Signer(private_pem(), "RS256").sign(claims).encode())
    assert (identity.user_id, identity.email, identity.tenant_id) == ("user-1", "a@b.example", TENANT)
    assert (identity.tier, identity.status, identity.valid_until) == ("starter", "active", 1893456000.0)
    assert identity.tenant_access["other"].can_view_children
    assert identity.is_demo
    assert identity.jti


def test_minted_service_token_may_be_bound_to_a_tenant() -> None:
    clock = Clock()
    claims = service_claims("demo-session", issuer=ISSUER, tenant_id=TENANT, now=clock.now)
    identity = verifier(clock).verify(Signer(SECRET, "HS256").sign(claims).encode())
    assert (identity.service, identity.tenant_id) == ("demo-session", TENANT)


@pytest.mark.parametrize(
    ("key", "alg"),
    [
        (public_pem(), "RS256"),
        (private_pem("p256"), "RS256"),
        (private_pem(), "ES256"),
        ("x", "EdDSA"),
        ("x", "none"),
    ],
)
def test_signer_refuses_a_key_that_cannot_sign(key: str, alg: str) -> None:
    with pytest.raises(KeyConfigError):
        Signer(key, alg)


@pytest.mark.parametrize(("name", "alg"), [("p256", "ES256"), ("ed25519", "EdDSA"), ("rsa", "PS256")])
def test_every_family_signs_what_it_verifies(name: str, alg: str) -> None:
    clock = Clock()
    keys = KeySet(load_public_keys(public_pem(name), alg))
    accepting = Verifier(keys, Policy(issuers=frozenset((ISSUER,)), services=frozenset()), clock=clock)
    token = Signer(private_pem(name), alg, kid="k").sign(access_claims("u", issuer=ISSUER, now=clock.now))
    assert accepting.verify(token.encode()).user_id == "u"
