"""A group's people reach its outlets: the tenant service says which they are, and without it nobody is admitted."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import pytest
import redis

from kernel.identity.stamp import Stamp
from kernel.store.keys import tenant_ancestors
from tests.support.office import Office
from tests.support.poll import poll
from tests.support.raw import Reply
from tests.support.stack import Stack
from tests.support.tokens import OTHER_TENANT, SECRET, TENANT, access_token, service_token

STAMP = Stamp([SECRET])
GROUP = TENANT
ENTRY = {"id": GROUP, "role": "owner", "tier": "enterprise", "can_view_children": True}


@pytest.fixture
def office(stack: Stack, redis_cli: redis.Redis) -> Office:
    return Office.behind(stack.upstream)


@pytest.fixture
def outlet(request: pytest.FixtureRequest, office: Office) -> str:
    """An outlet of GROUP of the test's own, so that nothing the gateway remembers of another test counts."""
    name = f"outlet-{abs(hash(request.node.name)):x}"
    office.ancestors[name] = [f"{name}-region", GROUP]
    return name


def group_token(**changes: Any) -> bytes:
    return access_token(**({"tenant_access": [ENTRY]} | changes))


def visit(stack: Stack, tenant: str, token: bytes) -> Reply:
    stack.upstream.clear()
    return stack.ask(target=b"/api/v1/tenants/%b/inventory/items" % tenant.encode(), token=token)


def code(reply: Reply) -> str:
    return str(msgspec.json.decode(reply.body)["code"])


def header(stack: Stack, name: str) -> list[str]:
    return stack.seen().header(name)


def test_an_outlet_is_reached_with_the_role_and_tier_of_the_groups_entry(
    stack: Stack, office: Office, outlet: str
) -> None:
    assert visit(stack, outlet, group_token()).status == 200
    seen = stack.seen()
    assert seen.header("x-tenant-id") == [outlet]
    assert seen.header("x-tenant-access-type") == ["hierarchical"]
    assert seen.header("x-can-view-children") == ["true"]
    assert seen.header("x-parent-tenant-id") == [GROUP]
    assert seen.header("x-user-role") == ["owner"]
    assert seen.header("x-subscription-tier") == ["enterprise"]
    [call] = office.calls
    assert call.header("authorization")[0].startswith("Bearer ")
    assert call.header("x-user-id") == []


def test_the_nearest_ancestor_with_an_entry_counts(stack: Stack, office: Office, outlet: str) -> None:
    region = {"id": f"{outlet}-region", "role": "manager", "tier": "starter", "can_view_children": True}
    assert visit(stack, outlet, group_token(tenant_access=[ENTRY, region])).status == 200
    assert header(stack, "x-parent-tenant-id") == [f"{outlet}-region"]
    assert header(stack, "x-user-role") == ["manager"]
    assert header(stack, "x-subscription-tier") == ["starter"]


def test_an_entry_without_role_or_tier_of_the_own_tenant_takes_the_tokens(
    stack: Stack, office: Office, outlet: str
) -> None:
    bare = {"id": GROUP, "can_view_children": True}
    assert visit(stack, outlet, group_token(tenant_access=[bare], tenant_role="boss")).status == 200
    assert header(stack, "x-user-role") == ["boss"]
    assert header(stack, "x-subscription-tier") == ["professional"]


def test_direct_and_listed_access_say_that_children_may_be_seen(stack: Stack, office: Office) -> None:
    listed = {"id": OTHER_TENANT, "role": "admin", "tier": "starter", "can_view_children": True}
    token = group_token(tenant_access=[ENTRY, listed])
    for tenant, access in ((GROUP, "direct"), (OTHER_TENANT, "listed")):
        assert visit(stack, tenant, token).status == 200
        assert header(stack, "x-tenant-access-type") == [access]
        assert header(stack, "x-can-view-children") == ["true"]
        assert header(stack, "x-parent-tenant-id") == []
    assert office.calls == []


@pytest.mark.parametrize(
    "entry",
    [{**ENTRY, "can_view_children": False}, {"id": GROUP, "role": "owner"}, {**ENTRY, "id": OTHER_TENANT}],
    ids=["not allowed", "not said", "another's entry"],
)
def test_without_an_entry_for_an_ancestor_an_outlet_is_out_of_reach(
    stack: Stack, office: Office, outlet: str, entry: dict[str, Any]
) -> None:
    reply = visit(stack, outlet, group_token(tenant_access=[entry]))
    assert (reply.status, code(reply)) == (403, "tenant-forbidden")
    assert stack.upstream.requests == []
    # Nobody is asked about what no answer could change.
    assert office.calls == [] or entry["id"] == OTHER_TENANT


def test_a_tenant_nobody_knows_is_forbidden_and_asked_about_once(stack: Stack, office: Office) -> None:
    for _ in range(3):
        reply = visit(stack, "no-such-tenant", group_token())
        assert (reply.status, code(reply)) == (403, "tenant-forbidden")
    assert office.asked("no-such-tenant") == 1


def test_a_known_outlet_costs_no_call_and_the_store_tells_other_workers(
    stack: Stack, office: Office, outlet: str, redis_cli: redis.Redis
) -> None:
    for _ in range(3):
        assert visit(stack, outlet, group_token()).status == 200
        # Another token, hence another identity.
        assert visit(stack, outlet, group_token(user_id="user-2")).status == 200
    assert office.asked(outlet) == 1
    key = tenant_ancestors(outlet)
    assert 290 <= int(str(redis_cli.ttl(key))) <= 300
    stored = STAMP.take(key, str(redis_cli.get(key)).encode())
    assert stored is not None
    assert msgspec.json.decode(stored)["ancestors"] == [f"{outlet}-region", GROUP]


def test_what_another_worker_learnt_is_believed_unless_it_denies(
    stack: Stack, office: Office, outlet: str, redis_cli: redis.Redis
) -> None:

    minute_ago = time.time() - 60
    key = tenant_ancestors(outlet)
    redis_cli.set(key, STAMP.put(key, msgspec.json.encode({"at": minute_ago, "ancestors": [GROUP]})))
    assert visit(stack, outlet, group_token()).status == 200
    assert office.calls == []
    # An old denial may be out of date: the outlet may have joined the group since.
    late = f"{outlet}-late"
    office.ancestors[late] = [GROUP]
    key = tenant_ancestors(late)
    redis_cli.set(key, STAMP.put(key, msgspec.json.encode({"at": minute_ago, "ancestors": []})))
    assert visit(stack, late, group_token()).status == 200
    assert office.asked(late) == 1


def test_garbage_in_the_store_is_not_believed(
    stack: Stack, office: Office, outlet: str, redis_cli: redis.Redis
) -> None:
    redis_cli.set(tenant_ancestors(outlet), '{"at": "x"}')
    assert visit(stack, outlet, group_token()).status == 200
    assert office.asked(outlet) == 1


def test_who_can_write_to_the_store_oversees_nobody_by_it(
    stack: Stack, office: Office, redis_cli: redis.Redis
) -> None:
    stranger = "stranger-of-the-group"
    office.ancestors[stranger] = []
    redis_cli.set(tenant_ancestors(stranger), msgspec.json.encode({"at": time.time(), "ancestors": [GROUP]}))
    reply = visit(stack, stranger, group_token())
    assert (reply.status, code(reply)) == (403, "tenant-forbidden")
    assert office.asked(stranger) == 1


def test_many_at_once_ask_once(stack: Stack, office: Office, outlet: str) -> None:
    token = group_token()
    stack.upstream.clear()
    target = b"/api/v1/tenants/%b/inventory/items" % outlet.encode()
    with ThreadPoolExecutor(16) as pool:
        replies = list(pool.map(lambda _: stack.ask(target=target, token=token).status, range(16)))
    assert replies == [200] * 16
    assert office.asked(outlet) == 1


@pytest.mark.parametrize("status", [500, 401, 0], ids=["error", "our token refused", "connection broken"])
def test_an_outage_denies_and_is_over_when_the_service_is_back(
    stack: Stack, office: Office, outlet: str, status: int
) -> None:
    office.status = status
    reply = visit(stack, outlet, group_token())
    assert (reply.status, code(reply)) == (503, "tenant-unavailable")
    assert reply.header("retry-after") == "1"
    assert stack.upstream.requests == []
    # Who needs no answer is not held up.
    assert visit(stack, GROUP, group_token()).status == 200
    office.status = 200
    assert visit(stack, outlet, group_token()).status == 200


@pytest.mark.parametrize(
    "document",
    [{}, {"ancestors": None}, {"ancestors": ["a b"]}, {"ancestors": [GROUP] * 65}, [], "x"],
    ids=["none", "null", "malformed id", "too many", "list", "text"],
)
def test_an_answer_that_makes_no_sense_denies(
    stack: Stack, office: Office, outlet: str, document: Any
) -> None:
    office.garbage = document
    reply = visit(stack, outlet, group_token())
    assert (reply.status, code(reply)) == (503, "tenant-unavailable")


def test_a_change_of_the_groups_subscription_makes_the_token_stale_in_its_outlets(
    stack: Stack, office: Office, outlet: str, redis_cli: redis.Redis
) -> None:

    token = group_token()
    assert visit(stack, outlet, token).status == 200
    redis_cli.set(f"tenant:{GROUP}:subscription_changed_at", "99999999999")
    poll(lambda: visit(stack, outlet, token).status == 401)
    assert code(visit(stack, outlet, token)) == "token-stale"


def test_a_service_needs_no_hierarchy(stack: Stack, office: Office, outlet: str) -> None:
    assert visit(stack, outlet, service_token()).status == 200
    assert header(stack, "x-tenant-access-type") == ["service"]
    assert office.calls == []
