"""The verifier against every forgery we know of."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from kernel.http.problems import (
    SERVICE_UNKNOWN,
    TOKEN_ALGORITHM,
    TOKEN_AUDIENCE,
    TOKEN_CLAIMS,
    TOKEN_CRITICAL_HEADER,
    TOKEN_EXPIRED,
    TOKEN_ISSUER,
    TOKEN_KEY_UNKNOWN,
    TOKEN_MALFORMED,
    TOKEN_NOT_YET_VALID,
    TOKEN_SIGNATURE,
    TOKEN_TOO_LARGE,
    TOKEN_TYPE,
    ProblemKind,
)
from kernel.identity.expiry import TokenExpired
from kernel.identity.keys import KeySet, secret_key
from kernel.identity.pem import load_public_keys
from kernel.identity.policy import Policy
from kernel.identity.tokens import TokenError, Verifier
from tests.support.tokens import (
    ISSUER,
    OTHER_TENANT,
    SECRET,
    TENANT,
    access_payload,
    access_token,
    b64,
    forge,
    private_key,
    public_pem,
    service_payload,
    service_token,
    signer,
)

RS256 = {"alg": "RS256", "typ": "JWT"}
SERVICES = frozenset(("gateway", "demo-session"))


class Clock:
    def __init__(self) -> None:
        self.now = float(int(time.time()))

    def __call__(self) -> float:
        return self.now


def make(
    alg: str = "RS256", key: str = "rsa", *, clock: Callable[[], float] = time.time, **policy: Any
) -> Verifier:
    keys = KeySet([*load_public_keys(public_pem(key), alg), secret_key(SECRET)])
    rules = {"issuers": frozenset((ISSUER,)), "services": SERVICES} | policy
    return Verifier(keys, Policy(**rules), clock=clock)


@pytest.fixture
def verifier() -> Verifier:
    return make()


def refused(verifier: Verifier, token: bytes) -> ProblemKind:
    with pytest.raises(TokenError) as error:
        verifier.verify(token)
    assert verifier.cached(token) is None
    return error.value.kind


def signed(header: dict[str, Any] | bytes, claims: dict[str, Any] | bytes | None = None) -> bytes:
    """Properly signed with the trusted RSA key, whatever header and claims say."""
    return forge(header, access_payload() if claims is None else claims, signer("RS256", "rsa"))


def test_access_token_gives_the_callers_identity(verifier: Verifier) -> None:
    identity = verifier.verify(access_token(jti="token-1"))
    assert (identity.kind, identity.user_id, identity.email) == ("access", "user-1", "user@example.com")
    assert (identity.tenant_id, identity.role, identity.tier, identity.status) == (
        TENANT,
        "owner",
        "professional",
        "active",
    )
    grant = identity.tenant_access[OTHER_TENANT]
    assert (grant.role, grant.tier, grant.can_view_children) == ("admin", "starter", False)
    assert identity.valid_until == 32503679999.0
    assert (identity.bucket, identity.jti, identity.service) == ("user:user-1", "token-1", None)


def test_service_token_identity_follows_from_the_service_name_alone(verifier: Verifier) -> None:
    identity = verifier.verify(
        service_token(user_id="root", email="root@x", role="superuser", tenant_id=TENANT)
    )
    assert (identity.kind, identity.service, identity.user_id) == (
        "service",
        "demo-session",
        "demo-session-service",
    )
    assert (identity.email, identity.role) == ("demo-session-service@internal", "admin")
    assert (identity.tenant_id, identity.bucket) == (TENANT, "service:demo-session")


def test_service_token_signed_with_the_users_key_is_refused(verifier: Verifier) -> None:
    assert refused(verifier, signed(RS256, service_payload())) is TOKEN_ALGORITHM


def test_key_named_for_services_signs_their_tokens_and_no_users() -> None:
    named = load_public_keys(public_pem("rsa-2"), "RS256", service=True)
    keys = KeySet([*load_public_keys(public_pem(), "RS256"), *named])
    verifier = Verifier(keys, Policy(issuers=frozenset((ISSUER,)), services=SERVICES))
    sign = signer("RS256", "rsa-2")
    assert verifier.verify(forge(RS256, service_payload(), sign)).kind == "service"
    assert refused(verifier, forge(RS256, access_payload(), sign)) is TOKEN_ALGORITHM
    assert verifier.verify(access_token()).kind == "access"


# --- algorithms and keys -----------------------------------------------------------------------------------------


def test_hs256_signed_with_the_public_pem_is_refused() -> None:
    verifier = Verifier(
        KeySet(load_public_keys(public_pem(), "RS256")),
        Policy(issuers=frozenset((ISSUER,)), services=SERVICES),
    )
    for secret in (public_pem().encode(), public_pem().strip().encode(), public_pem().encode() + b"\0"):
        mac = signer("HS256", secret)
        assert refused(verifier, forge({"alg": "HS256"}, access_payload(), mac)) is TOKEN_ALGORITHM
        assert refused(verifier, forge({"alg": "HS256"}, service_payload(), mac)) is TOKEN_ALGORITHM
    assert refused(
        make(), forge({"alg": "HS256"}, access_payload(), signer("HS256", public_pem().encode()))
    ) in (
        TOKEN_SIGNATURE,
        TOKEN_ALGORITHM,
    )


@pytest.mark.parametrize(
    "alg", ["none", "None", "NONE", "nOnE", "", "RS256 ", "rs256", "HS512", "PS256", "ES256"]
)
def test_algorithm_without_a_key_of_its_own_is_refused(verifier: Verifier, alg: str) -> None:
    assert refused(verifier, signed({"alg": alg})) is TOKEN_ALGORITHM
    assert refused(verifier, forge({"alg": alg}, access_payload(), signature=b"x")) is TOKEN_ALGORITHM


def test_alg_none_with_an_empty_signature_is_refused(verifier: Verifier) -> None:
    assert refused(verifier, forge({"alg": "none"}, access_payload())) is TOKEN_MALFORMED


def test_user_token_signed_with_the_services_secret_is_refused(verifier: Verifier) -> None:
    mac = signer("HS256", SECRET.encode())
    assert refused(verifier, forge({"alg": "HS256"}, access_payload(), mac)) is TOKEN_ALGORITHM


def test_typeless_user_token_signed_with_the_services_secret_is_refused() -> None:
    verifier = make(require_type=False)
    mac = signer("HS256", SECRET.encode())
    assert refused(verifier, forge({"alg": "HS256"}, access_payload(type=...), mac)) is TOKEN_ALGORITHM


@pytest.mark.parametrize(("made", "claimed"), [("PS256", "RS256"), ("RS384", "RS256"), ("RS512", "RS256")])
def test_signature_of_another_rsa_algorithm_does_not_pass(
    verifier: Verifier, made: str, claimed: str
) -> None:
    token = forge({"alg": claimed}, access_payload(), signer(made, "rsa"))
    assert refused(verifier, token) is TOKEN_SIGNATURE


def test_rs256_token_is_refused_where_ps256_is_configured() -> None:
    verifier = make("PS256")
    assert verifier.verify(access_token(alg="PS256")).user_id == "user-1"
    assert refused(verifier, access_token(alg="RS256")) is TOKEN_ALGORITHM
    token = forge({"alg": "PS256"}, access_payload(), signer("RS256", "rsa"))
    assert refused(verifier, token) is TOKEN_SIGNATURE


@pytest.mark.parametrize(
    ("alg", "key"),
    [
        ("RS512", "rsa"),
        ("PS384", "rsa"),
        ("ES256", "p256"),
        ("ES384", "p384"),
        ("ES512", "p521"),
        ("EdDSA", "ed25519"),
    ],
)
def test_every_allowed_algorithm_verifies_its_own_and_no_other_key(alg: str, key: str) -> None:
    verifier = make(alg, key)
    assert verifier.verify(access_token(key, alg)).user_id == "user-1"
    assert refused(verifier, access_token(f"{key}-other", alg)) is TOKEN_SIGNATURE


def test_es256_signature_in_der_is_refused() -> None:
    private = private_key("p256")
    assert isinstance(private, EllipticCurvePrivateKey)
    token = forge(
        {"alg": "ES256"}, access_payload(), lambda message: private.sign(message, ECDSA(hashes.SHA256()))
    )
    assert refused(make("ES256", "p256"), token) is TOKEN_SIGNATURE


@pytest.mark.parametrize(
    "signature",
    [b"\0" * 64, b"\0" * 63 + b"\1", b"\xff" * 64, b"\0" * 32 + b"\1" * 32, b"\1" * 63, b"\1" * 65, b"\1"],
    ids=["r=s=0", "s=1", "out of range", "r=0", "short", "long", "one byte"],
)
def test_degenerate_ecdsa_signatures_are_refused(signature: bytes) -> None:
    token = forge({"alg": "ES256"}, access_payload(), signature=signature)
    assert refused(make("ES256", "p256"), token) is TOKEN_SIGNATURE


@pytest.mark.parametrize(
    "signature", [b"\0", b"\0" * 256, b"\xff" * 256, b"\0" * 255, b"\1" * 257, b"\0" * 255 + b"\1"]
)
def test_degenerate_rsa_signatures_are_refused(verifier: Verifier, signature: bytes) -> None:
    assert refused(verifier, forge(RS256, access_payload(), signature=signature)) is TOKEN_SIGNATURE


def test_wrong_rsa_key_is_refused(verifier: Verifier) -> None:
    assert refused(verifier, access_token("rsa-2")) is TOKEN_SIGNATURE


def test_payload_or_header_of_another_token_does_not_pass(verifier: Verifier) -> None:
    head, body, tail = access_token().split(b".")
    _, other, other_tail = access_token(user_id="user-2").split(b".")
    assert refused(verifier, b".".join((head, other, tail))) is TOKEN_SIGNATURE
    assert refused(verifier, b".".join((head, body, other_tail))) is TOKEN_SIGNATURE
    assert refused(verifier, b".".join((b64(b'{"alg":"RS256"}'), body, tail))) is TOKEN_SIGNATURE


@pytest.mark.parametrize("member", ["jku", "x5u", "jwk", "x5c", "x5t", "x5t#S256"])
def test_keys_offered_by_the_token_are_not_used(verifier: Verifier, member: str) -> None:
    own = {"jku": "https://evil.example/keys", "jwk": {"kty": "oct", "k": "AAAA"}}
    token = forge(RS256 | {member: own.get(member, "x")}, access_payload(), signer("RS256", "rsa-2"))
    assert refused(verifier, token) is TOKEN_SIGNATURE


@pytest.mark.parametrize(
    "kid",
    ["../../../../dev/null", "/etc/passwd", "' UNION SELECT 'secret", "|cat /etc/passwd", "", " ", "a" * 256],
)
def test_kid_is_a_name_and_nothing_else(kid: str) -> None:
    keys = KeySet(load_public_keys(f"kid: one\n{public_pem()}", "RS256"))
    verifier = Verifier(keys, Policy(issuers=frozenset((ISSUER,)), services=SERVICES))
    assert refused(verifier, access_token(kid=kid)) is TOKEN_KEY_UNKNOWN
    assert verifier.verify(access_token(kid="one")).user_id == "user-1"


@pytest.mark.parametrize("kid", [1, True, ["one"], {"a": 1}, "a\n", "a\0", "\u00e9", "a" * 257])
def test_kid_of_a_wrong_type_or_alphabet_is_malformed(verifier: Verifier, kid: Any) -> None:
    assert refused(verifier, signed(RS256 | {"kid": kid})) is TOKEN_MALFORMED


# --- header ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "header",
    [
        {"crit": ["exp"], "exp": 1},
        {"crit": ["x"], "x": 1},
        {"crit": []},
        {"crit": None},
        {"b64": False, "crit": ["b64"]},
        {"b64": False},
        {"b64": True},
    ],
)
def test_crit_and_b64_are_refused(verifier: Verifier, header: dict[str, Any]) -> None:
    assert refused(verifier, signed(RS256 | header)) is TOKEN_CRITICAL_HEADER


@pytest.mark.parametrize(
    "header",
    [
        b'{"alg":"RS256","alg":"RS256"}',
        b'{"alg":"none","alg":"RS256"}',
        b'{"alg":"RS256","\\u0061lg":"none"}',
        b'{"alg":"RS256","x":{"a":1,"a":2}}',
        b"[]",
        b'"RS256"',
        b"null",
        b"1",
        b"{}",
        b'{"alg":null}',
        b'{"alg":["RS256"]}',
        b'{"alg":"RS256"',
        b'{"alg":"RS256"} x',
        b'\xef\xbb\xbf{"alg":"RS256"}',
        b'{"alg":"RS256","x":"\xff"}',
        b'{"alg":"RS256","x":NaN}',
        b'{"alg":"RS256","x":' + b'{"a":' * 1100,
        b"RS256",
    ],
)
def test_header_that_is_not_one_plain_object_is_malformed(verifier: Verifier, header: bytes) -> None:
    assert refused(verifier, signed(header, b"{}")) is TOKEN_MALFORMED


def test_deep_nesting_in_a_header_is_refused_or_ignored(verifier: Verifier) -> None:
    # How deep is too deep is the interpreter's affair.
    header = b'{"alg":"RS256","x":' + b"[" * 2500 + b"]" * 2500 + b"}"
    assert refused(verifier, signed(header, b"{}")) in {TOKEN_MALFORMED, TOKEN_CLAIMS}


def test_typ_of_another_kind_of_token_is_refused(verifier: Verifier) -> None:
    assert refused(verifier, signed({"alg": "RS256", "typ": "logout+jwt"})) is TOKEN_TYPE
    for typ in ("JWT", "jwt", "at+jwt", "application/at+jwt"):
        assert verifier.verify(signed({"alg": "RS256", "typ": typ})).kind == "access"


# --- form --------------------------------------------------------------------------------------------------------


def test_anything_after_or_around_the_token_is_refused(verifier: Verifier) -> None:
    token = access_token()
    verifier.verify(token)
    for junk in (
        b".",
        b"=",
        b"==",
        b"\n",
        b" ",
        b"\0",
        b"A",
        b"AAAA",
        b".AAAA",
        b"%00",
        b",Bearer x",
        b"\t",
        b"-",
        b"_",
    ):
        assert refused(verifier, token + junk) in (TOKEN_MALFORMED, TOKEN_SIGNATURE)
        assert refused(verifier, junk + token) in (TOKEN_MALFORMED, TOKEN_SIGNATURE)
    head, body, tail = token.split(b".")
    for inside in (b"\n", b" ", b"=", b"\r\n", b"+", b"/"):
        assert refused(verifier, b".".join((head[:4] + inside + head[4:], body, tail))) is TOKEN_MALFORMED
        assert refused(verifier, b".".join((head, body[:8] + inside + body[8:], tail))) is TOKEN_MALFORMED
        assert refused(verifier, b".".join((head, body, tail[:8] + inside + tail[8:]))) is TOKEN_MALFORMED


@pytest.mark.parametrize(
    "token", [b"", b".", b"..", b"...", b"a.b", b"a..c", b".b.c", b"a.b.", b"a.b.c.d", b"a.b.c.d.e"]
)
def test_wrong_number_of_parts_is_malformed(verifier: Verifier, token: bytes) -> None:
    assert refused(verifier, token) is TOKEN_MALFORMED


def test_padded_base64_is_refused_in_every_part(verifier: Verifier) -> None:
    parts = access_token().split(b".")
    for index in range(3):
        padded = [*parts]
        padded[index] += b"=" * (-len(padded[index]) % 4) or b"===="
        assert refused(verifier, b".".join(padded)) is TOKEN_MALFORMED


def test_other_spelling_of_the_same_signature_is_refused(verifier: Verifier) -> None:
    """256 bytes leave four unused bits in the last character: 15 other spellings decode to the same signature."""
    token = access_token()
    alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    place = alphabet.index(token[-1])
    assert place % 16 == 0
    for unused in range(1, 16):
        assert refused(verifier, token[:-1] + bytes((alphabet[place + unused],))) is TOKEN_MALFORMED


def test_token_of_8_kib_passes_and_one_byte_more_does_not(verifier: Verifier) -> None:
    token = b""
    for length in range(5400, 5900):
        token = access_token(padding="x" * length)
        if len(token) >= 8191:
            break
    assert len(token) in (8191, 8192)
    assert verifier.verify(token).user_id == "user-1"
    assert refused(verifier, access_token(padding="x" * 5900)) is TOKEN_TOO_LARGE
    assert refused(verifier, b"a" * 8192) is TOKEN_MALFORMED
    assert refused(verifier, b"a" * 8193) is TOKEN_TOO_LARGE


# --- claims ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "iss", ["bakery", "bakery-auth2", "auth", "bakery-auth ", "Bakery-Auth", "", "bakery-auth\0"]
)
def test_issuer_that_merely_resembles_ours_is_refused(verifier: Verifier, iss: str) -> None:
    assert refused(verifier, access_token(iss=iss)) is TOKEN_ISSUER


@pytest.mark.parametrize("iss", [..., None, ["bakery-auth"], {"bakery-auth": 1}, 1])
def test_issuer_must_be_there_and_a_string(verifier: Verifier, iss: Any) -> None:
    assert refused(verifier, access_token(iss=iss)) is TOKEN_CLAIMS


def test_audience_is_checked_when_configured() -> None:
    verifier = make(audience="bakery-api")
    assert verifier.verify(access_token(aud="bakery-api")).user_id == "user-1"
    assert verifier.verify(access_token(aud=["other", "bakery-api"])).user_id == "user-1"
    for aud in (..., None, "bakery", "bakery-api-2", [], ["bakery"], "other bakery-api"):
        assert refused(verifier, access_token(aud=aud)) is TOKEN_AUDIENCE
    for wrong in (1, {"bakery-api": 1}, [1], ["bakery-api", None]):
        assert refused(verifier, access_token(aud=wrong)) is TOKEN_CLAIMS
    assert make().verify(access_token(aud="anything")).user_id == "user-1"


@pytest.mark.parametrize("kind", ["refresh", "", "Access", "access ", "id", "service\0"])
def test_other_token_types_are_refused(verifier: Verifier, kind: str) -> None:
    assert refused(verifier, access_token(type=kind)) is TOKEN_TYPE


def test_missing_type_is_refused_unless_configured_to_mean_access(verifier: Verifier) -> None:
    assert refused(verifier, access_token(type=...)) is TOKEN_TYPE
    lenient = make(require_type=False)
    assert lenient.verify(access_token(type=...)).kind == "access"
    assert refused(lenient, access_token(type="refresh")) is TOKEN_TYPE
    assert refused(lenient, signed(RS256, service_payload(type=...))) is TOKEN_TYPE


@pytest.mark.parametrize("service", ["gateway", "demo-session", "nobody", ""])
def test_service_claim_with_type_access_is_refused(verifier: Verifier, service: str) -> None:
    assert refused(verifier, access_token(service=service)) is TOKEN_TYPE


@pytest.mark.parametrize("service", ["nobody", "Gateway", "gateway-service", "gateway2"])
def test_unregistered_service_is_refused_with_403(verifier: Verifier, service: str) -> None:
    kind = refused(verifier, service_token(service))
    assert kind is SERVICE_UNKNOWN
    assert kind.status == 403


@pytest.mark.parametrize("service", [..., None, ""])
def test_service_token_without_a_name_is_refused(verifier: Verifier, service: Any) -> None:
    assert refused(verifier, service_token(service=service)) is TOKEN_CLAIMS


def test_user_is_sub_where_user_id_is_missing(verifier: Verifier) -> None:
    assert verifier.verify(access_token(user_id=..., sub="user-9")).bucket == "user:user-9"
    assert verifier.verify(access_token(user_id="user-1", sub="user-9")).bucket == "user:user-1"
    assert refused(verifier, access_token(user_id=...)) is TOKEN_CLAIMS


# --- time --------------------------------------------------------------------------------------------------------


def test_token_is_refused_at_its_exp_even_when_cached() -> None:
    clock = Clock()
    verifier = make(clock=clock)
    token = access_token(exp=clock.now + 10, iat=clock.now)
    identity = verifier.verify(token)
    assert verifier.cached(token) is identity
    clock.now += 9.999
    assert verifier.cached(token) is identity
    clock.now += 0.001
    assert refused(verifier, token) is TOKEN_EXPIRED
    clock.now -= 5
    assert verifier.cached(token) is None


def test_expired_token_with_a_good_signature_tells_whose_it_was(verifier: Verifier) -> None:
    token = access_token(exp=int(time.time()) - 1)
    for _ in range(2):  # the second answer comes from the memory of refusals
        with pytest.raises(TokenExpired) as error:
            verifier.verify(token)
        assert error.value.kind is TOKEN_EXPIRED
        assert error.value.identity.user_id == "user-1"


@pytest.mark.parametrize(
    "changes",
    [{"iss": "evil"}, {"type": "refresh"}, {"service": "gateway"}, {"nbf": 1e12}, {"user_id": "a\nb"}],
)
def test_expired_token_with_another_fault_opens_no_way_to_a_refresh(
    verifier: Verifier, changes: dict[str, Any]
) -> None:
    for token in (access_token(exp=1, **changes), access_token("rsa-2", exp=1)):
        with pytest.raises(TokenError) as error:
            verifier.verify(token)
        assert error.value.kind is not TOKEN_EXPIRED
        assert not isinstance(error.value, TokenExpired)


def test_leeway_forgives_an_issuer_whose_clock_is_ahead_and_no_more() -> None:
    clock = Clock()
    verifier = make(clock=clock, leeway=5.0)
    for claim in ("nbf", "iat"):
        assert verifier.verify(signed(RS256, access_payload(**{claim: clock.now + 5}))).user_id == "user-1"
        assert (
            refused(verifier, signed(RS256, access_payload(**{claim: clock.now + 6}))) is TOKEN_NOT_YET_VALID
        )


@pytest.mark.parametrize("claim", ["exp", "iat", "nbf"])
@pytest.mark.parametrize(
    "value",
    [
        b"true",
        b'"9999999999"',
        b"[9999999999]",
        b"{}",
        b"1e400",
        b"-1e400",
        b"NaN",
        b"Infinity",
        b"1" + b"0" * 400,
        b"0x7",
    ],
)
def test_dates_must_be_finite_numbers(verifier: Verifier, claim: str, value: bytes) -> None:
    payload = access_payload(**{claim: ...})
    raw = json.dumps(payload).encode()[:-1] + b',"' + claim.encode() + b'":' + value + b"}"
    assert refused(verifier, signed(RS256, raw)) is TOKEN_CLAIMS


@pytest.mark.parametrize("claim", ["exp", "iat"])
def test_expiry_and_issue_time_are_required(verifier: Verifier, claim: str) -> None:
    for value in (..., None):
        assert refused(verifier, signed(RS256, access_payload(**{claim: value}))) is TOKEN_CLAIMS


@pytest.mark.parametrize("exp", [1e300, 10**30, 2**63, 1735689599.5])
def test_fractional_and_huge_dates_are_numbers_like_others(exp: float) -> None:
    verifier = make(clock=lambda: 1735689599.0)
    identity = verifier.verify(access_token(exp=exp, iat=1735687799))
    assert identity.exp == float(exp)
    assert math.isfinite(identity.exp)


@pytest.mark.parametrize("exp", [0, -1, -1e300])
def test_dates_before_the_epoch_are_expired(verifier: Verifier, exp: float) -> None:
    assert refused(verifier, access_token(exp=exp)) is TOKEN_EXPIRED


# --- memory of results -------------------------------------------------------------------------------------------


def test_two_tokens_that_share_their_first_64_characters_are_strangers(verifier: Verifier) -> None:
    one, two = (
        signed(RS256, access_payload(user_id=...) | {"user_id": user}) for user in ("user-1", "user-2")
    )
    assert one[:64] == two[:64]
    verifier.verify(one)
    assert verifier.cached(two) is None
    assert verifier.verify(two).user_id == "user-2"
    cached = verifier.cached(one)
    assert cached is not None
    assert cached.user_id == "user-1"


def test_token_that_differs_only_in_its_signature_is_not_cached(verifier: Verifier) -> None:
    token = access_token()
    verifier.verify(token)
    forged = token[:-10] + (b"AAAAAAAAAA" if token[-10:] != b"AAAAAAAAAA" else b"BBBBBBBBBA")
    assert verifier.cached(forged) is None
    assert refused(verifier, forged) in (TOKEN_SIGNATURE, TOKEN_MALFORMED)


def test_refusal_is_remembered_for_a_second_and_no_longer() -> None:
    clock = Clock()
    verifier = make(clock=clock)
    token = access_token(nbf=clock.now + 5.5, iat=clock.now)
    assert refused(verifier, token) is TOKEN_NOT_YET_VALID
    clock.now += 0.6  # valid by now (leeway 5 s), but the refusal is fresh
    assert refused(verifier, token) is TOKEN_NOT_YET_VALID
    clock.now += 0.4
    assert verifier.verify(token).user_id == "user-1"


def test_clock_set_back_does_not_prolong_a_refusal() -> None:
    clock = Clock()
    verifier = make(clock=clock)
    token = access_token(exp=clock.now, iat=clock.now - 60)
    assert refused(verifier, token) is TOKEN_EXPIRED
    clock.now -= 30
    assert verifier.verify(token).user_id == "user-1"


def test_keys_that_change_make_everything_be_verified_again() -> None:
    keys = KeySet()
    keys.replace("jwks", load_public_keys(f"kid: a\n{public_pem()}", "RS256"))
    verifier = Verifier(keys, Policy(issuers=frozenset((ISSUER,)), services=SERVICES))
    token = access_token(kid="a")
    verifier.verify(token)
    assert verifier.cached(token) is not None
    keys.replace("jwks", load_public_keys(f"kid: b\n{public_pem('rsa-2')}", "RS256"))
    assert refused(verifier, token) is TOKEN_KEY_UNKNOWN


# --- chance ------------------------------------------------------------------------------------------------------

_PROBE = make()
_VALID = access_token(kid="any")


@given(place=st.integers(0, len(_VALID) - 1), byte=st.integers(0, 255))
@settings(max_examples=300, deadline=None)
def test_no_changed_byte_survives(place: int, byte: int) -> None:
    mutant = _VALID[:place] + bytes((byte,)) + _VALID[place + 1 :]
    if mutant == _VALID:
        assert _PROBE.verify(mutant).user_id == "user-1"
    else:
        refused(_PROBE, mutant)


@given(
    start=st.integers(0, len(_VALID)),
    stop=st.integers(0, len(_VALID)),
    filler=st.binary(max_size=12),
    at=st.booleans(),
)
@settings(max_examples=200, deadline=None)
def test_no_cut_or_insertion_survives(start: int, stop: int, filler: bytes, at: bool) -> None:
    mutant = _VALID[:start] + filler + _VALID[start if at else stop :]
    if mutant != _VALID:
        refused(_PROBE, mutant)


_parts = st.one_of(
    st.binary(max_size=80).map(b64),
    st.binary(max_size=40),
    st.sampled_from([b64(b'{"alg":"RS256"}'), b64(b'{"alg":"HS256"}'), b64(b"{}"), b64(b"[[[["), b"="]),
)


@given(st.one_of(st.binary(max_size=300), st.lists(_parts, max_size=5).map(b".".join)))
@settings(max_examples=300, deadline=None)
def test_garbage_is_a_token_error_and_nothing_else(garbage: bytes) -> None:
    refused(_PROBE, garbage)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(
    changes=st.dictionaries(st.sampled_from(sorted(access_payload() | service_payload() | {"jti": 1})), _json)
)
@settings(max_examples=300, deadline=None)
def test_signed_nonsense_never_raises_anything_but_a_token_error(changes: dict[str, Any]) -> None:
    try:
        identity = _PROBE.verify(forge(RS256, access_payload(**changes), signer("RS256", "rsa")))
    except TokenError:
        return
    texts = [
        identity.user_id,
        identity.email,
        identity.role,
        identity.tier,
        identity.status,
        identity.tenant_id or "",
    ]
    assert all(text.isprintable() and len(text) <= 256 for text in texts)
