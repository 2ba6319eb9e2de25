"""The second-level cache's values: everything but the signature is judged anew."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernel.identity.identity import Identity
from kernel.identity.keys import KeySet, secret_key
from kernel.identity.l2_cache import REMOTE, encode, fingerprint, lifetime, restore
from kernel.identity.pem import load_public_keys
from kernel.identity.policy import Policy
from kernel.identity.stamp import Stamp
from kernel.identity.tokens import Verifier
from tests.support.tokens import ISSUER, SECRET, access_token, public_pem, service_token

SERVICES = frozenset(("gateway", "demo-session"))


def build(key: str | None = "rsa", secret: str = SECRET, **policy: Any) -> Verifier:
    keys = [secret_key(secret), *(load_public_keys(public_pem(key), "RS256") if key else ())]
    rules = {"issuers": frozenset((ISSUER,)), "services": SERVICES} | policy
    clock = rules.pop("clock", time.time)
    return Verifier(KeySet(keys), Policy(**rules), clock=clock)


def plain(identity: Identity) -> dict[str, Any]:
    return {
        name: value
        for name in dir(identity)
        if not name.startswith("_") and not callable(value := getattr(identity, name))
    }


@pytest.mark.parametrize(
    "token", [access_token(jti="token-1", nbf=1, demo_session_id="d"), service_token(tenant_id="t")]
)
def test_another_worker_gets_the_same_identity_without_the_token(token: bytes) -> None:
    identity = build().verify(token)
    value = encode(identity)
    assert not any(part in value for part in token.split(b"."))
    other = build()
    restored = restore(value, token, other)
    assert restored is not None
    assert plain(restored) == plain(identity)
    assert other.cached(token) is restored


def test_name_in_the_store_is_the_digest_of_the_whole_token() -> None:
    assert fingerprint(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_kept_for_fifteen_minutes_five_for_services_and_never_past_exp() -> None:
    verifier = build()
    now = time.time()
    assert lifetime(verifier.verify(access_token()), now) == 900
    assert lifetime(verifier.verify(service_token()), now) == 300
    assert lifetime(verifier.verify(access_token(exp=now + 60.9)), now) == 60
    assert lifetime(verifier.verify(access_token(exp=now + 60)), now + 61) == 0


@pytest.mark.parametrize(
    "today",
    [
        {"key": "rsa-2"},
        {"key": None},
        {"issuers": frozenset(("other",))},
        {"audience": "bakery-api"},
        {"clock": lambda: time.time() + 3600},
        {"clock": lambda: time.time() - 3600},
    ],
    ids=["key replaced", "no key", "issuer", "audience", "expired", "from the future"],
)
def test_value_that_today_would_not_be_accepted_is_ignored(today: dict[str, Any]) -> None:
    token = access_token()
    value = encode(build().verify(token))
    other = build(**today)
    assert restore(value, token, other) is None
    assert other.cached(token) is None


def test_service_struck_off_the_registry_or_secret_changed_is_ignored() -> None:
    token = service_token()
    value = encode(build().verify(token))
    assert restore(value, token, build(services=frozenset())) is None
    assert restore(value, token, build(secret=SECRET + "2")) is None
    assert restore(value, token, build()) is not None


def test_auth_services_word_counts_only_without_a_key_of_our_own() -> None:
    token = access_token()
    identity = build().verify(token)
    identity.trust = REMOTE
    value = encode(identity)
    assert restore(value, token, build()) is None
    assert restore(value, token, build(key=None)) is not None


def changed(**changes: Any) -> bytes:
    record = json.loads(encode(build().verify(access_token())))
    claims = record["claims"] | changes.pop("claims", {})
    return json.dumps(record | {"claims": claims} | changes).encode()


@pytest.mark.parametrize(
    "value",
    [
        b"", b"null", b"[]", b"{}", b"{", b"\xff", b"[" * 100_000, changed(v=2), changed(v="1"), changed(trust=None),
        changed(trust="x"), changed(claims={"user_id": "a\nb"}), changed(claims={"user_id": 1}),
        changed(claims={"exp": "9"}), changed(claims={"type": "service"}), changed(claims={"type": "refresh"}),
        changed(claims={"tenant_id": "../x"}),
    ],
)  # fmt: skip
def test_malformed_value_is_ignored(value: bytes) -> None:
    verifier = build()
    assert restore(changed(), b"token", verifier) is not None
    assert restore(value, b"other", verifier) is None
    assert verifier.cached(b"other") is None


@given(st.binary(max_size=120))
@settings(deadline=None)
def test_garbage_is_ignored(value: bytes) -> None:
    assert restore(value, b"token", build()) is None


def test_a_stamped_value_is_that_tokens_and_that_platforms_only() -> None:
    stamp = Stamp([SECRET])
    kept = stamp.put(fingerprint(b"a"), b"value")
    assert Stamp([SECRET]).take(fingerprint(b"a"), kept) == b"value"
    assert stamp.take(fingerprint(b"b"), kept) is None
    assert Stamp([SECRET + "x"]).take(fingerprint(b"a"), kept) is None
    # While a secret is changed, gateways with the old and the new one believe each other.
    assert Stamp(["new" * 12, SECRET]).take(fingerprint(b"a"), kept) == b"value"
    assert Stamp([SECRET, "new" * 12]).take(
        fingerprint(b"a"), Stamp(["new" * 12, SECRET]).put(fingerprint(b"a"), b"value")
    )
    assert stamp.take(fingerprint(b"a"), kept + b"!") is None
    assert stamp.take(fingerprint(b"a"), b"value") is None
