"""How long a demo session's identity may be used, with a clock that passes by hand."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
import redis

from kernel.http.problems import Problem
from kernel.identity.claims import Claims
from kernel.identity.identity import Identity, access_identity
from kernel.server.embedded_store import EmbeddedStore
from kernel.store.keys import tenant_demo
from kernel.store.redis import Store
from kernel.tenancy.demo_sessions import DemoSessions, Found
from kernel.upstream.client import Answer
from tests.support.store import until


class DemoService:
    """Stands in for the client."""

    def __init__(self) -> None:
        self.ends = 0.0
        self.status = 200
        self.garbage: bytes | None = None
        self.tier = "professional"
        self.calls = 0

    async def call(self, service: str, method: str, target: str) -> Answer:
        self.calls += 1
        document = {
            "session_id": target.rpartition("/")[2],
            "account_type": "enterprise",
            "virtual_tenant_id": "virtual",
            "status": "active",
            "expires_at": datetime.fromtimestamp(self.ends, UTC).isoformat(),
            "subscription": {"tier": self.tier, "status": "active"},
        }
        return Answer(self.status, self.garbage or msgspec.json.encode(document))


class World:
    """A worker's sessions and its clock."""

    def __init__(self, store: Store) -> None:
        self.now = 1_900_000_000.0
        self.service = DemoService()
        self.service.ends = self.now + 600
        client: Any = self.service
        self.sessions = DemoSessions(store, client, clock=lambda: self.now)

    async def find(self, session: str = "s") -> Found:
        found = self.sessions.find(session)
        return found if isinstance(found, Identity | Problem) else await found

    async def confine(self, identity: Identity, session: str = "s") -> Found:
        found = self.sessions.confine(identity, session)
        return found if isinstance(found, Identity | Problem) else await found

    def token(self, lasts: float) -> Identity:
        claims = Claims(exp=self.now + lasts, iat=self.now, iss="i", tenant_id="virtual", is_demo=True)
        return access_identity(claims, "u", "key")


@pytest.fixture
async def world(store_server: EmbeddedStore) -> AsyncIterator[World]:
    store = Store(store_server.url)
    await store.start()
    world = World(store)
    yield world
    await world.sessions.close()
    await store.close()


def code(found: Found) -> str:
    return found.kind.code if isinstance(found, Problem) else ""


async def test_a_session_is_asked_about_twice_a_minute(world: World) -> None:
    first = await world.find()
    world.now += 29
    assert await world.find() is first
    world.now += 2
    world.service.tier = "enterprise"
    second = await world.find()
    assert isinstance(second, Identity)
    assert second.tier == "enterprise"
    assert world.service.calls == 2


async def test_a_session_is_never_used_past_its_end(world: World) -> None:
    world.service.ends = world.now + 5
    found = await world.find()
    assert isinstance(found, Identity)
    assert found.exp == world.service.ends
    world.now += 5
    assert code(await world.find()) == "demo-session-expired"
    assert world.service.calls == 1


async def test_a_refusal_is_remembered_for_two_seconds(world: World) -> None:
    world.service.status = 404
    for _ in range(3):
        assert code(await world.find()) == "demo-session-invalid"
    assert world.service.calls == 1
    world.service.status = 200
    world.now += 3
    assert code(await world.find()) == ""


@pytest.mark.parametrize("garbage", [b"{", b'{"session_id":"\xff"}', b'{"a":' + b"[" * 100_000])
async def test_an_answer_that_cannot_be_read_is_an_outage(world: World, garbage: bytes) -> None:
    world.service.garbage = garbage
    assert code(await world.find()) == "demo-unavailable"


async def test_an_outage_is_not_remembered_and_ends_what_is_not_fresh(world: World) -> None:
    await world.find()
    world.service.status = 500
    world.now += 31
    assert code(await world.find()) == "demo-unavailable"
    world.service.status = 200
    assert code(await world.find()) == ""


async def test_a_confined_token_ends_with_whichever_ends_first(world: World) -> None:
    for lasts, exp in ((60.0, world.now + 60), (6000.0, world.service.ends)):
        confined = await world.confine(world.token(lasts))
        assert isinstance(confined, Identity)
        assert confined.exp == exp
        assert (confined.demo_session_id, confined.demo_account_type) == ("s", "enterprise")


async def test_a_confined_token_is_made_once_for_what_is_known_of_its_session(world: World) -> None:
    token = world.token(6000)
    first = await world.confine(token)
    assert await world.confine(token) is first
    world.now += 31
    world.service.ends += 600
    second = await world.confine(token)
    assert isinstance(second, Identity)
    assert second.exp == world.service.ends


async def test_memory_is_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kernel.tenancy.demo_sessions._MAX_SESSIONS", 8)
    for number in range(20):
        await world.find(f"s{number}")
    assert len(world.sessions._known) == 8


async def test_without_the_store_a_session_still_opens(world: World) -> None:
    await world.sessions._store.close()
    assert code(await world.find()) == ""


async def test_a_clock_that_is_set_back_makes_no_answer_last_longer(world: World) -> None:
    await world.find()
    world.now -= 3600
    await world.find()
    assert world.service.calls == 2


async def test_a_store_that_lost_its_marks_is_told_them_a_few_at_a_time(
    world: World, redis_cli: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions = world.sessions
    sessions._marks = {f"t{number}": ("s", time.time() + 600) for number in range(1000)}
    world.now = time.time()
    sessions._marks["over"] = ("s", world.now - 1)
    write = sessions._write
    most = under_way = 0

    def counted(tenant: str, session: str, expires: float) -> asyncio.Future[Any]:
        nonlocal most, under_way
        under_way += 1
        most = max(most, under_way)

        def landed(_reply: object) -> None:
            nonlocal under_way
            under_way -= 1

        reply = write(tenant, session, expires)
        reply.add_done_callback(landed)
        return reply

    monkeypatch.setattr(sessions, "_write", counted)
    sessions.mark_again()
    sessions.mark_again()
    await until(lambda: sessions._telling is None)
    assert len(redis_cli.keys("tenant:t*:demo")) == 1000
    assert not redis_cli.exists(tenant_demo("over"))
    assert most == 64
    # Lost again meanwhile, it is told when it is back.
    sessions.mark_again()
    await asyncio.sleep(0)
    await sessions._store.close()
    await until(lambda: sessions._telling is None)
    # An end does not wait for it.
    sessions._telling = asyncio.create_task(asyncio.sleep(3600))
    await sessions.close()
    assert sessions._telling.cancelled()
