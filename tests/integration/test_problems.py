"""Every refusal is a problem document that a browser on another origin can read."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from hashlib import sha256
from typing import Any

import pytest

from kernel.http.problems import CATALOGUE
from kernel.server.embedded_store import EmbeddedStore
from tests.support.gateway import GatewayFactory
from tests.support.poll import poll
from tests.support.raw import Reply
from tests.support.recorder import Recorder
from tests.support.stack import Stack, stack_env
from tests.support.tokens import (
    OTHER_TENANT,
    SECRET,
    TENANT,
    access_payload,
    access_token,
    forge,
    public_pem,
    service_token,
    signer,
)

ORIGIN = (b"Origin", b"https://app.example.com")
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


def check(reply: Reply, status: int, code: str) -> dict[str, object]:
    """`reply` is RFC 9457, readable across origins, and carries the request's id."""
    assert reply.status == status, reply.body
    assert reply.header("content-type") == "application/problem+json"
    document: dict[str, object] = json.loads(reply.body)
    assert document["code"] == code
    assert document["status"] == status
    assert document["type"] == f"/problems/{code}"
    assert {"title", "detail", "instance", "request_id"} <= document.keys()
    assert document["request_id"] == reply.header("x-request-id")
    assert UUID.fullmatch(str(document["request_id"]))
    assert reply.header("access-control-allow-origin") == "https://app.example.com"
    assert "x-request-id" in (reply.header("access-control-expose-headers") or "")
    assert reply.header("x-content-type-options") == "nosniff"
    return document


def test_unknown_routes_are_404(stack: Stack) -> None:
    for target in (b"/nothing", b"/api/v1/salesforce", b"/api/v2/salesforce", b"/API/v1/sales", b"/api/v1"):
        check(stack.ask(target=target, headers=[ORIGIN]), 404, "route-unknown")


def test_a_wrong_method_is_405_with_allow(stack: Stack) -> None:
    reply = stack.ask("GET", b"/api/v1/auth/login", headers=[ORIGIN])
    check(reply, 405, "method-not-allowed")
    assert reply.header("allow") == "POST"


@pytest.mark.parametrize(
    "target",
    [
        b"/public%2f..%2fadmin",
        b"/api/v1/auth/login/../../tenants",
        b"/api/v1/%2e%2e/tenants",
        b"/api/v1//sales",
        b"/api/v1/sales%5c..%5cx",
        b"/api/v1/sales/%00",
        b"/api/v1/sales/%zz",
        b"/api/v1/sales/a%2fb",
    ],
)
def test_unsafe_paths_are_400(stack: Stack, target: bytes) -> None:
    check(stack.ask(target=target, headers=[ORIGIN]), 400, "bad-path")
    assert stack.upstream.requests == []


@pytest.mark.parametrize(
    "disguised",
    [
        b"/api/v1/tenants/%b/%%73ubscription",
        b"/api/v1/tenants/%b/subscription;x=1/tier",
        b"/api/v1/tenants/%b/subscription%%3Bx",
        b"/api/v1/tenants/%b/%%62%%69%%6c%%6cing",
        b"/api/v1/tenants/%b/;/subscription",
    ],
)
def test_no_spelling_of_a_path_goes_around_its_routes_policies(stack: Stack, disguised: bytes) -> None:
    """As it is written it is a catch-all's; what the service makes of it has demands of its own."""
    reply = stack.ask("POST", disguised % TENANT.encode(), [ORIGIN], b"{}")
    check(reply, 400, "bad-path")
    assert stack.upstream.requests == []


def test_other_percent_encoding_and_parameters_pass_as_they_are(stack: Stack) -> None:
    target = b"/api/v1/inventory/caf%C3%A9%20%7E;v=1/a%3Ab"
    assert stack.ask(target=target).status == 200
    assert stack.seen().target == target


def hs256_with_the_public_key() -> bytes:
    return forge({"alg": "HS256", "typ": "JWT"}, access_payload(), signer("HS256", public_pem().encode()))


def rs256(**header: object) -> bytes:
    return forge({"alg": "RS256", "typ": "JWT", **header}, access_payload(), signer("RS256", "rsa"))


BAD_TOKENS: dict[str, tuple[bytes, str]] = {
    "public key as hmac secret": (hs256_with_the_public_key(), "token-signature"),
    "alg none": (forge({"alg": "none", "typ": "JWT"}, access_payload(), signature=b"x"), "token-algorithm"),
    "alg None without signature": (forge({"alg": "None", "typ": "JWT"}, access_payload()), "token-malformed"),
    "unknown crit": (rs256(crit=["exp"]), "token-critical-header"),
    "b64 false": (rs256(b64=False, crit=["b64"]), "token-critical-header"),
    "junk after the signature": (access_token() + b"AAAA", "token-signature"),
    "dot after the signature": (access_token() + b".x", "token-malformed"),
    "padding": (access_token() + b"==", "token-malformed"),
    "issuer is a substring": (access_token(iss="bakery"), "token-issuer"),
    "issuer contains ours": (access_token(iss="bakery-auth-evil"), "token-issuer"),
    "service claim in an access token": (access_token(service="gateway"), "token-type"),
    "refresh token": (access_token(type="refresh"), "token-type"),
    "expired": (access_token(exp=1_700_000_000), "token-expired"),
    "from the future": (access_token(nbf=4_000_000_000), "token-not-yet-valid"),
    "no exp": (access_token(exp=...), "token-claims"),
    "line feed in a claim": (access_token(email="a@b\r\nX-User-Role: admin"), "token-claims"),
    "another key": (access_token(key="rsa-2"), "token-signature"),
    "not a token": (b"not-a-token", "token-malformed"),
    "over 8 KiB": (access_token(email="e" * 250, extra="x" * 9000), "token-too-large"),
}


@pytest.mark.parametrize("name", BAD_TOKENS)
def test_each_flaw_of_a_token_has_its_own_code(stack: Stack, name: str) -> None:
    token, code = BAD_TOKENS[name]
    reply = stack.ask(headers=[ORIGIN], token=token)
    check(reply, 401, code)
    assert (reply.header("www-authenticate") or "").startswith(
        'Bearer realm="bakery-gateway", error="invalid_token"'
    )
    assert stack.upstream.requests == []


def test_no_token_is_401_with_a_plain_challenge(stack: Stack) -> None:
    reply = stack.ask(headers=[ORIGIN], token=None)
    check(reply, 401, "token-missing")
    assert reply.header("www-authenticate") == 'Bearer realm="bakery-gateway"'


def test_an_unregistered_service_is_403(stack: Stack) -> None:
    check(stack.ask(headers=[ORIGIN], token=service_token("mallory")), 403, "service-unknown")


def test_a_service_secret_cannot_sign_for_users(stack: Stack) -> None:
    token = forge({"alg": "HS256", "typ": "JWT"}, access_payload(), signer("HS256", SECRET.encode()))
    assert stack.ask(token=token).status == 401


def test_a_foreign_tenant_is_403(stack: Stack) -> None:
    target = b"/api/v1/tenants/9d1c9f0e-0000-4000-8000-000000000009/sales"
    check(stack.ask(target=target, headers=[ORIGIN]), 403, "tenant-forbidden")


def test_a_lapsed_subscription_is_402_but_billing_stays_open(stack: Stack) -> None:
    cancelled = access_token(subscription={"tier": "starter", "status": "cancelled"})
    check(stack.ask(headers=[ORIGIN], token=cancelled), 402, "subscription-required")
    expired = access_token(
        subscription={"tier": "starter", "status": "active", "valid_until": "2020-01-01T00:00:00Z"}
    )
    check(stack.ask(headers=[ORIGIN], token=expired), 402, "subscription-expired")
    assert stack.ask("POST", b"/api/v1/auth/logout", token=expired, body=b"{}").status == 200


def test_an_announced_body_over_the_limit_is_413(stack: Stack) -> None:
    reply = stack.ask("POST", headers=[ORIGIN, (b"Content-Length", b"99999999")])
    check(reply, 413, "body-too-large")
    assert stack.upstream.requests == []


def test_a_head_over_the_limit_is_431(stack: Stack) -> None:
    check(stack.ask(headers=[ORIGIN, (b"X-Long", b"x" * 40_000)]), 431, "headers-too-large")
    # Neither is one whose headers go no further, or are the gateway's to read.
    for name in (b"X-Real-IP", b"Forwarded", b"Trailer"):
        check(stack.ask(headers=[ORIGIN, (name, b"x" * 40_000)]), 431, "headers-too-large")
    check(stack.ask(headers=[ORIGIN, *[(b"X-Forwarded-For", b"x" * 1000)] * 40]), 431, "headers-too-large")


def test_a_head_request_gets_the_same_head_without_a_body(stack: Stack) -> None:
    reply = stack.ask("HEAD", b"/nowhere")
    assert reply.status == 404
    assert int(reply.header("content-length") or 0) > 0


def test_the_log_line_escapes_what_the_client_chose(stack: Stack) -> None:
    stack.ask(target=b"/api/v1/inventory/items%1b%5b31m", headers=[(b"User-Agent", b"a\x1b[31mb\xff")])
    stack.ask(target=b"/api/v1/inventory/marker", headers=[(b"User-Agent", b"q\x9b31m\x85end")])

    def lines() -> list[str]:
        return [line for line in stack.gateway.log().splitlines() if "marker" in line]

    poll(lines)
    [line] = lines()
    json.loads(line)
    assert not any(
        ord(character) < 0x20 or 0x7F <= ord(character) < 0xA0
        for character in stack.gateway.log()
        if character != "\n"
    )


@pytest.mark.parametrize(
    ("target", "instance"),
    [
        (b"/api/v1/sales/a|b\xc3\xa9", "/api/v1/sales/a%7Cb%C3%A9"),
        (b"/api/v1/sales/%zz%2", "/api/v1/sales/%25zz%252"),
        (b"/nowhere/caf%C3%A9;v=1/@a:b", "/nowhere/caf%C3%A9;v=1/@a:b"),
    ],
)
def test_the_instance_is_always_a_uri_reference(stack: Stack, target: bytes, instance: str) -> None:
    assert json.loads(stack.ask(target=target).body)["instance"] == instance


def test_more_than_one_blank_may_follow_the_scheme(stack: Stack) -> None:
    for scheme in (b"Bearer   ", b"bearer "):
        reply = stack.ask(headers=[(b"Authorization", scheme + access_token())], token=None)
        assert reply.status == 200


def test_a_query_no_server_would_accept_is_the_clients_fault(stack: Stack) -> None:
    target = b"/api/v1/sales?name=caf\xc3\xa9"
    check(stack.ask(target=target, headers=[ORIGIN]), 400, "bad-request")
    assert stack.upstream.requests == []
    odd = b"/api/v1/sales?a=%zz&&=?b;c[]={1}|^"
    assert stack.ask(target=odd).status == 200
    assert stack.seen().target == odd


def test_listed_tenants_are_not_other_tenants(stack: Stack) -> None:
    alone = access_token(tenant_access=[])
    target = b"/api/v1/tenants/%b/sales" % OTHER_TENANT.encode()
    check(stack.ask(target=target, headers=[ORIGIN], token=alone), 403, "tenant-forbidden")


def test_every_problem_explains_itself_at_its_type(stack: Stack) -> None:
    for code, kind in CATALOGUE.items():
        reply = stack.ask(target=b"/problems/" + code.encode(), token=None)
        assert reply.status == 200
        assert json.loads(reply.body) == {
            "code": code,
            "status": kind.status,
            "title": kind.title,
            "remedy": kind.remedy,
        }
    page = stack.ask(
        target=b"/problems/token-expired", headers=[(b"Accept", b"text/html,*/*;q=0.8")], token=None
    )
    assert page.header("content-type") == "text/html; charset=utf-8"
    assert b"<h1>Token expired</h1>" in page.body
    assert b"prefers-color-scheme:dark){:root{" in page.body
    check(stack.ask(target=b"/problems/nonsense", headers=[ORIGIN], token=None), 404, "route-unknown")


def test_a_websocket_handshake_where_none_is_served_is_404(stack: Stack) -> None:
    upgrade = [
        (b"Connection", b"Upgrade"),
        (b"Upgrade", b"websocket"),
        (b"Sec-WebSocket-Version", b"13"),
        (b"Sec-WebSocket-Key", b"dGhlIHNhbXBsZSBub25jZQ=="),
    ]
    assert stack.ask(headers=upgrade).status == 404
    assert stack.ask().status == 200


def _record(stack: Stack, name: str) -> dict[str, Any]:
    """The line of the access log of the request `name`; empty while there is none."""
    lines = (json.loads(each) for each in stack.gateway.log().splitlines() if f'"{name}"' in each)
    return next((line for line in lines if line["event"] == "request"), {})


def test_the_log_says_in_which_phase_a_request_ended(stack: Stack) -> None:
    asked = {
        "router": stack.ask(target=b"/nowhere", token=None),
        "edge": stack.ask(host=b"not a host"),
        "authenticate": stack.ask(token=None),
        "tenancy": stack.ask(target=b"/api/v1/tenants/a-stranger/orders"),
        "alert-ticket": stack.ask("POST", target=b"/api/v1/alerts/ticket", body=b"no JSON"),
        "done": stack.ask(),
    }
    for phase, reply in asked.items():
        name = reply.header("x-request-id")
        line = poll(lambda: _record(stack, name or ""))  # noqa: B023  # called here
        assert line["phase"] == phase, line


@pytest.mark.parametrize("by_path", [True, False])
def test_the_audit_says_which_tenant_was_refused(stack: Stack, by_path: bool) -> None:
    target = b"/api/v1/tenants/a-stranger/sales" if by_path else b"/api/v1/sales"
    headers = [] if by_path else [(b"X-Tenant-ID", b"a-stranger")]
    user = f"user-of-audit-{by_path}"
    assert stack.ask(target=target, headers=headers, token=access_token(user_id=user)).status == 403
    lines = poll(
        lambda: [each for each in stack.gateway.log().splitlines() if user in each and '"audit"' in each]
    )
    assert json.loads(lines[0])["tenant_requested"] == "a-stranger"


HTML = [(b"Accept", b"text/html,*/*;q=0.8")]


def test_all_problems_are_on_one_page(stack: Stack) -> None:
    listed = json.loads(stack.ask(target=b"/problems", token=None).body)["problems"]
    assert {each["code"]: each["status"] for each in listed} == {
        code: kind.status for code, kind in CATALOGUE.items()
    }
    page = stack.ask(target=b"/problems", headers=HTML, token=None)
    assert all(f'<a href="/problems/{code}">'.encode() in page.body for code in CATALOGUE)


@pytest.mark.parametrize("target", [b"/", b"/problems", b"/problems/token-expired"])
def test_pages_run_nothing_and_load_nothing_from_elsewhere(stack: Stack, target: bytes) -> None:
    page = stack.ask(target=target, headers=HTML, token=None)
    assert (page.status, page.header("content-type")) == (200, "text/html; charset=utf-8")
    style = re.search(rb"<style>(.*?)</style>", page.body, re.DOTALL)
    assert style is not None
    known = b64encode(sha256(style[1]).digest()).decode()
    assert (page.header("content-security-policy") or "").startswith(
        f"default-src 'none'; style-src 'sha256-{known}';"
    )
    assert b"<script" not in page.body
    assert not re.search(rb'(?:href|src)="(?!/)', page.body)


def test_the_index_leads_to_what_is_there(stack: Stack) -> None:
    index = json.loads(stack.ask(target=b"/", token=None).body)
    assert {"/docs", "/problems", "/health"} <= index["links"].keys()
    for address in index["links"]:
        assert stack.ask(target=address.encode(), token=None).status == 200, address


def test_in_prod_the_index_tells_strangers_of_nothing_that_admins_alone_may_see(
    gateway_factory: GatewayFactory, upstream: Recorder, session_store: EmbeddedStore
) -> None:
    prod = {"ENVIRONMENT": "prod", "HTTPS_ONLY": "false", "JWT_SECRET_KEY": "s" * 40}
    gateway = gateway_factory(stack_env(upstream, session_store) | prod)
    index = json.loads(Stack(gateway, upstream).ask(target=b"/", token=None).body)
    assert "/problems" in index["links"]
    assert not {"/docs", "/metrics", "/openapi.json"} & index["links"].keys()
