"""`token inspect`: the same verdict as a request would get, and why, without giving the token away."""

from __future__ import annotations

import pytest

from kernel.identity.inspect import Report, inspect, render
from kernel.identity.keys import KeySet, secret_key
from kernel.identity.pem import load_public_keys
from kernel.identity.policy import Policy
from kernel.identity.tokens import Verifier
from tests.support.tokens import (
    ISSUER,
    SECRET,
    access_payload,
    access_token,
    forge,
    public_pem,
    service_token,
    signer,
)


@pytest.fixture
def verifier() -> Verifier:
    keys = KeySet([*load_public_keys(public_pem(), "RS256"), secret_key(SECRET)])
    return Verifier(
        keys, Policy(issuers=frozenset((ISSUER,)), services=frozenset(("gateway", "demo-session")))
    )


def failing(report: Report) -> dict[str, str]:
    return {finding.field: finding.note for finding in report.findings if finding.verdict == "refused"}


def test_good_token_is_accepted_in_every_field(verifier: Verifier) -> None:
    report = inspect(access_token(jti="token-1"), verifier)
    assert report.refusal is None
    assert {finding.verdict for finding in report.findings} == {"ok"}
    fields = [finding.field for finding in report.findings]
    assert fields[:11] == [
        "form",
        "header",
        "key",
        "signature",
        "iss",
        "aud",
        "type",
        "subject",
        "nbf",
        "iat",
        "exp",
    ]
    assert {"email", "tenant_id", "subscription", "tenant_access", "jti"} <= set(fields)
    assert inspect(service_token(), verifier).refusal is None


def test_every_fault_is_reported_not_just_the_first(verifier: Verifier) -> None:
    report = inspect(access_token(iss="evil", type="refresh", exp=1, nbf=1e12), verifier)
    assert report.refusal is not None
    assert report.refusal.kind.code == "token-issuer"
    faults = failing(report)
    assert set(faults) == {"iss", "type", "nbf", "exp"}
    assert faults["iss"].startswith("token-issuer")
    assert "expired" in faults["exp"]


def test_claims_of_an_unsigned_token_are_shown_but_never_called_good(verifier: Verifier) -> None:
    for token in (
        access_token("rsa-2"),
        access_token("p256", "ES256"),
        forge({"alg": "none"}, access_payload(), signature=b"x"),
    ):
        report = inspect(token, verifier)
        assert report.refusal is not None
        assert failing(report).keys() & {"key", "signature"}
        claims = [finding for finding in report.findings if finding.field in ("iss", "exp", "email")]
        assert {finding.verdict for finding in claims} == {"unknown"}


@pytest.mark.parametrize("token", [b"", b"x", b"a.b.c", b"e30.e30.YQ", b"\xff\n.\x1b[31m.x", b"a" * 9000])
def test_garbage_is_reported_as_such(verifier: Verifier, token: bytes) -> None:
    report = inspect(token, verifier)
    assert report.refusal is not None
    assert failing(report)
    assert render(report).startswith("refused: token-")


def test_report_shows_neither_token_nor_signature_nor_control_characters(verifier: Verifier) -> None:
    hostile = forge(
        {"alg": "RS256", "x": "\x1b[31m"},
        access_payload(email="maría@x.example", aud="a\x1b[2J\u202e"),
        signer("RS256", "rsa"),
    )
    for token in (access_token(), hostile):
        text = render(inspect(token, verifier))
        _, body, tail = token.decode().split(".")
        assert tail not in text
        assert tail[:20] not in text
        assert body[:20] not in text
        assert all(char.isprintable() or char == "\n" for char in text)


def test_payload_that_cannot_be_read_is_named(verifier: Verifier) -> None:
    report = inspect(access_token(email="a\nb"), verifier)
    assert failing(report)["payload"].startswith("token-claims")
    assert "email" in failing(report)["payload"]
