"""Demo mode: visitors without an account, confined to their session's virtual tenant for as long as it lasts."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import pytest
import redis

from kernel.store.keys import tenant_demo
from tests.support.office import Office, stamp
from tests.support.poll import poll
from tests.support.raw import Reply
from tests.support.stack import Stack
from tests.support.tokens import OTHER_TENANT, TENANT, access_token, service_token

Names = Callable[[], str]


@pytest.fixture
def office(stack: Stack, redis_cli: redis.Redis) -> Office:
    return Office.behind(stack.upstream)


@pytest.fixture
def session(request: pytest.FixtureRequest, office: Office) -> str:
    """A session of the test's own; its tenant is `virtual-<session>`."""
    name = f"demo_{abs(hash(request.node.name)):x}"
    return office.session(name, f"virtual-{name}")


def visit(
    stack: Stack, session: str, target: bytes = b"/api/v1/inventory/items", method: str = "GET", **more: Any
) -> Reply:
    stack.upstream.clear()
    headers = [(b"X-Demo-Session-Id", session.encode()), *more.pop("headers", [])]
    return stack.ask(method, target, headers, token=None, **more)


def with_token(stack: Stack, token: bytes, headers: list[tuple[bytes, bytes]] | None = None) -> Reply:
    stack.upstream.clear()
    return stack.ask(headers=headers, token=token)


def demo_token(session: str, **changes: Any) -> bytes:
    claims: dict[str, Any] = {
        "user_id": "demo-user",
        "tenant_id": f"virtual-{session}",
        "tenant_access": [],
        "is_demo": True,
        "demo_session_id": session,
    }
    return access_token(**(claims | changes))


def outcome(reply: Reply) -> tuple[int, str]:
    return reply.status, str(msgspec.json.decode(reply.body).get("code", ""))


def context(stack: Stack) -> dict[str, str]:
    names = ("id", "email", "role", "type")
    wanted = [f"x-user-{name}" for name in names] + [
        "x-tenant-id",
        "x-tenant-access-type",
        "x-subscription-tier",
        "x-subscription-status",
        "x-is-demo",
        "x-demo-session-id",
        "x-demo-account-type",
    ]
    found = {name: stack.seen().header(name) for name in wanted}
    assert all(len(values) <= 1 for values in found.values())
    return {name: values[0] for name, values in found.items() if values}


def test_a_session_alone_makes_a_demo_identity(stack: Stack, office: Office, session: str) -> None:
    assert visit(stack, session).status == 200
    assert context(stack) == {
        "x-user-id": session,
        "x-user-email": f"{session}@demo.internal",
        "x-user-role": "owner",
        "x-user-type": "access",
        "x-tenant-id": f"virtual-{session}",
        "x-tenant-access-type": "direct",
        "x-subscription-tier": "professional",
        "x-subscription-status": "active",
        "x-is-demo": "true",
        "x-demo-session-id": session,
        "x-demo-account-type": "individual_bakery",
    }
    [call] = office.calls
    assert call.header("authorization")[0].startswith("Bearer ")


def test_the_cookie_does_as_well_and_the_header_wins(stack: Stack, office: Office, session: str) -> None:
    stack.upstream.clear()
    cookie = (b"Cookie", b"a=b; demo_session_id=%b; c=d" % session.encode())
    assert stack.ask(headers=[cookie], token=None).status == 200
    assert context(stack)["x-demo-session-id"] == session
    other = office.session(f"{session}_2", "virtual-other")
    assert visit(stack, other, headers=[cookie]).status == 200
    assert context(stack)["x-demo-session-id"] == other


def test_a_cookie_of_another_name_is_no_session(stack: Stack, office: Office, session: str) -> None:
    stack.upstream.clear()
    cookie = (b"Cookie", b"not_demo_session_id=%b" % session.encode())
    assert outcome(stack.ask(headers=[cookie], token=None)) == (401, "token-missing")


def test_a_known_session_is_not_asked_about_again(stack: Stack, office: Office, session: str) -> None:
    for _ in range(3):
        assert visit(stack, session).status == 200
    assert len(office.calls) == 1


def test_many_at_once_ask_once(stack: Stack, office: Office, session: str) -> None:
    headers = [(b"X-Demo-Session-Id", session.encode())]
    with ThreadPoolExecutor(16) as pool:
        replies = list(pool.map(lambda _: stack.ask(headers=headers, token=None).status, range(16)))
    assert replies == [200] * 16
    assert len(office.calls) == 1


def test_an_unknown_session_is_refused_with_a_challenge(stack: Stack, office: Office) -> None:
    reply = visit(stack, "demo_never_was")
    assert outcome(reply) == (401, "demo-session-invalid")
    assert (reply.header("www-authenticate") or "").startswith("Bearer")
    visit(stack, "demo_never_was")
    assert len(office.calls) == 1


@pytest.mark.parametrize("name", ["a/../../tenants", "a%2Fb", "", "a b", "x" * 129, "a?b=c", "é"])
def test_a_malformed_session_is_refused_unasked(stack: Stack, office: Office, name: str) -> None:
    assert outcome(visit(stack, name)) == (401, "demo-session-invalid")
    assert office.calls == []


def test_two_session_headers_are_none(stack: Stack, office: Office, session: str) -> None:
    twice = [(b"X-Demo-Session-Id", session.encode())]
    assert outcome(visit(stack, session, headers=twice)) == (401, "demo-session-invalid")


def test_a_session_that_is_over_is_refused(stack: Stack, office: Office, session: str) -> None:
    office.session(session, "virtual-x", lasts=-1)
    assert outcome(visit(stack, session)) == (401, "demo-session-expired")
    other = office.session(f"{session}_2", "virtual-x", status="expired")
    assert outcome(visit(stack, other)) == (401, "demo-session-expired")


def test_a_session_ends_in_the_middle_of_its_use(stack: Stack, office: Office, session: str) -> None:
    ends = time.time() + 0.4
    office.session(session, f"virtual-{session}", expires_at=stamp(ends))
    assert visit(stack, session).status == 200
    # It is well within the time that an answer of the service is kept.
    poll(lambda: outcome(visit(stack, session)) == (401, "demo-session-expired"), 2.0)
    assert ends <= time.time() < ends + 1.0


@pytest.mark.parametrize("status", [500, 403, 0])
def test_without_the_demo_service_nobody_gets_in(
    stack: Stack, office: Office, session: str, status: int
) -> None:
    office.status = status
    assert outcome(visit(stack, session)) == (503, "demo-unavailable")
    assert outcome(with_token(stack, demo_token(session))) == (503, "demo-unavailable")
    office.status = 200
    assert visit(stack, session).status == 200


@pytest.mark.parametrize(
    "changes",
    [
        {"session_id": "another"},
        {"virtual_tenant_id": "a b"},
        {"virtual_tenant_id": None},
        {"account_type": "a\r\nx-user-role: admin"},
        {"expires_at": "soon"},
        {"subscription": None},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_an_answer_that_makes_no_sense_lets_nobody_in(
    stack: Stack, office: Office, session: str, changes: dict[str, Any]
) -> None:
    office.session(session, "virtual-x", **changes)
    assert outcome(visit(stack, session)) == (503, "demo-unavailable")
    assert stack.upstream.requests == []


# --- isolation ---------------------------------------------------------------------------------------------------


def test_a_visitor_reaches_no_other_tenant(stack: Stack, office: Office, session: str) -> None:
    for tenant in (TENANT, OTHER_TENANT, "virtual-of-somebody-else"):
        target = b"/api/v1/tenants/%b/inventory/items" % tenant.encode()
        assert outcome(visit(stack, session, target)) == (403, "demo-forbidden")
        asked = [(b"X-Tenant-ID", tenant.encode())]
        assert outcome(visit(stack, session, headers=asked)) == (403, "demo-forbidden")
        assert stack.upstream.requests == []
    own = b"/api/v1/tenants/virtual-%b/inventory/items" % session.encode()
    assert visit(stack, session, own).status == 200


def test_a_visitor_may_write_but_do_nothing_that_only_services_may(
    stack: Stack, office: Office, session: str
) -> None:
    assert visit(stack, session, b"/api/v1/orders/orders", "POST", body=b"{}").status == 200
    office.denied["delete-tenant"] = "a demo"
    tenant = b"/api/v1/tenants/virtual-%b" % session.encode()
    assert outcome(visit(stack, session, tenant, "DELETE")) == (403, "critical-denied")
    internal = b"/internal/v1/tenants/virtual-%b/read-only" % session.encode()
    assert outcome(visit(stack, session, internal, "DELETE")) == (401, "token-missing")


def test_a_demo_token_lives_in_its_session(stack: Stack, office: Office, session: str) -> None:
    reply = with_token(stack, demo_token(session))
    assert reply.status == 200
    seen = context(stack)
    assert seen["x-user-id"] == "demo-user"
    assert seen["x-tenant-id"] == f"virtual-{session}"
    assert (seen["x-is-demo"], seen["x-demo-session-id"]) == ("true", session)
    assert seen["x-demo-account-type"] == "individual_bakery"


def test_a_demo_token_ends_with_its_session(stack: Stack, office: Office, session: str) -> None:
    office.session(session, f"virtual-{session}", expires_at=stamp(time.time() + 0.4))
    token = demo_token(session)
    assert with_token(stack, token).status == 200
    poll(lambda: outcome(with_token(stack, token)) == (401, "demo-session-expired"), 2.0)


def test_a_demo_token_does_not_leave_its_tenant(stack: Stack, office: Office, session: str) -> None:
    elsewhere = demo_token(session, tenant_id=TENANT)
    assert outcome(with_token(stack, elsewhere)) == (403, "demo-forbidden")
    entries = [{"id": OTHER_TENANT, "role": "owner", "tier": "enterprise", "can_view_children": True}]
    listing = demo_token(session, tenant_access=entries)
    asked = [(b"X-Tenant-ID", OTHER_TENANT.encode())]
    assert outcome(with_token(stack, listing, asked)) == (403, "demo-forbidden")
    office.ancestors["an-outlet"] = [OTHER_TENANT]
    assert outcome(with_token(stack, listing, [(b"X-Tenant-ID", b"an-outlet")])) == (403, "demo-forbidden")
    assert outcome(with_token(stack, demo_token(session, tenant_id=...))) == (403, "demo-forbidden")


def test_a_demo_token_that_names_no_session_needs_one_from_the_request(
    stack: Stack, office: Office, session: str
) -> None:
    token = demo_token(session, demo_session_id=...)
    assert outcome(with_token(stack, token)) == (401, "demo-session-invalid")
    named = [(b"X-Demo-Session-Id", session.encode())]
    assert with_token(stack, token, named).status == 200
    assert context(stack)["x-demo-session-id"] == session


def test_a_tokens_own_session_counts_and_not_the_requests(stack: Stack, office: Office, session: str) -> None:
    office.session(f"{session}_2", f"virtual-{session}")
    named = [(b"X-Demo-Session-Id", f"{session}_2".encode())]
    assert with_token(stack, demo_token(session), named).status == 200
    assert context(stack)["x-demo-session-id"] == session


def test_a_real_token_makes_the_session_mean_nothing(stack: Stack, office: Office, session: str) -> None:
    for name in (session, "demo_never_was"):
        given = [(b"X-Demo-Session-Id", name.encode())]
        assert with_token(stack, access_token(), given).status == 200
        seen = context(stack)
        assert seen["x-tenant-id"] == TENANT
        assert not {"x-is-demo", "x-demo-session-id", "x-demo-account-type"} & seen.keys()
        assert with_token(stack, service_token(), given).status == 200
        assert "x-demo-session-id" not in context(stack)
    assert office.calls == []


def test_an_unusable_token_is_not_saved_by_a_session(stack: Stack, office: Office, session: str) -> None:
    given = [(b"X-Demo-Session-Id", session.encode())]
    expired = access_token(exp=int(time.time()) - 10)
    assert outcome(with_token(stack, expired, given)) == (401, "token-expired")


def test_a_real_identity_does_not_enter_a_demo_tenant(
    stack: Stack, office: Office, session: str, redis_cli: redis.Redis
) -> None:
    virtual = f"virtual-{session}"
    assert visit(stack, session).status == 200
    assert redis_cli.get(tenant_demo(virtual)) == session
    assert 0 < int(str(redis_cli.ttl(tenant_demo(virtual)))) <= 600
    entry = {"id": virtual, "role": "owner", "tier": "enterprise"}
    asked = [(b"X-Tenant-ID", virtual.encode())]
    assert outcome(with_token(stack, access_token(tenant_access=[entry]), asked)) == (403, "demo-forbidden")
    group = {"id": TENANT, "role": "owner", "tier": "enterprise", "can_view_children": True}
    office.ancestors[virtual] = [TENANT]
    assert outcome(with_token(stack, access_token(tenant_access=[group]), asked)) == (403, "demo-forbidden")
    own = access_token(tenant_id=virtual)
    assert outcome(with_token(stack, own)) == (403, "demo-forbidden")
    assert stack.upstream.requests == []
    # The services that fill a demo tenant may.
    assert with_token(stack, service_token(), asked).status == 200


def lists(tenant: str) -> bytes:
    """A real user's token that lists a demo's tenant."""
    return access_token(tenant_access=[{"id": tenant, "role": "owner", "tier": "enterprise"}])


def test_a_new_sessions_tenant_is_a_demos_before_anybody_has_used_it(
    stack: Stack, office: Office, session: str, redis_cli: redis.Redis
) -> None:
    virtual = f"virtual-{session}"
    stack.upstream.answer = lambda seen: (
        (201, office.sessions[session]) if seen.target == b"/api/v1/demo/sessions" else office.answer(seen)
    )
    made = stack.ask("POST", b"/api/v1/demo/sessions", body=b"{}", token=None)
    assert made.status == 201
    assert msgspec.json.decode(made.body)["session_id"] == session
    assert redis_cli.get(tenant_demo(virtual)) == session
    asked = [(b"X-Tenant-ID", virtual.encode())]
    assert outcome(with_token(stack, lists(virtual), asked)) == (403, "demo-forbidden")


def test_a_store_that_was_emptied_is_told_again_which_tenants_are_demos(
    stack: Stack, office: Office, session: str, redis_cli: redis.Redis
) -> None:
    virtual = f"virtual-{session}"
    assert visit(stack, session).status == 200
    redis_cli.flushall()
    poll(lambda: redis_cli.get(tenant_demo(virtual)) == session)
    assert 0 < int(str(redis_cli.ttl(tenant_demo(virtual)))) <= 600
    asked = [(b"X-Tenant-ID", virtual.encode())]
    assert outcome(with_token(stack, lists(virtual), asked)) == (403, "demo-forbidden")


@pytest.mark.parametrize("answer", [(201, {"session_id": 5}), (201, []), (500, {}), (204, {})])
def test_an_answer_that_creates_nothing_is_passed_on(
    stack: Stack, office: Office, answer: tuple[int, Any]
) -> None:
    stack.upstream.answer = lambda seen: answer
    reply = stack.ask("POST", b"/api/v1/demo/sessions", body=b"{}", token=None)
    assert reply.status == answer[0]
    assert reply.status == 204 or msgspec.json.decode(reply.body) == answer[1]


def test_a_demo_tenant_can_be_locked_like_any_other(
    stack: Stack, office: Office, session: str, redis_cli: redis.Redis
) -> None:
    assert visit(stack, session).status == 200
    redis_cli.set(f"tenant:virtual-{session}:read_only", "cleaning")
    poll(lambda: visit(stack, session, method="POST").status == 403)
    assert outcome(visit(stack, session, method="POST")) == (403, "tenant-read-only")
    assert visit(stack, session).status == 200
