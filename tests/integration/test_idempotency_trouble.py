"""Idempotency keys when things go wrong: whatever does, the service does not get a request twice."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from time import monotonic

import pytest
import redis

from kernel.server.embedded_store import EmbeddedStore
from kernel.store.idempotency import LEASE_SECONDS
from tests.support.inprocess import Local, Reply
from tests.support.orders import Orders, keyed_gateway, order, orders_service
from tests.support.store import RawServer, until
from tests.support.tokens import access_token

KEY = "8e03978e-40d5-43e8-bc93-6894a57f9324"
RECORDS = "gateway:idempotency:*"
# What a request may wait for the store, and what it takes at most then, on a machine whose processors others use.
PATIENCE = 0.3
BOUND = 1.5


@pytest.fixture
async def orders() -> AsyncIterator[Orders]:
    async with orders_service() as service:
        yield service


@pytest.fixture
async def gateway(store_server: EmbeddedStore, tmp_path: Path, orders: Orders) -> AsyncIterator[Local]:
    async with keyed_gateway(store_server.url, tmp_path, orders) as local:
        yield local


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RawServer]:
    server = RawServer(tmp_path / "store", "")
    try:
        yield server
    finally:
        server.signal(signal.SIGCONT)
        server.kill()


@pytest.fixture
async def on_server(server: RawServer, tmp_path: Path, orders: Orders) -> AsyncIterator[Local]:
    async with keyed_gateway(server.url, tmp_path, orders, patience=PATIENCE) as local:
        yield local


@pytest.fixture
def token() -> bytes:
    return access_token()


def records(store: redis.Redis) -> list[dict[str, str]]:
    """What is known of each key."""
    found = [store.hgetall(name) for name in store.scan_iter(RECORDS)]
    return [
        {name.decode(): value.decode("latin-1") for name, value in each.items()}  # type: ignore[union-attr]
        for each in found
    ]


@pytest.fixture
def store(store_server: EmbeddedStore) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(store_server.url) as client:
        yield client


def outcome(reply: Reply) -> tuple[int, str]:
    return reply.status, reply.code if reply.header("content-type") == "application/problem+json" else ""


async def again_until(gateway: Local, token: bytes, status: int, seconds: float = 10.0) -> Reply:
    """The first answer with `status` to the same request, sent again and again."""
    deadline = monotonic() + seconds
    while (reply := await order(gateway, KEY, token)).status != status:
        assert monotonic() < deadline, f"still {outcome(reply)}"
        await asyncio.sleep(0.02)
    return reply


# --- the service ---------------------------------------------------------------------------------------------------


async def test_a_service_that_cannot_be_reached_leaves_the_key_free(
    store_server: EmbeddedStore, tmp_path: Path, orders: Orders, token: bytes, store: redis.Redis
) -> None:
    nowhere = "http://127.0.0.1:9"
    async with keyed_gateway(store_server.url, tmp_path, orders, ORDERS_SERVICE_URL=nowhere) as gateway:
        # Until its circuit is open, too.
        codes = {outcome(await order(gateway, KEY, token)) for _ in range(30)}
        assert codes == {(502, "upstream-connect"), (503, "upstream-open")}
        # The last one's record may still be on its way out.
        await until(lambda: not records(store))
        (tmp_path / "b").mkdir()
        async with keyed_gateway(store_server.url, tmp_path / "b", orders) as other:
            assert (await order(other, KEY, token)).status == 201


async def test_a_refusal_of_the_gateway_s_own_leaves_the_key_free(
    gateway: Local, orders: Orders, token: bytes, store: redis.Redis
) -> None:
    assert (await order(gateway, KEY, b"x.y.z")).status == 401
    assert (await order(gateway, KEY, token, x_tenant_id="another")).status == 403
    assert not records(store)
    assert (await order(gateway, KEY, token)).status == 201


async def test_a_service_that_breaks_a_new_connection_may_have_done_it(
    gateway: Local, orders: Orders, token: bytes
) -> None:
    orders.breaks = 1
    assert outcome(await order(gateway, KEY, token)) == (502, "upstream-reset")
    for _ in range(2):
        assert outcome(await order(gateway, KEY, token)) == (409, "idempotency-outcome-unknown")
    assert outcome(await order(gateway, KEY, token, b"other")) == (422, "idempotency-mismatch")
    assert len(orders.seen) == 1


async def test_a_kept_connection_that_breaks_at_once_is_replaced_and_the_key_goes_along(
    gateway: Local, orders: Orders, token: bytes
) -> None:
    await order(gateway, "first", token)
    orders.breaks = 1
    reply = await order(gateway, KEY, token)
    assert (reply.status, reply.body) == (201, b'{"order": 3}')
    assert orders.seen[1] == orders.seen[2]
    assert KEY.encode() in orders.seen[2]
    assert (await order(gateway, KEY, token)).header("idempotent-replayed") == "true"


async def test_without_a_key_nothing_is_sent_again(gateway: Local, orders: Orders, token: bytes) -> None:
    await order(gateway, None, token)
    orders.breaks = 1
    assert outcome(await order(gateway, None, token)) == (502, "upstream-reset")
    assert len(orders.seen) == 2


async def test_a_request_that_was_written_and_then_found_nobody_may_have_been_done(
    gateway: Local, orders: Orders, token: bytes
) -> None:
    await order(gateway, "first", token)
    orders.gate.clear()
    orders.breaks = 1
    asked = asyncio.create_task(order(gateway, KEY, token))
    await until(lambda: len(orders.seen) == 2)
    assert orders.server is not None
    orders.server.stop_listening()  # its next attempt is refused
    orders.gate.set()
    assert (await asked).status == 502
    assert outcome(await order(gateway, KEY, token)) == (409, "idempotency-outcome-unknown")


async def test_a_service_that_does_not_answer_in_time_may_have_done_it(
    store_server: EmbeddedStore, tmp_path: Path, orders: Orders, token: bytes
) -> None:
    orders.gate.clear()
    async with keyed_gateway(store_server.url, tmp_path, orders, REQUEST_TIMEOUT_SECONDS="0.2") as gateway:
        assert outcome(await order(gateway, KEY, token)) == (504, "upstream-timeout")
        assert outcome(await order(gateway, KEY, token)) == (409, "idempotency-outcome-unknown")
    assert len(orders.seen) == 1


async def test_an_answer_that_breaks_off_is_a_problem_and_not_half_an_answer(
    gateway: Local, orders: Orders, token: bytes
) -> None:
    orders.answer = b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhal"
    orders.hang_up = True
    reply = await order(gateway, KEY, token)
    assert outcome(reply) == (502, "upstream-reset")
    assert outcome(await order(gateway, KEY, token)) == (409, "idempotency-outcome-unknown")
    assert len(orders.seen) == 1


# --- sizes ---------------------------------------------------------------------------------------------------------


async def test_a_body_over_the_bound_is_refused_and_goes_through_without_a_key(
    store_server: EmbeddedStore, tmp_path: Path, orders: Orders, token: bytes, store: redis.Redis
) -> None:
    async with keyed_gateway(
        store_server.url, tmp_path, orders, IDEMPOTENCY_MAX_BODY_BYTES="100KiB"
    ) as gateway:
        largest = b"x" * 100 * 1024
        for _ in range(2):
            assert (await order(gateway, "1", token, largest)).status == 201
        assert orders.seen[0].endswith(b"\r\n\r\n" + largest)
        too_large = await order(gateway, KEY, token, largest + b"x")
        assert outcome(too_large) == (413, "body-too-large")
        assert (await order(gateway, None, token, largest + b"x")).status == 201
        assert len(orders.seen) == 2
    assert len(records(store)) == 1


@pytest.mark.parametrize("size", [1000, 1001, 200_000])
async def test_of_an_answer_over_the_bound_is_kept_that_it_was_there(
    store_server: EmbeddedStore, tmp_path: Path, orders: Orders, token: bytes, size: int
) -> None:
    body = b"y" * size
    orders.answer = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (size, body)
    async with keyed_gateway(
        store_server.url, tmp_path, orders, IDEMPOTENCY_MAX_ANSWER_BYTES="1000"
    ) as gateway:
        first = await order(gateway, KEY, token)
        assert (first.status, first.body == body) == (200, True)
        again = await order(gateway, KEY, token)
    if size > 1000:
        assert outcome(again) == (409, "idempotency-answer-not-kept")
        assert "answered 200." in again.document["detail"]
    else:
        assert again.body == body
    assert len(orders.seen) == 1


async def test_a_stream_goes_through_as_it_comes_and_ends_with_its_client(
    gateway: Local, orders: Orders, token: bytes
) -> None:
    orders.answer = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: 1\n\n"
    gone = asyncio.Event()
    reply = Reply()
    asked = asyncio.create_task(order(gateway, KEY, token, gone=gone, into=reply))
    await until(lambda: reply.body == b"data: 1\n\n")
    assert outcome(await order(gateway, KEY, token)) == (409, "idempotency-answer-not-kept")
    assert orders.server is not None
    open_before = orders.server.open
    gone.set()
    await asked
    await until(lambda: orders.server is not None and orders.server.open == open_before - 1)
    assert len(orders.seen) == 1


# --- the client ----------------------------------------------------------------------------------------------------


async def test_a_client_that_leaves_finds_the_answer_when_it_comes_back(
    gateway: Local, orders: Orders, token: bytes
) -> None:
    orders.gate.clear()
    gone = asyncio.Event()
    asked = asyncio.create_task(order(gateway, KEY, token, gone=gone))
    await until(lambda: len(orders.seen) == 1)
    gone.set()
    # Nobody waits any more; the service is still asked.
    assert outcome(await order(gateway, KEY, token)) == (409, "idempotency-under-way")
    orders.gate.set()
    assert (await asked).status == 0
    again = await order(gateway, KEY, token)
    assert (again.status, again.header("idempotent-replayed")) == (201, "true")
    assert len(orders.seen) == 1


# --- the gateway ---------------------------------------------------------------------------------------------------


async def test_a_drain_that_ends_a_request_says_that_nobody_knows(
    gateway: Local, orders: Orders, token: bytes, store: redis.Redis
) -> None:
    orders.gate.clear()
    asked = asyncio.create_task(order(gateway, KEY, token))
    await until(lambda: len(orders.seen) == 1)
    asked.cancel()
    assert outcome(await asked) == (503, "draining")
    await until(lambda: [each["state"] for each in records(store)] == ["unknown"])
    assert outcome(await order(gateway, KEY, token)) == (409, "idempotency-outcome-unknown")
    assert len(orders.seen) == 1


async def test_a_record_lasts_while_the_service_takes_its_time(
    store_server: EmbeddedStore, tmp_path: Path, orders: Orders, token: bytes, store: redis.Redis
) -> None:
    """However short answers are kept."""
    orders.gate.clear()
    async with keyed_gateway(store_server.url, tmp_path, orders, IDEMPOTENCY_KEEP_SECONDS="1") as gateway:
        asked = asyncio.create_task(order(gateway, KEY, token))
        await until(lambda: len(orders.seen) == 1)
        (name,) = store.scan_iter(RECORDS)
        assert store.pttl(name) > LEASE_SECONDS * 1000 - 1000
        orders.gate.set()
        assert (await asked).status == 201
        assert 0 < store.pttl(name) <= 1000


async def test_a_lease_is_renewed_while_the_service_takes_its_time(
    gateway: Local, orders: Orders, token: bytes, store: redis.Redis
) -> None:
    orders.gate.clear()
    asked = asyncio.create_task(order(gateway, KEY, token))
    await until(lambda: len(orders.seen) == 1)
    (before,) = records(store)
    assert before["state"] == "sent"
    await until(lambda: records(store)[0]["lease"] > before["lease"], LEASE_SECONDS)
    # Another worker's loop stands still: nobody knows, until it renews or answers.
    (name,) = store.scan_iter(RECORDS)
    store.hset(name, "lease", "1")
    assert outcome(await order(gateway, KEY, token)) == (409, "idempotency-outcome-unknown")
    orders.gate.set()
    assert (await asked).status == 201
    assert (await order(gateway, KEY, token)).header("idempotent-replayed") == "true"


# --- the store -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["pause", pytest.param("stop", marks=pytest.mark.slow), "kill"])
async def test_nothing_is_sent_without_the_store(
    on_server: Local, server: RawServer, orders: Orders, token: bytes, how: str
) -> None:
    await order(on_server, "before", token)
    if how == "pause":
        server.call("CLIENT", "PAUSE", 1500, "WRITE")
    elif how == "stop":
        server.signal(signal.SIGSTOP)
    else:
        server.kill()
    for _ in range(5):
        began = monotonic()
        reply = await order(on_server, KEY, token)
        assert monotonic() - began < BOUND
        assert outcome(reply) == (503, "idempotency-unavailable")
        assert reply.header("retry-after") == "1"
    assert len(orders.seen) == 1
    # Without a key all is as ever.
    assert (await order(on_server, None, token)).status == 201
    server.signal(signal.SIGCONT)
    if how == "kill":
        server.start()
    assert (await again_until(on_server, token, 201)).header("idempotent-replayed") is None
    assert len(orders.seen) == 3


async def test_an_answer_is_told_to_a_store_that_comes_back(
    tmp_path: Path, orders: Orders, token: bytes
) -> None:
    server = RawServer(tmp_path / "lasting", "appendonly yes\nappendfsync always")
    try:
        async with keyed_gateway(server.url, tmp_path, orders, patience=PATIENCE) as gateway:
            orders.gate.clear()
            asked = asyncio.create_task(order(gateway, KEY, token))
            await until(lambda: len(orders.seen) == 1)
            server.kill()
            orders.gate.set()
            began = monotonic()
            assert (await asked).status == 201
            assert monotonic() - began < BOUND
            assert outcome(await order(gateway, KEY, token)) == (503, "idempotency-unavailable")
            server.start()
            again = await again_until(gateway, token, 201)
        assert (again.body, again.header("idempotent-replayed")) == (b'{"order": 1}', "true")
        assert len(orders.seen) == 1
    finally:
        server.kill()


async def test_a_store_that_has_lost_its_data_is_told_what_is_under_way(
    on_server: Local, server: RawServer, orders: Orders, token: bytes
) -> None:
    orders.gate.clear()
    asked = asyncio.create_task(order(on_server, KEY, token))
    await until(lambda: len(orders.seen) == 1)
    server.kill()
    server.start()
    await until(lambda: on_server.state.store.connected and bool(server.client.keys(RECORDS)))
    assert outcome(await order(on_server, KEY, token)) == (409, "idempotency-under-way")
    orders.gate.set()
    assert (await asked).status == 201
    assert (await order(on_server, KEY, token)).header("idempotent-replayed") == "true"
    assert len(orders.seen) == 1


async def test_a_full_store_is_one_that_cannot_say(
    on_server: Local, server: RawServer, orders: Orders, token: bytes
) -> None:
    server.call("CONFIG", "SET", "maxmemory", "1")
    assert outcome(await order(on_server, KEY, token)) == (503, "idempotency-unavailable")
    assert not orders.seen


async def test_keys_go_to_their_nodes_in_a_cluster(
    cluster: list[RawServer], tmp_path: Path, orders: Orders, token: bytes
) -> None:
    url = f"redis+cluster://127.0.0.1:{cluster[0].port}"
    async with keyed_gateway(url, tmp_path, orders) as gateway:
        for _ in range(2):
            for number in range(16):
                assert (await order(gateway, f"cluster-{number}", token)).status == 201
    assert len(orders.seen) == 16
    assert all(node.client.keys(RECORDS) for node in cluster)
