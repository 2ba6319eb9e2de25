from __future__ import annotations

import time

import jwt
import pytest

from kernel.identity.access import decide
from kernel.identity.assertion import ISSUER, TYPE, Assertions, derived_key, signers
from kernel.identity.claims import Claims
from kernel.identity.identity import Identity, TenantContext, access_identity, service_identity
from kernel.identity.keys import KeyConfigError
from tests.support.tokens import SECRET, TENANT, private_pem

ED = private_pem("ed25519")


def someone() -> tuple[Identity, TenantContext]:
    now = time.time()
    claims = Claims(exp=now + 600, iat=now, iss="bakery-auth", tenant_id=TENANT, tenant_role="owner")
    identity = access_identity(claims, "user-1", "key")
    context = decide(identity, TENANT)
    assert isinstance(context, TenantContext)
    return identity, context


def assertions(keys: str | None = ED, now: float | None = None) -> Assertions:
    signing, published = signers(keys, (SECRET,))
    return Assertions(signing[0], published, time.time if now is None else lambda: now)


def token(line: bytes) -> str:
    name, _, value = line.decode().rstrip("\r\n").partition(": ")
    assert name == "x-gateway-assertion"
    return value


def test_it_says_who_calls_for_one_service() -> None:
    made = assertions()
    value = token(made.make(*someone(), "inventory"))
    head = jwt.get_unverified_header(value)
    assert (head["alg"], head["typ"]) == ("EdDSA", TYPE)
    (key,) = made.published
    assert head["kid"] == key["kid"]
    assert "d" not in key  # the private half
    claims = jwt.decode(value, jwt.PyJWK(key), algorithms=["EdDSA"], audience="inventory", issuer=ISSUER)
    assert claims.pop("exp") - claims.pop("iat") == 60
    assert claims == {
        "iss": ISSUER,
        "aud": "inventory",
        "sub": "user-1",
        "user_type": "access",
        "tenant_id": TENANT,
        "role": "owner",
    }
    with pytest.raises(jwt.InvalidAudienceError):
        jwt.decode(value, jwt.PyJWK(key), algorithms=["EdDSA"], audience="sales", issuer=ISSUER)


def test_it_is_made_once_for_each_service() -> None:
    made = assertions()
    identity, context = someone()
    first = made.make(identity, context, "inventory")
    other = made.make(identity, context, "sales")
    assert context.assertions is not None
    assert {name: line for name, (line, _) in context.assertions.items()} == {
        "inventory": first,
        "sales": other,
    }


def test_one_of_a_minute_ago_has_expired() -> None:
    made = assertions(now=time.time() - 61)
    value = token(made.make(*someone(), "inventory"))
    with pytest.raises(jwt.ExpiredSignatureError):
        jwt.decode(value, jwt.PyJWK(made.published[0]), algorithms=["EdDSA"], audience="inventory")


def test_a_service_is_named_as_such() -> None:
    claims = Claims(exp=time.time() + 600, iat=time.time(), iss="bakery-auth", tenant_id=TENANT)
    identity = service_identity(claims, "orders", "key")
    context = decide(identity, TENANT)
    assert isinstance(context, TenantContext)
    value = token(assertions().make(identity, context, "inventory"))
    claimed = jwt.decode(value, options={"verify_signature": False})
    assert (claimed["sub"], claimed["user_type"]) == ("orders-service", "service")


def test_by_a_secret_it_is_signed_with_a_key_made_from_it() -> None:
    made = assertions(None)
    assert made.published == ()
    value = token(made.make(*someone(), "inventory"))
    claims = jwt.decode(value, derived_key(SECRET), algorithms=["HS256"], audience="inventory")
    assert claims["sub"] == "user-1"
    with pytest.raises(jwt.InvalidSignatureError):  # no service token can be had from it
        jwt.decode(value, SECRET, algorithms=["HS256"], audience="inventory")


def test_several_keys_the_first_signs_all_are_published() -> None:
    other = private_pem("ed25519-2")
    signing, published = signers(f"{ED}\n{other}", ())
    assert [signer.kid for signer in signing] == [key["kid"] for key in published]
    assert len({key["kid"] for key in published}) == 2
    again, _ = signers(other.replace("\n", "\\n"), ())  # as one line of an environment variable
    assert again[0].kid == signing[1].kid


@pytest.mark.parametrize(
    ("keys", "secrets", "text"),
    [
        (None, (), "is needed with IDENTITY_ASSERTION"),
        ("/run/keys/assertion.pem", (), "no PEM block"),
        (private_pem("rsa"), (), "no Ed25519 key"),
        ("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----", (), "no PEM private key"),
        (ED + ED, (), "one twice"),
    ],
)
def test_what_is_no_key_is_refused(keys: str | None, secrets: tuple[str, ...], text: str) -> None:
    with pytest.raises(KeyConfigError, match=text):
        signers(keys, secrets)
