"""Idempotency keys beside all else that a route may do: it is done once, or each time, as it should."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import redis

from kernel.server.embedded_store import EmbeddedStore
from tests.support.inprocess import Local
from tests.support.orders import PATH, Orders, keyed_gateway, order, orders_service
from tests.support.store import until
from tests.support.tokens import TENANT, access_token

KEY = "8e03978e-40d5-43e8-bc93-6894a57f9324"


@pytest.fixture
async def orders() -> AsyncIterator[Orders]:
    async with orders_service() as service:
        yield service


@pytest.fixture
def token() -> bytes:
    return access_token()


def configured(directory: Path, text: str) -> str:
    path = directory / "gateway.toml"
    path.write_text(text)
    return str(path)


async def test_rewrites_and_changed_headers_are_part_of_what_is_kept(
    store_server: EmbeddedStore, tmp_path: Path, orders: Orders, token: bytes
) -> None:
    toml = configured(
        tmp_path,
        """
        [[routes]]
        pattern = "/api/v1/orders/new"
        service = "orders"
        rewrite = "/place"
        set_headers = {x-shop = "7"}
        response_headers = {x-engine = "", x-made = "yes"}
        """,
    )
    orders.answer = b"HTTP/1.1 201 Created\r\nx-engine: 5\r\nx-kept: 1\r\ncontent-length: 0\r\n\r\n"
    async with keyed_gateway(store_server.url, tmp_path, orders, GATEWAY_CONFIG=toml) as gateway:
        first, again = [await order(gateway, KEY, token) for _ in range(2)]
    assert orders.seen[0].startswith(b"POST /place HTTP/1.1\r\n")
    assert b"\r\nx-shop: 7\r\n" in orders.seen[0]
    assert again.header("idempotent-replayed") == "true"
    for reply in (first, again):
        assert (reply.status, reply.header("x-kept")) == (201, "1")
        assert (reply.header("x-engine"), reply.header("x-made")) == (None, "yes")
        assert [name for name, _ in reply.headers].count("x-request-id") == 1
    assert len(orders.seen) == 1


async def test_a_mirror_gets_the_one_request_that_the_service_got(
    store_server: EmbeddedStore, tmp_path: Path, orders: Orders, token: bytes
) -> None:
    async with orders_service() as mirror:
        toml = configured(
            tmp_path,
            f'[services.orders.mirror]\nurl = "{mirror.url}"\npercent = 100\nmethods = ["POST"]\n',
        )
        async with keyed_gateway(store_server.url, tmp_path, orders, GATEWAY_CONFIG=toml) as gateway:
            for _ in range(3):
                assert (await order(gateway, KEY, token)).status == 201
            await until(lambda: len(mirror.seen) == 1)
            assert await order(gateway, None, token)
            await until(lambda: len(mirror.seen) == 2)
    assert mirror.seen[0].endswith(b'\r\n\r\n{"loaves": 3}')
    assert len(orders.seen) == 2


async def test_a_canary_that_is_not_there_leaves_the_key_to_the_service(
    store_server: EmbeddedStore, tmp_path: Path, orders: Orders, token: bytes
) -> None:
    toml = configured(tmp_path, '[services.orders.canary]\nurl = "http://127.0.0.1:9"\npercent = 100\n')
    async with keyed_gateway(store_server.url, tmp_path, orders, GATEWAY_CONFIG=toml) as gateway:
        first, again = [await order(gateway, KEY, token) for _ in range(2)]
    assert (first.status, again.header("idempotent-replayed")) == (201, "true")
    assert len(orders.seen) == 1


async def test_an_effect_follows_the_first_answer_only(
    store_server: EmbeddedStore, tmp_path: Path, orders: Orders, token: bytes, redis_cli: redis.Redis
) -> None:
    toml = configured(
        tmp_path,
        f'[[routes]]\npattern = "{PATH}"\nservice = "orders"\neffect = "subscription-changed"\n',
    )
    changed = f"tenant:{TENANT}:subscription_changed_at"
    async with keyed_gateway(store_server.url, tmp_path, orders, GATEWAY_CONFIG=toml) as gateway:
        assert (await order(gateway, KEY, token)).status == 201
        # Its token is stale by that; what would make it so once more is looked for.
        assert redis_cli.getdel(changed) is not None
        async with asyncio.timeout(10):
            while (reply := await order(gateway, KEY, token)).status == 401:
                await asyncio.sleep(0.01)
    assert (reply.status, reply.header("idempotent-replayed")) == (201, "true")
    assert redis_cli.get(changed) is None


async def test_a_body_whose_length_is_not_told_is_read_and_sent_whole(
    store_server: EmbeddedStore, tmp_path: Path, orders: Orders, token: bytes
) -> None:
    headers = {"idempotency-key": KEY}
    body = b"x" * 50_000
    async with keyed_gateway(store_server.url, tmp_path, orders) as gateway:
        for replayed in (None, "true"):
            reply = await gateway.ask("POST", PATH, token, body, headers=headers, http_version="2")
            assert (reply.status, reply.header("idempotent-replayed")) == (201, replayed)
        over = await gateway.ask(
            "POST", PATH, token, b"x" * (1 << 20) + b"x", headers=headers, http_version="2"
        )
        assert over.code == "body-too-large"
    (seen,) = orders.seen
    assert seen.endswith(b"\r\n\r\n" + body)
    assert b"content-length: 50000\r\n" in seen


async def test_metrics_tell_what_requests_with_keys_came_to(
    store_server: EmbeddedStore, tmp_path: Path, orders: Orders, token: bytes
) -> None:
    async with keyed_gateway(store_server.url, tmp_path, orders) as gateway:
        for _ in range(3):
            await order(gateway, KEY, token)
        await order(gateway, KEY, token, b"other")
        orders.breaks = 2
        await order(gateway, "2", token)
        await order(gateway, "2", token)
        text = (await metrics(gateway)).splitlines()
    results = {
        "first": 2,
        "replayed": 2,
        "mismatch": 1,
        "unknown": 1,
    }
    for result, count in results.items():
        assert f'gateway_idempotency_requests_total{{result="{result}"}} {count}.0' in text
    for outcome in ("done", "unknown"):
        assert f'gateway_idempotency_outcomes_total{{outcome="{outcome}"}} 1.0' in text
    assert "gateway_idempotency_under_way 0.0" in text


async def metrics(gateway: Local) -> str:
    return (await gateway.ask("GET", "/metrics")).body.decode()


async def test_what_was_written_after_an_attempt_that_was_not_may_have_been_done(
    store_server: EmbeddedStore, tmp_path: Path, orders: Orders, token: bytes
) -> None:
    """The canary refuses connections, the service breaks its answer off."""
    toml = configured(tmp_path, '[services.orders.canary]\nurl = "http://127.0.0.1:9"\npercent = 100\n')
    orders.answer = b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhal"
    orders.hang_up = True
    async with keyed_gateway(store_server.url, tmp_path, orders, GATEWAY_CONFIG=toml) as gateway:
        codes = [(await order(gateway, KEY, token)).code for _ in range(2)]
    assert codes == ["upstream-reset", "idempotency-outcome-unknown"]
    assert len(orders.seen) == 1
