"""Limits of routes, tiers and tenants beside the client's: all are told, the tightest decides, the names are the draft's."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from kernel.server.embedded_store import EmbeddedStore
from tests.support.gateway import GatewayFactory
from tests.support.policy import Answer, Client
from tests.support.recorder import Recorder
from tests.support.stack import Stack, stack_env
from tests.support.tokens import access_token, service_token

CONFIG = """
[limits.tiers.starter]
requests = 6
window = 3600
[limits.tiers.enterprise]
requests = 1000
window = 3600
[limits.tenants.t-special]
requests = 9
window = 1800
[[routes]]
pattern = "/api/v1/sales/export"
service = "sales"
limit = {requests = 3, window = 600}
"""
ITEMS = "/api/v1/inventory/items"
EXPORT = "/api/v1/sales/export"


@pytest.fixture(scope="module")
def running(
    gateway_factory: GatewayFactory,
    upstream: Recorder,
    session_store: EmbeddedStore,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Client]:
    config: Path = tmp_path_factory.mktemp("limits") / "gateway.toml"
    config.write_text(CONFIG)
    env = stack_env(
        upstream,
        session_store,
        GATEWAY_CONFIG=str(config),
        RATE_LIMIT_REQUESTS="50",
        RATE_LIMIT_WINDOW_SECONDS="86400",
        SERVICE_RATE_LIMIT_REQUESTS="40",
    )
    client = Client(gateway_factory(env).port)
    yield client
    client.close()


@pytest.fixture
def client(running: Client, redis_cli: redis.Redis) -> Client:
    return running


def user(name: str, tenant: str, tier: str, **more: Any) -> bytes:
    return access_token(
        user_id=name,
        tenant_id=tenant,
        subscription={"tier": tier, "status": "active"},
        tenant_access=[],
        **more,
    )


def policies(answer: Answer) -> dict[str, tuple[int, int]]:
    """RateLimit-Policy as name -> (quota, window), every member well-formed (RFC 9651)."""
    found = {}
    for member in answer.headers["ratelimit-policy"].split(", "):
        match = re.fullmatch(r'"([a-z]+)";q=(\d+);w=(\d+)', member)
        assert match, member
        found[match[1]] = int(match[2]), int(match[3])
    return found


def left(answer: Answer) -> dict[str, int]:
    """RateLimit as name -> what is left."""
    found = {}
    for member in answer.headers["ratelimit"].split(", "):
        match = re.fullmatch(r'"([a-z]+)";r=(\d+);t=(\d+)', member)
        assert match, member
        found[match[1]] = int(match[2])
    return found


def legacy(answer: Answer) -> tuple[int, int]:
    return int(answer.headers["x-ratelimit-limit"]), int(answer.headers["x-ratelimit-remaining"])


def until_limited(client: Client, path: str, token: bytes, most: int) -> tuple[int, Answer]:
    """How many requests passed, and the first that did not."""
    for passed in range(most + 1):
        answer = client.ask("GET", path, token)
        if answer.status != 200:
            return passed, answer
    raise AssertionError("never limited")


def test_a_starter_tenant_has_its_tiers_limit_whoever_asks(client: Client) -> None:
    anna, ben = (user(name, "t-small", "starter") for name in ("anna", "ben"))
    first = client.ask("GET", ITEMS, anna)
    assert policies(first) == {"client": (50, 86400), "tier": (6, 3600)}
    assert left(first)["tier"] == 5
    # The legacy headers tell the limit with the least left.
    assert legacy(first) == (6, 5)
    assert [client.ask("GET", ITEMS, ben).status for _ in range(3)] == [200] * 3
    passed, refused = until_limited(client, ITEMS, anna, 6)
    assert passed == 2
    assert (refused.status, refused.code) == (429, "rate-limited")
    assert left(refused)["tier"] == 0
    assert legacy(refused) == (6, 0)
    assert int(refused.headers["retry-after"]) > 0
    assert client.ask("GET", ITEMS, ben).status == 429
    # Another tenant of that tier has its own.
    assert client.ask("GET", ITEMS, user("carl", "t-other-small", "starter")).status == 200


def test_a_tier_without_a_limit_pays_for_the_client_only(client: Client) -> None:
    answer = client.ask("GET", ITEMS, user("dora", "t-middle", "professional"))
    # The first request of an unknown token pays from its address.
    assert set(policies(answer)) == {"client"}


def test_a_tenants_own_limit_takes_the_place_of_its_tiers(client: Client) -> None:
    token = user("emil", "t-special", "starter")
    answer = client.ask("GET", ITEMS, token)
    assert policies(answer)["tenant"] == (9, 1800)
    assert "tier" not in policies(answer)
    passed, refused = until_limited(client, ITEMS, token, 9)
    assert (passed, refused.status) == (8, 429)


def test_a_routes_limit_counts_each_client_and_that_route_only(client: Client) -> None:
    fay, gus = (user(name, "t-big", "enterprise") for name in ("fay", "gus"))
    # The address pays for the first request, the user for the others.
    for token in (fay, gus):
        assert client.ask("GET", ITEMS, token).status == 200
    answer = client.ask("GET", EXPORT, fay)
    assert policies(answer) == {"client": (50, 86400), "route": (3, 600), "tier": (1000, 3600)}
    passed, refused = until_limited(client, EXPORT, fay, 3)
    assert (passed, refused.status) == (2, 429)
    assert legacy(refused) == (3, 0)
    # The draft: the reset beside a Retry-After names the same moment.
    assert f'"route";r=0;t={refused.headers["retry-after"]}' in refused.headers["ratelimit"]
    assert refused.headers["x-ratelimit-reset"] == refused.headers["retry-after"]
    assert client.ask("GET", ITEMS, fay).status == 200
    assert client.ask("GET", EXPORT, gus).status == 200


def test_services_pay_from_their_own_bucket_and_for_no_tenant(client: Client) -> None:
    token = service_token("pos")
    client.ask("GET", "/api/v1/tenants/t-special/inventory/items", token)
    answer = client.ask("GET", "/api/v1/tenants/t-special/inventory/items", token)
    assert policies(answer) == {"service": (40, 86400)}


def test_a_request_that_may_not_enter_the_tenant_costs_it_nothing(client: Client) -> None:
    stranger = user("hal", "t-elsewhere", "enterprise")
    before = left(client.ask("GET", ITEMS, user("ivo", "t-victim", "enterprise")))["tier"]
    for _ in range(5):
        assert client.ask("GET", ITEMS, stranger, X_Tenant_ID="t-victim").status == 403
    after = left(client.ask("GET", ITEMS, user("ivo", "t-victim", "enterprise")))["tier"]
    assert after == before - 1


METHODS = """
[[routes]]
pattern = "/api/v1/inventory/items"
service = "inventory"
methods = ["GET"]
limit = {requests = 20, window = 3600}
[[routes]]
pattern = "/api/v1/inventory/items"
service = "inventory"
methods = ["POST"]
limit = {requests = 5, window = 3600}
"""


def test_limits_by_method_do_not_lift_each_other_without_the_store_either(
    gateway_factory: GatewayFactory, upstream: Recorder, mortal_store: EmbeddedStore, tmp_path: Path
) -> None:
    config = tmp_path / "gateway.toml"
    config.write_text(METHODS)
    gateway = gateway_factory(stack_env(upstream, mortal_store, GATEWAY_CONFIG=str(config)))
    mortal_store.kill()
    stack = Stack(gateway, upstream)
    token = access_token(user_id="user-of-two-methods")
    seen = Counter(
        (method, stack.ask(method, token=token).status) for _ in range(40) for method in ("GET", "POST")
    )
    assert seen["GET", 200] <= 21
    assert seen["POST", 200] <= 6
