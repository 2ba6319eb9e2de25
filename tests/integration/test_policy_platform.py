"""The policies with the platform that developers run: real logins, a real tenant service and demo sessions that end."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from demo.platform.info import Info
from demo.platform.process import platform_process
from kernel.server.embedded_store import EmbeddedStore
from tests.support.gateway import GatewayFactory
from tests.support.policy import Answer, Client
from tests.support.poll import poll

JSON = {"Content_Type": "application/json"}
ITEMS = "/api/v1/inventory/items"


@pytest.fixture(scope="module")
def platform() -> Iterator[Info]:
    with platform_process() as running:
        yield running


@pytest.fixture(scope="module")
def client(gateway_factory: GatewayFactory, platform: Info, session_store: EmbeddedStore) -> Iterator[Client]:
    env = {**platform.environment, "REDIS_URL": session_store.url, "RATE_LIMIT_REQUESTS": "1000000"}
    client = Client(gateway_factory(env).port)
    yield client
    client.close()


def send(client: Client, method: str, path: str, token: bytes | None = None, **document: Any) -> Answer:
    return client.ask(method, path, token, msgspec.json.encode(document), **JSON)


def login(client: Client, platform: Info, label: str) -> bytes:
    account = next(each for each in platform.accounts if each.label == label)
    answer = send(client, "POST", "/api/v1/auth/login", email=account.email, password=account.password)
    assert answer.status == 200
    token: str = answer.document["access_token"]
    return token.encode()


def test_a_change_of_the_subscription_through_the_gateway_makes_old_tokens_stale_at_once(
    client: Client, platform: Info
) -> None:
    tenant = platform.tenants["second_owner"]
    old = login(client, platform, "second_owner")
    assert client.ask("GET", ITEMS, old).status == 200
    path = f"/api/v1/tenants/{tenant}/subscription"
    assert send(client, "PUT", path, old, tier="enterprise").status == 200
    # Before the client read the answer; the worker it shares with nobody may learn of it a moment later.
    assert poll(lambda: client.ask("GET", ITEMS, old).code == "token-stale", 1.0)
    new = login(client, platform, "second_owner")
    assert client.ask("GET", ITEMS, new).status == 200
    # A change that the service refuses changes nothing.
    assert send(client, "PUT", path, new, tier="imperial").status == 422
    assert client.ask("GET", ITEMS, new).status == 200


def test_only_an_owner_changes_the_subscription_or_deletes_the_tenant(client: Client, platform: Info) -> None:
    staff = login(client, platform, "staff")
    tenant = platform.tenants["staff"]
    for method, path in (
        ("PUT", f"/api/v1/tenants/{tenant}/subscription"),
        ("DELETE", f"/api/v1/tenants/{tenant}"),
    ):
        answer = send(client, method, path, staff, tier="enterprise")
        assert (answer.status, answer.code) == (403, "critical-denied")
        assert "owner" in answer.document["detail"]


def test_the_group_owner_works_in_her_outlets_and_nowhere_else(client: Client, platform: Info) -> None:
    owner = login(client, platform, "owner")
    group, outlet = platform.tenants["owner"], platform.tenants["staff"]
    answer = client.ask("GET", f"/api/v1/tenants/{outlet}/inventory/items", owner)
    assert answer.status == 200
    assert answer.document["total"] > 0
    strange = platform.tenants["starter"]
    assert client.ask("GET", f"/api/v1/tenants/{strange}/inventory/items", owner).code == "tenant-forbidden"
    staff = login(client, platform, "staff")
    assert client.ask("GET", f"/api/v1/tenants/{group}/inventory/items", staff).code == "tenant-forbidden"


def test_a_lapsed_customer_pays_and_is_back(client: Client, platform: Info) -> None:
    token = login(client, platform, "expired")
    tenant = platform.tenants["expired"]
    assert client.ask("GET", ITEMS, token).code == "subscription-expired"
    assert client.ask("GET", f"/api/v1/tenants/{tenant}/billing", token).status == 200
    paid = send(client, "POST", f"/api/v1/tenants/{tenant}/billing/payments", token, months=2)
    assert paid.status == 201
    assert client.ask("GET", ITEMS, login(client, platform, "expired")).status == 200


def test_grace_is_told(client: Client, platform: Info) -> None:
    answer = client.ask("GET", ITEMS, login(client, platform, "grace"))
    assert answer.status == 200
    assert answer.headers["x-subscription-status"] == "grace"
    assert answer.headers["warning"] == '299 bakery-gateway "Subscription expired; 3 days of grace left"'


def test_a_visitor_starts_a_session_looks_around_and_is_shown_out(client: Client, platform: Info) -> None:
    begun = time.time()
    made = send(client, "POST", "/api/v1/demo/sessions", ttl_seconds=1.0)
    assert made.status == 201
    session = made.document["session_id"]
    cookie = made.headers["set-cookie"].partition(";")[0]
    assert client.ask("GET", ITEMS, Cookie=cookie).document["total"] > 0
    added = client.ask(
        "POST", ITEMS, None, b'{"name": "Harina", "unit": "kg"}', X_Demo_Session_Id=session, **JSON
    )
    assert added.status in {201, 422}
    real = platform.tenants["starter"]
    assert client.ask("GET", ITEMS, X_Demo_Session_Id=session, X_Tenant_ID=real).code == "demo-forbidden"
    poll(lambda: client.ask("GET", ITEMS, Cookie=cookie).code == "demo-session-expired", 3.0)
    assert time.time() - begun >= 1.0
