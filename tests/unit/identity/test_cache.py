"""The worker's memory of tokens: bounded, and true to the second."""

from __future__ import annotations

import json

import pytest

from kernel.http.problems import TOKEN_SIGNATURE
from kernel.identity.cache import IdentityCache, Refusals
from kernel.identity.claims import decode_claims
from kernel.identity.errors import TokenError
from kernel.identity.identity import Identity, access_identity
from tests.support.tokens import access_payload, name_without_jti


def someone(user: str = "user-1", exp: float = 100.0) -> Identity:
    return access_identity(decode_claims(json.dumps(access_payload(exp=exp)).encode()), user, "key")


def test_capacity_is_bounded_to_two_generations() -> None:
    cache = IdentityCache(8, lambda: 0.0)
    for index in range(1000):
        cache.put(b"token-%d" % index, someone(str(index)))
        assert len(cache) <= 16
    recent = cache.get(b"token-999")
    assert recent is not None
    assert recent.user_id == "999"
    assert cache.get(b"token-0") is None


def test_token_in_use_survives_any_number_of_others() -> None:
    cache = IdentityCache(8, lambda: 0.0)
    cache.put(b"mine", someone())
    for index in range(1000):
        cache.put(b"token-%d" % index, someone())
        assert cache.get(b"mine") is not None
        assert len(cache) <= 16


def test_token_found_in_the_older_generation_moves_to_the_younger() -> None:
    cache = IdentityCache(2, lambda: 0.0)
    for token in (b"a", b"b", b"c"):
        cache.put(token, someone())
    assert cache.get(b"a") is not None
    assert len(cache) == 3


def test_a_token_without_a_name_has_one_however_it_is_signed() -> None:
    # Of an ECDSA signature (r, s) anybody makes a second good one, (r, n - s): no way around a logout.
    cache = IdentityCache(8, lambda: 0.0)
    first, second, other = someone(), someone(), someone()
    cache.put(b"head.payload.signature", first)
    cache.put(b"head.payload.twin", second)
    cache.put(b"head.another.signature", other)
    assert first.jti == second.jti != other.jti
    assert first.jti == name_without_jti(b"head.payload.signature")


def test_expiry_holds_in_both_generations() -> None:
    now = 0.0
    cache = IdentityCache(1, lambda: now)
    cache.put(b"a", someone(exp=10.0))
    cache.put(b"b", someone(exp=10.0))
    assert cache.get(b"a") is not None
    now = 10.0
    assert cache.get(b"a") is None
    assert cache.get(b"b") is None
    assert len(cache) == 0


def test_refusals_are_bounded_and_keep_their_words() -> None:
    refusals = Refusals()
    for index in range(1000):
        refusals.remember(b"%d" % index, TokenError(TOKEN_SIGNATURE, "because"), 5.0)
    with pytest.raises(TokenError, match="because") as error:
        refusals.check(b"999", 5.5)
    assert error.value.kind is TOKEN_SIGNATURE
    refusals.check(b"0", 5.5)
    refusals.check(b"999", 6.0)
    refusals.clear()
    refusals.check(b"999", 5.5)
