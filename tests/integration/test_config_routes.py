"""Routes of gateway.toml in the running gateway."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import InvalidStatus

from kernel.server.embedded_store import EmbeddedStore
from tests.support.gateway import GatewayFactory, GatewayProcess, free_port
from tests.support.raw import ask, request
from tests.support.stack import lone_env
from tests.support.tokens import access_token

CONFIG = """
[services.loyalty]
url = "http://127.0.0.1:{port}"
[[routes]]
pattern = "/api/v1/loyalty/ws"
service = "loyalty"
websocket = true
min_tier = "professional"
[[routes]]
pattern = "/api/v1/loyalty/campaigns/**"
service = "loyalty"
min_tier = "professional"
"""


async def echo(connection: ServerConnection) -> None:
    async for message in connection:
        await connection.send(message)


@pytest.fixture
async def gateway(
    gateway_factory: GatewayFactory, session_store: EmbeddedStore, tmp_path: Path
) -> AsyncIterator[GatewayProcess]:
    port = free_port()
    config = tmp_path / "gateway.toml"
    config.write_text(CONFIG.format(port=port))
    gateway = gateway_factory(lone_env(1, session_store, GATEWAY_CONFIG=str(config)))
    async with serve(echo, "127.0.0.1", port):
        yield gateway


@pytest.mark.parametrize("scope", ["", "tenants/tenant-1/"])
async def test_a_websocket_is_served_where_the_file_says_so_under_its_policies(
    gateway: GatewayProcess, scope: str
) -> None:
    url = f"ws://127.0.0.1:{gateway.port}/api/v1/{scope}loyalty/ws"

    def opened(tier: str) -> connect:
        token = access_token(tenant_id="tenant-1", subscription={"tier": tier, "status": "active"}).decode()
        return connect(url, additional_headers={"Authorization": f"Bearer {token}"}, proxy=None)

    async with opened("professional") as client:
        await client.send("good morning")
        assert await client.recv() == "good morning"
    with pytest.raises(InvalidStatus) as refused:
        await opened("starter")
    assert json.loads(refused.value.response.body)["code"] == "tier-required"


@pytest.mark.parametrize("scope", ["", "tenants/tenant-1/"])
async def test_a_tier_is_demanded_at_both_paths(gateway: GatewayProcess, scope: str) -> None:
    token = access_token(tenant_id="tenant-1", subscription={"tier": "starter", "status": "active"})
    target = f"/api/v1/{scope}loyalty/campaigns/1".encode()
    reply = await asyncio.to_thread(
        ask, gateway.port, request(target=target, headers=[(b"authorization", b"Bearer " + token)])
    )
    assert (reply.status, json.loads(reply.body)["code"]) == (403, "tier-required")
