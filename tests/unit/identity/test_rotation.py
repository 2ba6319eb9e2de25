"""Every secret and key can be changed while gateways and services of both sides of the change serve: nobody is refused."""

from __future__ import annotations

from itertools import pairwise

import pytest

from kernel.build import key_set, policy
from kernel.config import Settings
from kernel.identity.keys import KeySet
from kernel.identity.mint import Minter, Signer
from kernel.identity.stamp import Stamp
from kernel.identity.tokens import Verifier
from kernel.store.keys import tenant_ancestors
from tests.support.tokens import access_token, forge, public_pem, service_payload, service_token, signer

OLD, NEW = "the-old-secret-of-the-services-0123456789", "the-new-secret-of-the-services-0123456789"
# What docs/operate.md says, step by step.
SECRETS = [(OLD,), (OLD, NEW), (NEW, OLD), (NEW,)]


def verifier(settings: Settings) -> Verifier:
    return Verifier(key_set(settings), policy(settings))


@pytest.mark.parametrize(("before", "after"), list(pairwise(SECRETS)))
def test_a_secret_is_changed_without_an_outage(before: tuple[str, ...], after: tuple[str, ...]) -> None:
    sides = [Settings(jwt_secret_keys=secrets) for secrets in (before, after)]
    for mine in sides:
        for theirs in sides:
            gateway = Minter(Signer(mine.jwt_secret_keys[0], "HS256"), issuer="bakery-auth")
            assert verifier(theirs).verify(gateway.token().encode()).service == "gateway"
            # Services sign with the old one until the gateways have both, and with the new one from then on.
            secret = OLD if before != SECRETS[2] else NEW
            assert verifier(theirs).verify(service_token("orders", secret=secret)).service == "orders"
            # What the gateways keep in the store for each other.
            name = tenant_ancestors("t")
            kept = Stamp(mine.jwt_secret_keys).put(name, b"value")
            assert Stamp(theirs.jwt_secret_keys).take(name, kept) == b"value"


def test_the_old_secret_is_worth_nothing_in_the_end() -> None:
    keys: KeySet = key_set(Settings(jwt_secret_keys=SECRETS[-1]))
    assert len(keys.trusted) == 1
    name = tenant_ancestors("t")
    assert Stamp(SECRETS[-1]).take(name, Stamp([OLD]).put(name, b"value")) is None


@pytest.mark.parametrize("service", [False, True])
def test_public_keys_are_changed_by_having_both_for_a_while(service: bool) -> None:
    one = f"kid: one\n{public_pem('rsa')}"
    two = f"kid: two\n{public_pem('rsa-2')}"

    def accepts(value: str, key: str, kid: str) -> bool:
        settings = Settings(jwt_service_public_key=value) if service else Settings(jwt_public_key=value)
        token = (
            forge({"alg": "RS256", "kid": kid}, service_payload("orders"), signer("RS256", key))
            if service
            else access_token(key, kid=kid)
        )
        return verifier(settings).verify(token).kind == ("service" if service else "access")

    assert accepts(one, "rsa", "one")
    assert accepts(one + two, "rsa", "one")
    assert accepts(one + two, "rsa-2", "two")
    assert accepts(two, "rsa-2", "two")
