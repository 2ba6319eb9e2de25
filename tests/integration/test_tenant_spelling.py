"""A tenant has one spelling, whoever names it and wherever: no second one is a way around locks, freshness or demo marks."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kernel.store.keys import subscription_changed_at, tenant_demo, tenant_read_only
from tests.support.office import Office
from tests.support.policy import Answer, Client, Fence
from tests.support.poll import poll
from tests.support.stack import Stack
from tests.support.tokens import access_token, service_token

TENANT = "6f1c9f0e-ab12-4cde-8f00-00000000000a"
GROUP = "0b5d7f3a-11aa-4bcd-9e00-0000000000ff"
UPPER = TENANT.upper()
REFUSED = [TENANT.replace("-", ""), UPPER.replace("-", ""), f"{TENANT[:13]}{TENANT[14:]}"]
SPELLINGS = st.lists(st.booleans(), min_size=36, max_size=36).map(
    lambda capitals: "".join(
        char.upper() if capital else char for char, capital in zip(TENANT, capitals, strict=True)
    )
)
REASON = b'{"reason": "closed"}'
STALE = "99999999999"


@pytest.fixture
def client(stack: Stack, redis_cli: redis.Redis) -> Iterator[Client]:
    client = Client(stack.port)
    Fence(client, redis_cli).wait()
    yield client
    client.close()


@pytest.fixture
def office(stack: Stack, redis_cli: redis.Redis) -> Office:
    return Office.behind(stack.upstream)


def items(tenant: str) -> str:
    return f"/api/v1/tenants/{tenant}/inventory/items"


def user(**changes: Any) -> bytes:
    return access_token(**({"tenant_id": TENANT, "tenant_access": []} | changes))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(asked=SPELLINGS, claimed=SPELLINGS)
def test_any_case_is_the_same_tenant_in_path_header_and_claims(
    client: Client, stack: Stack, asked: str, claimed: str
) -> None:
    listed = user(tenant_id=GROUP, tenant_access=[{"id": claimed, "role": "admin", "tier": "starter"}])
    for token, access in (
        (user(tenant_id=claimed), "direct"),
        (listed, "listed"),
        (service_token(tenant_id=claimed), "service"),
    ):
        stack.upstream.clear()
        by_path = client.ask("GET", items(asked), token)
        assert (by_path.status, by_path.context["x-tenant-id"]) == (200, TENANT)
        assert by_path.context["x-tenant-access-type"] == access
        assert stack.upstream.requests[-1].target == items(asked).encode()
        by_header = client.ask("GET", "/api/v1/inventory/items", token, X_Tenant_ID=asked)
        assert by_header.context == by_path.context


@pytest.mark.parametrize("spelled", [*REFUSED, f"%7B{TENANT}%7D", f"urn:uuid:{TENANT}"])
def test_other_spellings_of_a_uuid_are_refused_everywhere(client: Client, spelled: str) -> None:
    for token in (user(), service_token()):
        assert client.ask("GET", items(spelled), token).code == "tenant-invalid"
        answer = client.ask("GET", "/api/v1/inventory/items", token, X_Tenant_ID=spelled)
        assert (answer.status, answer.code) == (400, "tenant-invalid")
    lock = f"/internal/v1/tenants/{spelled}/read-only"
    assert client.ask("PUT", lock, service_token(), REASON).code == "tenant-invalid"
    listed = user(tenant_access=[{"id": spelled, "role": "admin"}])
    for token in (user(tenant_id=spelled), listed, service_token(tenant_id=spelled)):
        assert client.ask("GET", "/api/v1/inventory/items", token).code == "token-claims"
    alert = {"tenant_id": spelled, "alert_id": "1", "severity": "low", "message": "m", "timestamp": 1}
    body = json.dumps(alert).encode()
    refused = client.ask("POST", "/api/v1/alerts/dispatch", service_token(), body)
    assert (refused.code, "tenant_id" in refused.document["detail"]) == ("body-invalid", True)


def test_an_id_that_is_no_uuid_keeps_its_case(client: Client) -> None:
    assert client.ask("GET", items("Shop_1"), user(tenant_id="Shop_1")).context["x-tenant-id"] == "Shop_1"
    assert client.ask("GET", items("shop_1"), user(tenant_id="Shop_1")).code == "tenant-forbidden"


def callers(office: Office) -> list[bytes]:
    """Everybody who may write in TENANT: itself, who lists it, who oversees it, and services."""
    office.ancestors[TENANT] = office.ancestors[UPPER] = [GROUP.upper()]
    oversees = [{"id": GROUP, "role": "owner", "can_view_children": True}]
    return [
        user(),
        user(tenant_id=GROUP, tenant_access=[{"id": TENANT, "role": "admin"}]),
        user(tenant_id=GROUP, tenant_access=oversees),
        service_token(),
    ]


def test_no_spelling_is_a_way_around_a_lock(client: Client, office: Office, redis_cli: redis.Redis) -> None:
    tokens = callers(office)
    for token in tokens:
        assert client.ask("POST", items(UPPER), token).status == 200
    answer = client.ask("PUT", f"/internal/v1/tenants/{UPPER}/read-only", service_token(), REASON)
    assert answer.document["tenant_id"] == TENANT
    assert redis_cli.get(tenant_read_only(TENANT)) == "closed"
    Fence(client, redis_cli).wait()
    for token in tokens:
        for spelled in (TENANT, UPPER):
            assert client.ask("POST", items(spelled), token).code == "tenant-read-only"
    assert client.ask("DELETE", f"/internal/v1/tenants/{UPPER}/read-only", service_token()).status == 204
    poll(lambda: client.ask("POST", items(TENANT), tokens[0]).status == 200)


def test_no_spelling_is_a_way_around_freshness(
    client: Client, office: Office, redis_cli: redis.Redis
) -> None:
    *tokens, _ = callers(office)
    for token in tokens:
        assert client.ask("GET", items(UPPER), token).status == 200
    changed = f"/internal/v1/tenants/{UPPER}/subscription-changed"
    assert client.ask("POST", changed, service_token()).document["tenant_id"] == TENANT
    assert redis_cli.get(subscription_changed_at(TENANT)) is not None
    redis_cli.set(subscription_changed_at(TENANT), STALE)
    Fence(client, redis_cli).wait()
    for token in tokens:
        assert client.ask("GET", items(UPPER), token).code == "token-stale"


def test_no_spelling_is_a_way_into_a_demo(client: Client, office: Office, redis_cli: redis.Redis) -> None:
    office.session("spelled-session", UPPER)
    visitor = client.ask("GET", items(TENANT), X_Demo_Session_Id="spelled-session")
    assert (visitor.status, visitor.context["x-tenant-id"]) == (200, TENANT)
    assert redis_cli.get(tenant_demo(TENANT)) == "spelled-session"
    Fence(client, redis_cli).wait()
    for token in callers(office)[:-1]:
        for spelled in (TENANT, UPPER):
            assert client.ask("GET", items(spelled), token).code == "demo-forbidden"


def test_an_answer_about_families_is_folded_too(client: Client, office: Office) -> None:
    child = "aa000000-0000-4000-8000-0000000000bb"
    office.ancestors[child] = [GROUP.upper()]
    token = user(tenant_id=GROUP, tenant_access=[{"id": GROUP, "role": "owner", "can_view_children": True}])
    answer: Answer = client.ask("GET", items(child.upper()), token)
    assert answer.context["x-tenant-id"] == child
    assert answer.context["x-parent-tenant-id"] == GROUP
    office.ancestors["cc000000-0000-4000-8000-0000000000bb"] = [GROUP.replace("-", "")]
    answer = client.ask("GET", items("cc000000-0000-4000-8000-0000000000bb"), token)
    assert answer.code == "tenant-unavailable"


def test_alerts_reach_the_streams_of_the_tenant_however_its_channel_is_spelled(
    stack: Stack, client: Client, redis_cli: redis.Redis
) -> None:
    kept = f"gateway:alerts:{{{TENANT}}}"

    def published() -> bool:
        alert = {"alert_id": "spelled", "severity": "low", "message": "m", "timestamp": time.time()}
        redis_cli.publish(f"alerts:tenant:{UPPER}", json.dumps(alert))
        return bool(redis_cli.exists(kept))

    poll(published)
    alert = {"tenant_id": UPPER, "alert_id": "d", "severity": "low", "message": "m", "timestamp": 1}
    sent = client.ask("POST", "/api/v1/alerts/dispatch", service_token(), json.dumps(alert).encode())
    assert (sent.status, sent.document["tenant_id"]) == (200, TENANT)
    poll(lambda: redis_cli.xlen(kept) == 2)
    assert not redis_cli.exists(f"gateway:alerts:{{{UPPER}}}")


def test_a_tokens_part_as_a_tenant_stands_in_no_log(stack: Stack, client: Client) -> None:
    part = user().split(b".")[1].decode()[:60]
    assert client.ask("GET", items(part), service_token()).code == "tenant-invalid"
    assert client.ask("GET", "/api/v1/inventory/items", user(), X_Tenant_ID=part).code == "tenant-invalid"
    whole = user().decode()
    client.ask("GET", items(whole), user())
    assert client.ask("GET", items("not-mine"), user()).code == "tenant-forbidden"
    poll(lambda: "tenant-forbidden" in stack.gateway.log())
    assert part[:20] not in stack.gateway.log()
