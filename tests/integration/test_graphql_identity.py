"""Whose the fields of an operation are: demo sessions stay in their demo, proxies' words and addresses go along."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from kernel.server.embedded_store import EmbeddedStore
from tests.support.graphql_services import Services, ask, running_services
from tests.support.inprocess import Local, local_gateway
from tests.support.tokens import TENANT

VIRTUAL = "6f1c9f0e-0000-4000-8000-0000000000d1"
SESSION = {
    "session_id": "demo_1",
    "account_type": "professional",
    "virtual_tenant_id": VIRTUAL,
    "status": "active",
    "expires_at": "2999-01-01T00:00:00Z",
    "subscription": {"tier": "professional", "status": "active", "valid_until": "2999-12-31T23:59:59Z"},
}


@pytest.fixture
async def services() -> AsyncIterator[Services]:
    async with running_services("demo-session") as services:
        services.data["GET /api/v1/demo/sessions/demo_1"] = SESSION
        yield services


@pytest.fixture
async def gateway(services: Services, store_server: EmbeddedStore, tmp_path: Path) -> AsyncIterator[Local]:
    env = {**services.env, "GRAPHQL": "true", "TRUSTED_PROXIES": "192.0.2.0/24"}
    async with local_gateway(store_server.url, tmp_path, (), None, **env) as gateway:
        yield gateway


async def test_a_demo_stays_in_its_demo(gateway: Local, services: Services) -> None:
    query = f'{{ inventoryItems {{ id }} foreign: salesOrders(tenantId: "{TENANT}") {{ id }} }}'
    reply = await gateway.ask(
        "POST",
        "/api/v1/graphql",
        None,
        msgspec.json.encode({"query": query}),
        headers={"content-type": "application/json", "x-demo-session-id": "demo_1"},
    )
    assert reply.document["data"]["inventoryItems"]
    assert reply.document["data"]["foreign"] is None
    assert [error["extensions"]["status"] for error in reply.document["errors"]] == [403]
    (asked,) = [each for each in services.asked if "/demo/" not in each.path]
    assert (asked.headers["x-tenant-id"], asked.headers["x-is-demo"]) == (VIRTUAL, "true")


async def test_what_is_known_of_the_client_goes_along_and_what_it_claims_does_not(
    gateway: Local, services: Services
) -> None:
    reply = await ask(
        gateway,
        "{ inventoryItems { id } }",
        headers={
            "x-forwarded-for": "203.0.113.7",
            "x-request-id": "from-the-proxy-1",
            "x-user-id": "root",
            "x-flag": "beta",
            "accept-language": "es",
            "accept-encoding": "gzip",
            "if-none-match": '"x"',
            "range": "bytes=0-1",
        },
    )
    assert (reply.status, reply.header("x-request-id")) == (200, "from-the-proxy-1")
    (asked,) = services.asked
    said = asked.headers
    assert said["x-forwarded-for"] == "203.0.113.7, 192.0.2.1"
    assert (said["x-request-id"], said["x-user-id"], said["x-flag"]) == ("from-the-proxy-1", "user-1", "beta")
    assert (said["accept"], said["accept-language"]) == ("application/json", "es")
    assert not {"accept-encoding", "if-none-match", "range", "content-type", "content-length"} & said.keys()
