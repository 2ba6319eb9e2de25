"""What claims may be: types, alphabets, lengths."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from kernel.http.problems import TOKEN_CLAIMS
from kernel.identity.claims import decode_claims
from kernel.identity.errors import TokenError
from kernel.identity.identity import Identity, access_identity
from tests.support.tokens import TENANT, access_payload


def read(payload: bytes) -> Identity:
    claims = decode_claims(payload)
    return access_identity(claims, str(claims.user_id), "key")


def identity(**changes: Any) -> Identity:
    return read(json.dumps(access_payload(**changes)).encode())


def refused(payload: bytes) -> str:
    with pytest.raises(TokenError) as error:
        read(payload)
    assert error.value.kind is TOKEN_CLAIMS
    return error.value.detail


CONTROL = [
    "ab\n",
    "a\nb",
    "a\rb",
    "a\r\nx-user-role: admin",
    "a\0b",
    "a\x1bb",
    "a\x7fb",
    "a\x85b",
    "a\u2028b",
    "a\u200bb",
]


@pytest.mark.parametrize(
    "claim", ["user_id", "sub", "email", "service", "role", "jti", "tenant_id", "tenant_role"]
)
@pytest.mark.parametrize("value", CONTROL)
def test_control_characters_in_header_claims_are_refused(claim: str, value: str) -> None:
    detail = refused(json.dumps(access_payload(**{claim: value})).encode())
    assert "\n" not in detail
    assert "x-user-role" not in detail


@pytest.mark.parametrize("value", CONTROL)
def test_control_characters_in_nested_header_claims_are_refused(value: str) -> None:
    for changes in (
        {"subscription": {"tier": value}},
        {"subscription": {"status": value}},
        {"tenant_access": [{"id": value}]},
        {"tenant_access": [{"id": "t", "role": value}]},
        {"tenant_access": [{"id": "t", "tier": value}]},
        {"demo_session_id": value},
        {"demo_account_type": value},
    ):
        refused(json.dumps(access_payload(**changes)).encode())


@pytest.mark.parametrize("claim", ["user_id", "email", "role", "tenant_role", "jti", "demo_session_id"])
def test_texts_of_256_characters_pass_and_longer_ones_do_not(claim: str) -> None:
    identity(**{claim: "a" * 256})
    refused(json.dumps(access_payload(**{claim: "a" * 257})).encode())


@pytest.mark.parametrize("claim", ["user_id", "jti", "demo_session_id", "tenant_id"])
@pytest.mark.parametrize("value", ["", " ", "a b", " a", "a ", "\u00e9"])
def test_ids_are_visible_ascii_without_blanks(claim: str, value: str) -> None:
    refused(json.dumps(access_payload(**{claim: value})).encode())


@pytest.mark.parametrize("value", [" admin", "admin ", "\u00e4dmin", "\uff41dmin"])
def test_role_that_another_reader_might_trim_or_fold_is_refused(value: str) -> None:
    refused(json.dumps(access_payload(tenant_role=value)).encode())


@pytest.mark.parametrize("tenant", ["a/b", "a.b", "..", "a:b", "*", "a" * 65, "a%2f", "\u0430"])
def test_tenant_ids_have_a_narrow_alphabet(tenant: str) -> None:
    refused(json.dumps(access_payload(tenant_id=tenant)).encode())
    refused(json.dumps(access_payload(tenant_access=[{"id": tenant}])).encode())


def test_international_address_passes_and_stays_one_printable_word() -> None:
    assert identity(email="maría@panadería.es").email == "maría@panadería.es"
    refused(json.dumps(access_payload(email="maría @panadería.es")).encode())


def test_lone_surrogate_is_refused() -> None:
    refused(json.dumps(access_payload()).encode()[:-1] + b',"jti":"\\ud800"}')
    refused(json.dumps(access_payload(email=...)).encode()[:-1] + b',"email":"a\\udc80@b"}')


@pytest.mark.parametrize(
    ("claim", "value"),
    [
        ("user_id", 1),
        ("email", ["a@b"]),
        ("tenant_id", 7),
        ("tenant_role", True),
        ("jti", 1),
        ("type", ["access"]),
        ("is_demo", "true"),
        ("is_demo", 1),
        ("subscription", "professional"),
        ("subscription", []),
        ("subscription", {"tier": 3}),
        ("subscription", {"valid_until": True}),
        ("subscription", {"valid_until": "soon"}),
        ("tenant_access", {"id": "t"}),
        ("tenant_access", ["t"]),
        ("tenant_access", [{"role": "admin"}]),
        ("tenant_access", [{"id": "t", "can_view_children": "yes"}]),
        ("tenant_access", [{"id": "t", "can_view_children": 1}]),
    ],
)
def test_claims_of_a_wrong_type_are_refused(claim: str, value: Any) -> None:
    refused(json.dumps(access_payload(**{claim: value})).encode())


@pytest.mark.parametrize(
    "extra",
    [
        b'"user_id":"user-1"',
        b'"user_id":"user-2"',
        b'"\\u0075ser_id":"user-2"',
        b'"unknown":1,"unknown":1',
        b'"unknown":{"a":1,"a":2}',
        b'"tenant_access":[]',
        b'"exp":9999999999',
    ],
)
def test_members_given_twice_are_refused_at_any_depth(extra: bytes) -> None:
    refused(json.dumps(access_payload()).encode()[:-1] + b"," + extra + b"}")


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"[]",
        b"null",
        b'"x"',
        b"{",
        b"{}",
        b"\xff",
        b"{}{}",
        b"[" * 6000,
        b'{"a":' * 1200 + b"1" + b"}" * 1200,
    ],
)
def test_payload_that_is_no_object_is_refused(payload: bytes) -> None:
    refused(payload)


def test_deep_nesting_in_an_unknown_claim_is_refused_or_ignored() -> None:
    # How deep is too deep is the interpreter's affair: Python 3.13 reads ten times the depth that 3.11 does.
    payload = access_payload()
    nested = json.dumps(payload).encode()[:-1] + b',"x":' + b"[" * 2500 + b"]" * 2500 + b"}"
    try:
        got: object = decode_claims(nested)
    except TokenError as error:
        got = error.kind
    assert got == TOKEN_CLAIMS or got == decode_claims(json.dumps(payload).encode())


def test_more_tenants_than_the_bound_are_refused() -> None:
    entries = [{"id": f"t{index}", "role": "r"} for index in range(513)]
    assert len(identity(tenant_access=entries[:512]).tenant_access) == 512
    refused(json.dumps(access_payload(tenant_access=entries)).encode())


def test_contradicting_grants_for_one_tenant_are_refused() -> None:
    same = [{"id": "t", "role": "admin"}] * 2
    assert identity(tenant_access=same).tenant_access["t"].role == "admin"
    refused(json.dumps(access_payload(tenant_access=[*same, {"id": "t", "role": "viewer"}])).encode())


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        ("2025-12-31T23:59:59Z", 1767225599.0),
        ("2025-12-31T23:59:59", 1767225599.0),
        ("2026-01-01T00:59:59+01:00", 1767225599.0),
        ("2025-12-31 23:59:59.5Z", 1767225599.5),
        (1767225599, 1767225599.0),
        ("9999-12-31T23:59:59-12:00", 253402343999.0),
        ("0001-01-01T00:00:00+12:00", -62135640000.0),
        (None, None),
    ],
)
def test_valid_until_is_read_as_seconds(given: Any, seconds: float | None) -> None:
    assert identity(subscription={"valid_until": given}).valid_until == seconds


def test_valid_until_without_an_offset_is_utc_wherever_the_gateway_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        assert identity(subscription={"valid_until": "2025-12-31T23:59:59"}).valid_until == 1767225599.0
    finally:
        monkeypatch.undo()
        time.tzset()


def test_claims_left_out_or_null_are_absent() -> None:
    for empty in (..., None):
        bare = identity(
            email=empty,
            tenant_id=empty,
            tenant_role=empty,
            subscription=empty,
            tenant_access=empty,
            jti=empty,
        )
        assert (bare.email, bare.role, bare.tier, bare.status) == ("", "", "", "")
        assert (bare.tenant_id, bare.tenant_access, bare.valid_until, bare.jti) == (None, {}, None, None)
        assert bare.is_demo is False


def test_role_is_that_in_the_tenant_before_the_platforms() -> None:
    assert identity(role="user").role == "owner"
    assert identity(role="user", tenant_role=...).role == "user"


def test_demo_claims_mark_the_identity() -> None:
    demo = identity(is_demo=True, demo_session_id="demo_1", demo_account_type="individual_bakery")
    assert (demo.is_demo, demo.demo_session_id, demo.demo_account_type) == (
        True,
        "demo_1",
        "individual_bakery",
    )
    assert identity(is_demo=False, demo_session_id="demo_1").is_demo
    assert identity(is_demo=True).is_demo


def test_identity_shows_neither_address_nor_claims_when_printed() -> None:
    assert repr(identity(tenant_id=TENANT)) == "Identity('user:user-1')"
