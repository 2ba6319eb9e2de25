"""REST to gRPC: requests and answers of a real gRPC service, by the rules of its descriptors."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis

from kernel.server.embedded_store import EmbeddedStore
from tests.support.grpc_service import Ovens, configured, ovens_service
from tests.support.inprocess import Local, local_gateway
from tests.support.tokens import access_token

API = "/api/v1/ovens"


@pytest.fixture
async def ovens() -> AsyncIterator[Ovens]:
    async with ovens_service() as service:
        yield service


@pytest.fixture
async def gateway(
    ovens: Ovens, store_server: EmbeddedStore, redis_cli: redis.Redis, tmp_path: Path
) -> AsyncIterator[Local]:
    environment = configured(tmp_path, ovens.url)
    async with local_gateway(store_server.url, tmp_path, (), None, **environment) as local:
        yield local


def encoded(value: Any) -> bytes:
    return msgspec.json.encode(value)


async def test_a_get_travels_the_whole_way(gateway: Local, ovens: Ovens) -> None:
    reply = await gateway.ask("GET", f"{API}/7", access_token())
    assert (reply.status, reply.header("content-type")) == (200, "application/json")
    # By the JSON mapping: names in camelCase, enums by name, 64 bits as a string, what is not set left out.
    assert reply.document == {"ovenId": "7", "fuel": "WOOD", "batches": str(2**60)}
    assert ovens.calls == ["GetOven"]


async def test_it_needs_a_token_like_any_other(gateway: Local, ovens: Ovens) -> None:
    assert (await gateway.ask("GET", f"{API}/7")).code == "token-missing"
    assert not ovens.calls
