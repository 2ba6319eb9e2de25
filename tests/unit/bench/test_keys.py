"""The benchmark's tokens are what they claim to be, the refused ones included."""

from __future__ import annotations

import jwt
import pytest

from bench.keys import ISSUER, USER, Keys


@pytest.fixture(scope="module")
def keys() -> Keys:
    return Keys()


def decode(keys: Keys, token: str) -> dict[str, object]:
    return dict(jwt.decode(token, keys.public_pem, algorithms=["RS256"], issuer=ISSUER))


def test_the_token_verifies(keys: Keys) -> None:
    assert decode(keys, keys.token())["user_id"] == USER


def test_the_key_set_verifies_the_same_token(keys: Keys) -> None:
    key = jwt.PyJWKSet.from_dict(keys.jwks()).keys[0]
    assert jwt.decode(keys.token(), key, issuer=ISSUER)["user_id"] == USER


def test_users_are_distinct(keys: Keys) -> None:
    assert len({str(decode(keys, token)["user_id"]) for token in keys.users(5)}) == 5


def test_every_bad_token_is_bad(keys: Keys) -> None:
    refused = keys.refused()
    assert len(refused) == 6
    for token in refused.values():
        with pytest.raises(jwt.InvalidTokenError):
            decode(keys, token)
