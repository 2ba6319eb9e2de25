"""What is known of tenants and for how long, with a clock that passes by hand and a real store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest

from kernel.http.problems import UPSTREAM_TIMEOUT, GatewayError
from kernel.identity.stamp import Stamp
from kernel.server.embedded_store import EmbeddedStore
from kernel.store.errors import StoreError
from kernel.store.keys import subscription_changed_at, tenant_ancestors
from kernel.store.redis import Store
from kernel.store.tracked import TrackedMap
from kernel.tenancy.tenants import Tenants
from kernel.upstream.client import Answer
from tests.support.store import until
from tests.support.tokens import SECRET


class TenantService:
    """Stands in for the client: counts, and answers what a test says."""

    def __init__(self) -> None:
        self.ancestors: list[str] | None = ["group"]
        self.garbage: bytes | None = None
        self.down = False
        self.calls = 0

    async def call(self, service: str, method: str, target: str, body: bytes | None = None) -> Answer:
        self.calls += 1
        await asyncio.sleep(0)
        if self.down:
            raise GatewayError(UPSTREAM_TIMEOUT())
        if self.ancestors is None:
            return Answer(404, b"{}")
        return Answer(200, self.garbage or msgspec.json.encode({"ancestors": self.ancestors}))


STAMP = Stamp([SECRET])


class World:
    """A worker's `Tenants`, its clock, and those of another worker on the same store."""

    def __init__(self, store: Store) -> None:
        self.now = 1_000_000.0
        self.store = store
        self.tracked = TrackedMap(store)
        self.service = TenantService()
        self.tenants = self.worker()

    def worker(self) -> Tenants:
        client: Any = self.service
        return Tenants(self.store, self.tracked, client, STAMP, clock=lambda: self.now)

    async def parent(self, tenant: str = "outlet", *, worker: Tenants | None = None) -> str | None:
        found = (worker or self.tenants).parent(tenant, {"group", "region"})
        return found if found is None or isinstance(found, str) else await found

    def at_once(self, tenant: str = "outlet") -> bool:
        """Whether the answer comes without waiting."""
        found = self.tenants.parent(tenant, {"group"})
        if found is None or isinstance(found, str):
            return True
        assert asyncio.iscoroutine(found)
        found.close()
        return False


@pytest.fixture
async def world(store_server: EmbeddedStore) -> AsyncIterator[World]:
    store = Store(store_server.url)
    await store.start()
    world = World(store)
    yield world
    await world.tenants.close()
    await store.close()


async def test_the_nearest_of_those_asked_for_is_found(world: World) -> None:
    world.service.ancestors = ["shop-floor", "region", "group"]
    assert await world.parent() == "region"


async def test_an_answer_is_at_hand_for_half_a_minute(world: World) -> None:
    assert await world.parent() == "group"
    assert world.at_once()
    world.now += 29
    assert world.at_once()
    world.now += 2
    assert not world.at_once()
    assert await world.parent() == "group"
    assert world.service.calls == 1, "the store still knew"


async def test_an_answer_is_used_for_five_minutes_in_all(world: World) -> None:
    await world.parent()
    world.now += 290
    other = world.worker()
    assert await world.parent(worker=other) == "group"
    assert world.service.calls == 1
    # Half a minute on, the other worker's copy would be older than five minutes.
    world.now += 11
    world.service.ancestors = []
    assert await world.parent(worker=other) is None
    assert world.service.calls == 2


async def test_a_denial_is_asked_again_after_ten_seconds(world: World) -> None:
    world.service.ancestors = ["stranger"]
    assert await world.parent() is None
    world.now += 9
    assert world.at_once()
    world.now += 2
    world.service.ancestors = ["group"]
    assert await world.parent() == "group"
    assert world.service.calls == 2


async def test_what_the_store_says_of_the_future_is_not_believed(world: World) -> None:
    record = msgspec.json.encode({"at": world.now + 60, "ancestors": ["group"]})
    name = tenant_ancestors("outlet")
    await world.store.execute("SET", name, STAMP.put(name, record))
    world.service.ancestors = []
    assert await world.parent() is None


@pytest.mark.parametrize(
    "stamped", [lambda record: record, lambda record: STAMP.put(tenant_ancestors("other"), record),
                lambda record: Stamp(["another platform's secret"]).put(tenant_ancestors("outlet"), record)],
    ids=["by hand", "another tenant's", "another platform's"],
)  # fmt: skip
async def test_what_no_gateway_wrote_of_this_tenant_is_not_believed(
    world: World, stamped: Callable[[bytes], bytes]
) -> None:
    record = msgspec.json.encode({"at": world.now, "ancestors": ["group"]})
    await world.store.execute("SET", tenant_ancestors("outlet"), stamped(record))
    world.service.ancestors = []
    assert await world.parent() is None
    assert world.service.calls == 1


async def test_without_a_secret_each_worker_asks_for_itself(world: World) -> None:
    client: Any = world.service
    for _ in range(2):
        tenants = Tenants(world.store, world.tracked, client, None, clock=lambda: world.now)
        assert await world.parent(worker=tenants) == "group"
    assert world.service.calls == 2
    assert await world.store.execute("GET", tenant_ancestors("outlet")) is None


async def test_without_the_store_the_service_is_asked(world: World) -> None:
    await world.store.close()
    assert await world.parent() == "group"
    assert world.at_once()


@pytest.mark.parametrize("garbage", [b"{", b'{"ancestors":["\xff"]}', b'{"a":' + b"[" * 100_000])
async def test_what_cannot_be_read_denies_and_in_the_store_is_not_believed(
    world: World, garbage: bytes
) -> None:
    await world.store.execute("SET", tenant_ancestors("outlet"), garbage)
    assert await world.parent() == "group"
    world.service.garbage = garbage
    with pytest.raises(GatewayError) as refused:
        await world.parent("other")
    assert refused.value.problem.kind.code == "tenant-unavailable"


async def test_an_outage_is_not_remembered_and_an_old_answer_not_prolonged(world: World) -> None:
    world.service.down = True
    with pytest.raises(GatewayError) as refused:
        await world.parent()
    assert refused.value.problem.kind.code == "tenant-unavailable"
    world.service.down = False
    assert await world.parent() == "group"
    world.now += 301
    world.service.down = True
    with pytest.raises(GatewayError):
        await world.parent()


async def test_an_unknown_tenant_is_remembered_for_ten_seconds(world: World) -> None:
    world.service.ancestors = None
    assert await world.parent() is None
    assert int(await world.store.execute("TTL", tenant_ancestors("outlet"))) <= 10
    assert await world.parent() is None
    assert world.service.calls == 1


async def test_memory_is_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kernel.tenancy.tenants._MAX_PLACES", 8)
    for number in range(20):
        await world.parent(f"outlet-{number}")
    assert len(world.tenants._places) == 8
    assert world.at_once("outlet-19")
    assert not world.at_once("outlet-0")


async def test_a_change_is_marked_with_its_fraction(world: World) -> None:
    world.now = 1_764_000_000.123456
    assert await world.tenants.mark_changed("t") == world.now
    stored = await world.store.execute("GET", subscription_changed_at("t"))
    assert float(stored) == world.now


async def test_a_change_that_the_store_missed_is_marked_when_it_is_back(mortal_store: EmbeddedStore) -> None:
    store = Store(mortal_store.url, probe=0.02)
    await store.start()
    world = World(store)
    mortal_store.kill()
    assert not await world.tenants.note_changed("t")
    # This worker goes by it already.
    assert world.tracked.held([subscription_changed_at("t")]) == [repr(world.now)]
    with pytest.raises(StoreError):
        await world.tenants.mark_changed("u")
    with pytest.raises(StoreError):
        await world.tenants.mark_changed("t")
    # What could not be told a second time has not been told a first time by that.
    assert world.tracked.held([subscription_changed_at("t")]) == [repr(world.now)]
    moment = world.now
    world.now += 100
    mortal_store.start()
    await until(lambda: store.connected and not world.tenants._unmarked)
    async with asyncio.timeout(5):
        while await store.execute("GET", subscription_changed_at("t")) is None:
            await asyncio.sleep(0.01)
    # The moment of the change, not that of the store's return.
    assert float(await store.execute("GET", subscription_changed_at("t"))) == moment
    assert await store.execute("GET", subscription_changed_at("u")) is None
    assert world.tracked.held([subscription_changed_at("t")]) == [None]
    await store.close()


async def test_a_clock_that_is_set_back_makes_no_answer_last_longer(world: World) -> None:
    assert await world.parent() == "group"
    world.service.ancestors = ["stranger"]
    assert await world.parent("other") is None
    world.now -= 3600
    # Neither the admission nor the denial is of use now.
    world.service.ancestors = ["region"]
    assert await world.parent() == "region"
    assert await world.parent("other") == "region"


async def test_the_latest_change_counts_whoever_comes_last_to_tell_of_it(world: World) -> None:
    key = subscription_changed_at("t")
    early, late = world.worker(), world.worker()
    early._unmarked["t"], late._unmarked["t"] = 1000.0, 1060.0
    late._mark_again(True)
    await until(lambda: not late._unmarked)
    early._mark_again(True)
    await world.store.execute("PING")
    assert await world.store.execute("GET", key) == b"1060.0"
    await world.store.execute("SET", key, "2026-01-01T00:00:00Z")
    early._unmarked["t"] = 1000.0
    early._mark_again(True)
    await world.store.execute("PING")
    assert await world.store.execute("GET", key) == b"2026-01-01T00:00:00Z"
    # A change of this moment replaces it, and what only a wrong clock can have written.
    await world.tenants.mark_changed("t")
    assert float(await world.store.execute("GET", key)) == world.now
    await world.store.execute("SET", key, "99999999999")
    assert await world.tenants.note_changed("t")
    assert float(await world.store.execute("GET", key)) == world.now


@pytest.mark.parametrize("told", ["mark_changed", "note_changed"])
async def test_a_change_that_the_store_has_taken_ends_the_wait_of_an_earlier_one(
    world: World, told: str
) -> None:
    key = subscription_changed_at("t")
    world.tenants._unmarked["t"] = world.now - 5
    world.tracked.pin(key, repr(world.now - 5))
    await getattr(world.tenants, told)("t")
    assert not world.tenants._unmarked
    assert await world.tracked.fetch([key]) == [repr(world.now)]
