"""Server streaming through the real server: lines or events as they come, errors show, nothing piles up for a slow client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import redis

from kernel.server.embedded_store import EmbeddedStore
from tests.support.gateway import GatewayFactory, GatewayProcess, service_env, workers
from tests.support.grpc_service import Ovens, configured, ovens_service
from tests.support.store import until
from tests.support.tokens import SECRET, access_token, public_pem

WATCH = "/api/v1/ovens/7/readings:watch"
EVENTS = {"accept": "text/event-stream"}


@pytest.fixture
async def ovens() -> AsyncIterator[Ovens]:
    async with ovens_service() as service:
        yield service


@pytest.fixture
async def gateway(
    ovens: Ovens,
    gateway_factory: GatewayFactory,
    store_server: EmbeddedStore,
    redis_cli: redis.Redis,
    tmp_path: Path,
) -> AsyncIterator[GatewayProcess]:
    environment = {
        **service_env("http://127.0.0.1:9"),
        "REDIS_URL": store_server.url,
        "JWT_PUBLIC_KEY": public_pem(),
        "JWT_SECRET_KEY": SECRET,
        "IDLE_TIMEOUT_SECONDS": "3",
        "REQUEST_TIMEOUT_SECONDS": "3",
        **configured(tmp_path, ovens.url),
    }
    started = await asyncio.to_thread(gateway_factory, environment)
    yield started
    await asyncio.to_thread(started.stop)


@pytest.fixture
async def client(gateway: GatewayProcess) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"authorization": f"Bearer {access_token().decode()}"}
    async with httpx.AsyncClient(base_url=gateway.url, headers=headers, trust_env=False, timeout=20) as made:
        yield made


def loaded(pid: int) -> set[str]:
    """Which of the extra's libraries a process has loaded."""
    maps = Path(f"/proc/{pid}/maps").read_text()
    return {name for name in ("cygrpc", "_upb") if name in maps}


def test_without_such_a_service_nothing_of_it_is_loaded(
    gateway_factory: GatewayFactory, store_server: EmbeddedStore
) -> None:
    plain = gateway_factory({**service_env("http://127.0.0.1:9"), "REDIS_URL": store_server.url})
    (worker,) = workers(plain)
    assert loaded(worker) == loaded(plain.process.pid) == set()


async def test_streams(client: httpx.AsyncClient, ovens: Ovens, gateway: GatewayProcess) -> None:
    # One gateway for all: it takes a second to start.
    (worker,) = workers(gateway)
    assert loaded(worker) == {"cygrpc", "_upb"}
    # grpcio keeps threads, and must not be in what is forked.
    assert loaded(gateway.process.pid) == {"_upb"}
    await lines(client)
    await events(client)
    await nothing(client)
    await an_error_before_the_first_message(client)
    await an_error_midway(client)
    await a_torn_page(client)
    await the_first_message_has_a_deadline(client, ovens)
    await a_pause_has_an_end(client, ovens)
    await who_leaves_ends_the_call(client, ovens)
    await a_slow_client_slows_the_service(client, ovens)
    # Broken off, and not just left.
    await until(lambda: gateway.log().count('"problem":"grpc-data-loss"') == 3)
    assert "Traceback" not in gateway.log()
    assert "unhandled" not in gateway.log()


async def lines(client: httpx.AsyncClient) -> None:
    reply = await client.get(WATCH, params={"count": 3})
    assert (reply.status_code, reply.headers["content-type"]) == (200, "application/x-ndjson")
    assert reply.content == b'{"celsius":200.0}\n{"at":"1","celsius":201.0}\n{"at":"2","celsius":202.0}\n'


async def events(client: httpx.AsyncClient) -> None:
    reply = await client.get(WATCH, params={"count": 2}, headers=EVENTS)
    assert reply.headers["content-type"] == "text/event-stream"
    assert reply.text == (
        'data: {"celsius":200.0}\n\ndata: {"at":"1","celsius":201.0}\n\nevent: end\ndata: {}\n\n'
    )


async def nothing(client: httpx.AsyncClient) -> None:
    reply = await client.get(WATCH)
    assert (reply.status_code, reply.content) == (200, b"")


async def an_error_before_the_first_message(client: httpx.AsyncClient) -> None:
    reply = await client.get(WATCH, params={"behaviour": "status:NOT_FOUND"})
    assert (reply.status_code, reply.json()["code"]) == (404, "grpc-not-found")


async def broken_off(
    client: httpx.AsyncClient, headers: dict[str, str], path: str = WATCH, **params: str | int
) -> bytes:
    """What came of an answer that must not end cleanly."""
    taken = b""
    try:
        async with client.stream("GET", path, params=params, headers=headers) as reply:
            async for part in reply.aiter_bytes():
                taken += part
    except httpx.RemoteProtocolError:
        return taken
    raise AssertionError(f"it ended cleanly: {taken!r}")


async def an_error_midway(client: httpx.AsyncClient) -> None:
    for headers, begins in (({}, b'{"error":{'), (EVENTS, b"event: error\ndata: {")):
        taken = await broken_off(client, headers, count=2, behaviour="status:DATA_LOSS")
        _, begun, rest = taken.partition(begins)
        assert begun, taken
        assert b'"code":"grpc-data-loss"' in rest
        assert b"the thermometer is gone" in rest


async def the_first_message_has_a_deadline(client: httpx.AsyncClient, ovens: Ovens) -> None:
    ovens.cancelled = 0
    reply = await client.get(WATCH, params={"behaviour": "silent"})
    assert (reply.status_code, reply.json()["code"]) == (504, "upstream-timeout")
    await until(lambda: ovens.cancelled == 1)


async def a_pause_has_an_end(client: httpx.AsyncClient, ovens: Ovens) -> None:
    ovens.cancelled = 0
    taken = await broken_off(client, {}, count=1, behaviour="hang")
    assert b'"code":"upstream-timeout"' in taken
    await until(lambda: ovens.cancelled == 1)


async def who_leaves_ends_the_call(client: httpx.AsyncClient, ovens: Ovens) -> None:
    ovens.cancelled = 0
    async with client.stream("GET", WATCH, params={"count": 1, "behaviour": "hang"}) as reply:
        await anext(reply.aiter_bytes())
    await until(lambda: ovens.cancelled == 1)


async def a_slow_client_slows_the_service(client: httpx.AsyncClient, ovens: Ovens) -> None:
    """64 MiB are asked for, and no more is written than what sockets and windows hold on the way."""
    ovens.written = 0
    async with client.stream("GET", WATCH, params={"count": 1000, "size": 65536}) as reply:
        parts = reply.aiter_bytes()
        await anext(parts)
        before = -1
        while ovens.written != before:
            before = ovens.written
            await asyncio.sleep(0.5)
        assert 0 < before < 700
        size = 0
        async for part in parts:
            size += len(part)
    assert size > 60 * 1024 * 1024
    assert ovens.written == 1000


async def a_torn_page(client: httpx.AsyncClient) -> None:
    # Nothing is said in a body that is none of ours.
    assert await broken_off(client, {}, "/api/v1/ovens/pages/to/torn") == b"totorn"
