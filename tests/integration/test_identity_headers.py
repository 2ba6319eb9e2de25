"""A service sees exactly the identity the gateway verified, and nothing the client claimed."""

from __future__ import annotations

import pytest

from kernel.http.headers import TRUSTED
from tests.support.stack import Stack
from tests.support.tokens import OTHER_TENANT, TENANT, access_token, service_token

CONTEXT = sorted(TRUSTED - {b"x-forwarded-by", b"x-request-id"})


def context_of(stack: Stack) -> dict[str, str]:
    """The context headers that arrived, whatever their spelling; each at most once."""
    found: dict[str, str] = {}
    for name, value in stack.seen().headers:
        normal = name.lower().replace(b"_", b"-")
        if normal in CONTEXT:
            assert normal.decode() not in found, f"{normal!r} arrived twice"
            found[normal.decode()] = value.decode()
    return found


USER = {
    "x-user-id": "user-1",
    "x-user-email": "user@example.com",
    "x-user-role": "owner",
    "x-user-type": "access",
    "x-tenant-id": TENANT,
    "x-subscription-tier": "professional",
    "x-subscription-status": "active",
    "x-tenant-access-type": "direct",
}


def test_a_user_arrives_with_the_verified_identity(stack: Stack) -> None:
    assert stack.ask().status == 200
    assert context_of(stack) == USER


def test_a_listed_tenant_gives_its_own_role_and_tier(stack: Stack) -> None:
    target = b"/api/v1/tenants/%b/inventory/items" % OTHER_TENANT.encode()
    assert stack.ask(target=target).status == 200
    assert context_of(stack) == USER | {
        "x-tenant-id": OTHER_TENANT,
        "x-user-role": "admin",
        "x-subscription-tier": "starter",
        "x-tenant-access-type": "listed",
    }
    assert stack.seen().target == target


def test_the_tenant_header_asks_and_the_path_wins(stack: Stack) -> None:
    stack.ask(headers=[(b"X-Tenant-ID", OTHER_TENANT.encode())])
    assert context_of(stack)["x-tenant-id"] == OTHER_TENANT
    stack.upstream.clear()
    stack.ask(
        target=b"/api/v1/tenants/%b/sales" % TENANT.encode(),
        headers=[(b"X-Tenant-ID", OTHER_TENANT.encode())],
    )
    assert context_of(stack)["x-tenant-id"] == TENANT


def test_a_service_token_arrives_as_the_service(stack: Stack) -> None:
    assert stack.ask("POST", b"/api/v1/tenant/clone", token=service_token(tenant_id=TENANT)).status == 200
    assert context_of(stack) == {
        "x-user-id": "demo-session-service",
        "x-user-email": "demo-session-service@internal",
        "x-user-role": "admin",
        "x-user-type": "service",
        "x-service-name": "demo-session",
        "x-tenant-id": TENANT,
        "x-tenant-access-type": "service",
    }


@pytest.mark.parametrize("name", CONTEXT, ids=bytes.decode)
def test_forged_context_never_arrives(stack: Stack, name: bytes) -> None:
    if name == b"x-tenant-id":
        spellings = [b"X_Tenant_Id", b"x_tenant-id"]
    elif name == b"x-demo-session-id":
        spellings = [b"X_Demo_Session_Id", b"x-demo_session-id"]
    else:
        spellings = [name, name.upper(), name.title(), name.replace(b"-", b"_"), name.replace(b"-", b"_", 1)]
    forged = [(spelling, b"forged") for spelling in spellings for _ in range(2)]
    assert stack.ask(headers=forged).status == 200
    assert b"forged" not in stack.upstream.raw
    assert context_of(stack) == USER


def test_connection_cannot_remove_what_the_gateway_sets(stack: Stack) -> None:
    named = [
        (b"Connection", b"close, x-user-id, x-tenant-id, X-Secret"),
        (b"X-Secret", b"hop"),
        (b"X-Kept", b"yes"),
    ]
    assert stack.ask(headers=named).status == 200
    assert context_of(stack) == USER
    assert stack.seen().header("x-secret") == []
    assert stack.seen().header("x-kept") == ["yes"]
    assert stack.seen().header("connection") == []


def test_hop_by_hop_headers_stay_on_their_hop(stack: Stack) -> None:
    hop = [
        (b"Keep-Alive", b"timeout=5"),
        (b"TE", b"trailers"),
        (b"Proxy-Authorization", b"Basic eA=="),
        (b"Proxy-Connection", b"keep-alive"),
        (b"Trailer", b"x"),
    ]
    stack.ask(headers=hop)
    names = {name.lower() for name, _ in stack.seen().headers}
    assert not names & {name.lower() for name, _ in hop}


def test_forwarded_headers_of_a_stranger_are_not_believed(stack: Stack) -> None:
    reply = stack.ask(
        headers=[
            (b"X-Forwarded-For", b"9.9.9.9"),
            (b"X-Forwarded-Proto", b"https"),
            (b"X-Forwarded-Host", b"evil.example"),
            (b"Forwarded", b"for=9.9.9.9"),
            (b"X-Real-IP", b"9.9.9.9"),
            (b"X-Request-ID", b"chosen-by-the-client"),
        ]
    )
    seen = stack.seen()
    assert b"9.9.9.9" not in stack.upstream.raw
    assert seen.header("x-forwarded-for") == ["127.0.0.1"]
    assert seen.header("x-forwarded-proto") == ["http"]
    assert seen.header("x-forwarded-host") == ["gateway.test"]
    assert seen.header("x-forwarded-by") == ["bakery-gateway"]
    assert seen.header("x-request-id") == [reply.header("x-request-id")]
    assert "chosen" not in (reply.header("x-request-id") or "")


def test_other_headers_pass_untouched_with_duplicates_in_order(stack: Stack) -> None:
    sent = [
        (b"X-Many", b"1"),
        (b"Accept", b"a/b"),
        (b"X-Many", b"2"),
        (b"X-Latin", b"caf\xe9"),
        (b"Cookie", b"a=b"),
    ]
    stack.ask(headers=sent)
    seen = stack.seen()
    assert seen.header("x-many") == ["1", "2"]
    assert (b"x-latin", b"caf\xe9") in [(name.lower(), value) for name, value in seen.headers]
    assert seen.header("cookie") == ["a=b"]


def test_a_cookie_in_crumbs_arrives_whole(stack: Stack) -> None:
    crumbs = [(b"Cookie", b"a=1"), (b"X-Kept", b"yes"), (b"Cookie", b"b=2"), (b"Cookie", b"c=3")]
    stack.ask(headers=crumbs)
    assert stack.seen().header("cookie") == ["a=1; b=2; c=3"]
    assert stack.seen().header("x-kept") == ["yes"]


def test_the_trace_is_continued_or_started(stack: Stack) -> None:
    trace = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    stack.ask(headers=[(b"traceparent", trace), (b"tracestate", b"vendor=1")])
    [parent] = stack.seen().header("traceparent")
    assert parent.split("-")[1] == "4bf92f3577b34da6a3ce929d0e0e4736"
    assert parent.encode() != trace
    assert stack.seen().header("tracestate") == ["vendor=1"]
    stack.upstream.clear()
    stack.ask(headers=[(b"traceparent", b"00-zz"), (b"tracestate", b"vendor=1")])
    [started] = stack.seen().header("traceparent")
    assert len(started) == 55
    assert stack.seen().header("tracestate") == []


def test_a_token_cannot_reach_a_tenant_it_does_not_name(stack: Stack) -> None:
    reply = stack.ask(target=b"/api/v1/tenants/9d1c9f0e-0000-4000-8000-000000000009/inventory/items")
    assert reply.status == 403
    assert b'"tenant-forbidden"' in reply.body
    assert stack.upstream.requests == []


def test_a_bound_service_token_stays_in_its_tenant(stack: Stack) -> None:
    token = service_token(tenant_id=TENANT)
    assert stack.ask(target=b"/api/v1/tenants/%b/sales" % OTHER_TENANT.encode(), token=token).status == 403
    free = service_token()
    assert stack.ask(target=b"/api/v1/tenants/%b/sales" % OTHER_TENANT.encode(), token=free).status == 200


def test_a_malformed_tenant_is_refused(stack: Stack) -> None:
    for tenant in (b"a%0b", b"%2e", b"a" * 65, b"a,b", b"a;b"):
        assert stack.ask(headers=[(b"X-Tenant-ID", tenant)]).status == 400
    assert stack.upstream.requests == []


def test_an_unusual_token_of_another_user_is_kept_apart(stack: Stack) -> None:
    """Two tokens that share their first characters are two identities."""
    for user in ("user-a", "user-b"):
        stack.upstream.clear()
        stack.ask(token=access_token(user_id=user))
        assert context_of(stack)["x-user-id"] == user
