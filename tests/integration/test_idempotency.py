"""Idempotency keys: the service sees one request, and every other one is told what became of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import redis

from kernel.server.embedded_store import EmbeddedStore
from tests.support.inprocess import Local, Reply, local_gateway
from tests.support.orders import PATH, Orders, keyed_gateway, order, orders_service
from tests.support.store import until
from tests.support.tokens import OTHER_TENANT, access_token

KEY = "8e03978e-40d5-43e8-bc93-6894a57f9324"
RECORDS = "gateway:idempotency:*"


@pytest.fixture
async def orders() -> AsyncIterator[Orders]:
    async with orders_service() as service:
        yield service


@pytest.fixture
async def gateway(store_server: EmbeddedStore, tmp_path: Path, orders: Orders) -> AsyncIterator[Local]:
    async with keyed_gateway(store_server.url, tmp_path, orders) as local:
        yield local


@pytest.fixture
def token() -> bytes:
    return access_token()


@pytest.fixture
def store(store_server: EmbeddedStore) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(store_server.url) as client:
        yield client


def record(store: redis.Redis) -> str:
    """The name of the only one."""
    (name,) = store.scan_iter(RECORDS)
    return str(name.decode())


def of_the_service(reply: Reply) -> list[tuple[str, str]]:
    """The headers of the answer that are the service's."""
    names = {"content-type", "location", "set-cookie", "content-length"}
    return [pair for pair in reply.headers if pair[0] in names]


async def test_of_fifty_at_once_at_two_gateways_the_service_sees_one(
    store_server: EmbeddedStore, tmp_path: Path, orders: Orders, token: bytes
) -> None:
    async with AsyncExitStack() as stack:
        gateways = []
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            gateways.append(
                await stack.enter_async_context(keyed_gateway(store_server.url, tmp_path / name, orders))
            )
        for attempt in range(10):
            key = f"{KEY}-{attempt}"
            replies = await fifty(gateways, orders, key, token)
            # On a crowded machine the store may not be heard of in time: that round says too little.
            if 503 not in [reply.status for reply in replies]:
                break
        assert f"\r\nidempotency-key: {key}\r\n".encode() in orders.seen[-1]
        assert sorted(reply.status for reply in replies) == [201] + [409] * 49
        conflicts = [reply for reply in replies if reply.status == 409]
        assert {reply.code for reply in conflicts} == {"idempotency-under-way"}
        assert {reply.header("retry-after") for reply in conflicts} == {"1"}
        (first,) = [reply for reply in replies if reply.status == 201]
        assert first.header("idempotent-replayed") is None
        seen = len(orders.seen)
        for gateway in gateways:
            again = await order(gateway, key, token)
            assert again.header("idempotent-replayed") == "true"
            assert (again.status, again.body) == (201, b'{"order": %d}' % seen)
            assert of_the_service(again) == of_the_service(first)
            assert again.header("x-request-id") != first.header("x-request-id")
            assert [name for name, _ in again.headers].count("x-ratelimit-remaining") == 1
    assert len(orders.seen) == seen


async def fifty(gateways: list[Local], orders: Orders, key: str, token: bytes) -> list[Reply]:
    """The answers to as many equal requests, of which the service sees one at most."""
    before = len(orders.seen)
    orders.gate.clear()
    asked = [asyncio.create_task(order(gateways[n % 2], key, token)) for n in range(50)]
    await until(lambda: sum(task.done() for task in asked) >= 49, 30)
    orders.gate.set()
    replies = await asyncio.gather(*asked)
    assert len(orders.seen) <= before + 1
    return replies


async def test_both_spellings_of_a_key_are_one_and_other_keys_are_others(
    gateway: Local, orders: Orders, token: bytes
) -> None:
    await order(gateway, KEY, token)
    quoted = await order(gateway, f'"{KEY}"', token)
    assert quoted.header("idempotent-replayed") == "true"
    other = await order(gateway, KEY[:-1] + "5", token)
    assert (other.status, other.body) == (201, b'{"order": 2}')


@pytest.mark.parametrize(
    ("change", "headers"),
    [
        ({"body": b'{"loaves": 4}'}, {}),
        ({"target": PATH + "?x=1"}, {}),
        ({"target": "/api/v1/orders/other"}, {}),
        ({"method": "PATCH"}, {}),
        ({}, {"content_type": "text/plain"}),
    ],
)
async def test_a_key_of_another_request_is_refused(
    gateway: Local, orders: Orders, token: bytes, change: dict[str, str], headers: dict[str, str]
) -> None:
    await order(gateway, KEY, token)
    reply = await order(gateway, KEY, token, **change, **headers)  # type: ignore[arg-type]
    assert (reply.status, reply.code) == (422, "idempotency-mismatch")
    assert len(orders.seen) == 1


async def test_whoever_has_the_same_key_has_another_record(
    gateway: Local, orders: Orders, token: bytes
) -> None:
    await order(gateway, "1", token)
    stranger = await order(gateway, "1", access_token(user_id="user-2"))
    elsewhere = await order(gateway, "1", token, x_tenant_id=OTHER_TENANT)
    assert [reply.header("idempotent-replayed") for reply in (stranger, elsewhere)] == [None, None]
    assert len(orders.seen) == 3
    # The same user with a new token, and the tenant in another spelling.
    again = await order(gateway, "1", access_token(jti="new"), x_tenant_id=OTHER_TENANT.upper())
    assert (again.header("idempotent-replayed"), again.body) == ("true", elsewhere.body)


async def test_policies_still_judge_whoever_asks_again(
    gateway: Local, orders: Orders, token: bytes, store: redis.Redis
) -> None:
    await order(gateway, KEY, token)
    store.set("platform:read_only", "maintenance")
    replies: list[Reply] = []

    async def refused() -> bool:
        replies.append(await order(gateway, KEY, token))
        return replies[-1].status == 403

    for _ in range(200):
        if await refused():
            break
        await asyncio.sleep(0.01)
    assert replies[-1].code == "platform-read-only"


@pytest.mark.parametrize("status", [b"200 OK", b"404 Not Found", b"500 Oops", b"503 Busy"])
async def test_whatever_the_service_answered_is_kept(
    gateway: Local, orders: Orders, token: bytes, status: bytes
) -> None:
    orders.answer = b"HTTP/1.1 %b\r\ncontent-length: 3\r\nretry-after: 7\r\n\r\nabc" % status
    first = await order(gateway, KEY, token)
    again = await order(gateway, KEY, token)
    assert first.status == again.status == int(status[:3])
    assert first.body == again.body == b"abc"
    assert (again.header("retry-after"), again.header("idempotent-replayed")) == ("7", "true")
    assert len(orders.seen) == 1


async def test_an_empty_answer_is_one_too(gateway: Local, orders: Orders, token: bytes) -> None:
    orders.answer = b'HTTP/1.1 204 No Content\r\netag: "x"\r\n\r\n'
    for replayed in (None, "true"):
        reply = await order(gateway, KEY, token, b"")
        assert (reply.status, reply.body, reply.header("etag")) == (204, b"", '"x"')
        assert reply.header("idempotent-replayed") == replayed
        assert reply.header("content-length") is None


async def test_an_answer_is_gone_when_it_was_kept_for_long_enough(
    store_server: EmbeddedStore, tmp_path: Path, orders: Orders, token: bytes, store: redis.Redis
) -> None:
    async with keyed_gateway(store_server.url, tmp_path, orders, IDEMPOTENCY_KEEP_SECONDS="3600") as gateway:
        await order(gateway, KEY, token)
        assert 3_500_000 < store.pttl(record(store)) <= 3_600_000
        store.pexpire(record(store), 1)
        await until(lambda: not store.exists(RECORDS) and not list(store.scan_iter(RECORDS)))
        again = await order(gateway, KEY, token)
    assert (again.body, again.header("idempotent-replayed")) == (b'{"order": 2}', None)


async def test_other_methods_and_requests_without_a_key_are_as_ever(
    gateway: Local, orders: Orders, token: bytes
) -> None:
    for method in ("PUT", "DELETE", "GET"):
        for _ in range(2):
            reply = await order(gateway, KEY, token, b"x" if method == "PUT" else b"", method=method)
            assert (reply.status, reply.header("idempotent-replayed")) == (201, None)
    for _ in range(2):
        assert (await order(gateway, None, token)).status == 201
    assert len(orders.seen) == 8


async def test_routes_that_demand_a_key_and_those_that_do_not_heed_it(
    store_server: EmbeddedStore, tmp_path: Path, orders: Orders, token: bytes
) -> None:
    toml = tmp_path / "gateway.toml"
    toml.write_text("""
        [services.orders]
        idempotency = "required"
        [[routes]]
        pattern = "/api/v1/orders/free"
        service = "orders"
        idempotency = "off"
    """)
    async with local_gateway(
        store_server.url,
        tmp_path,
        ORDERS_SERVICE_URL=orders.url,
        GATEWAY_CONFIG=str(toml),
        IDEMPOTENCY="true",
    ) as gateway:
        missing = await order(gateway, None, token)
        assert (missing.status, missing.code) == (400, "idempotency-key-required")
        assert (await order(gateway, None, token, method="PUT")).status == 201
        for _ in range(2):
            free = await order(gateway, KEY, token, target="/api/v1/orders/free")
            assert (free.status, free.header("idempotent-replayed")) == (201, None)
    assert len(orders.seen) == 3


@pytest.mark.parametrize("key", ["", '""', "a b", "\x7f", "ü", '"a', "k" * 256, '"a" b'])
async def test_a_malformed_key_is_refused(gateway: Local, orders: Orders, token: bytes, key: str) -> None:
    reply = await order(gateway, key, token)
    assert (reply.status, reply.code) == (400, "idempotency-key-invalid")
    assert not orders.seen


async def test_a_key_that_the_service_would_not_get_is_refused(gateway: Local, token: bytes) -> None:
    reply = await order(gateway, KEY, token, connection="Idempotency-Key")
    assert (reply.status, reply.code) == (400, "idempotency-key-invalid")


async def test_what_is_kept_cannot_be_read_in_the_store(
    gateway: Local, orders: Orders, token: bytes, store: redis.Redis
) -> None:
    orders.answer = b"HTTP/1.1 200 OK\r\nset-cookie: s=secret\r\ncontent-length: 11\r\n\r\nvery secret"
    await order(gateway, KEY, token)
    assert KEY not in record(store)
    assert "secret" not in repr(store.hgetall(record(store)))
    # Nor made up there: what no gateway sealed is no answer.
    store.hset(record(store), "value", b"forged")
    reply = await order(gateway, KEY, token)
    assert (reply.status, reply.code) == (409, "idempotency-outcome-unknown")
    assert len(orders.seen) == 1
