"""Alerts are recorded soon and in order, and none is lost while a worker lives that heard it, whatever happens to
subscriptions and workers."""

from __future__ import annotations

import asyncio
import json
import random
import threading
from collections.abc import AsyncIterator

import pytest
import redis

from kernel.server.embedded_store import EmbeddedStore
from kernel.store.alertlog import OLDEST, AlertLog, Position
from kernel.store.redis import Store
from tests.support.alerts import Fleet
from tests.support.store import until

# What is promised, and what a busy machine may add to it.
SOON = 0.1
SLACK = 0.4


@pytest.fixture
async def fleet(store_server: EmbeddedStore, redis_cli: redis.Redis) -> AsyncIterator[Fleet]:
    fleet = Fleet(store_server.url, redis_cli)
    for _ in range(3):
        await fleet.start()
    await asyncio.sleep(0.1)  # they are no newcomers any more
    try:
        yield fleet
    finally:
        await fleet.close()


async def test_what_the_leader_missed_is_recorded_in_time_and_in_its_place(fleet: Fleet) -> None:
    leader = await fleet.leader()
    await leader._subscription.close()
    fleet.publish("missed")
    await leader._subscription.start()
    for number in range(30):
        fleet.publish(f"a{number}")
        await asyncio.sleep(0.02)
    await until(lambda: len(fleet.kept()) == len(fleet.published["t"]))
    assert list(fleet.kept()) == list(fleet.published["t"])
    assert fleet.latency("missed") < SOON + SLACK


async def test_what_was_passed_over_is_recorded_at_once(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    leader = await fleet.leader()
    # Whoever waits for a deadline waits for ever.
    for worker in fleet.workers:
        worker._recorder._hold = 3600.0
    hear = leader._subscription._hear

    def hard_of_hearing(channel: bytes, data: bytes) -> None:
        if b'"missed"' not in data:
            hear(channel, data)

    monkeypatch.setattr(leader._subscription, "_hear", hard_of_hearing)
    fleet.publish("missed")
    await asyncio.sleep(0.01)
    assert "missed" not in fleet.kept()
    fleet.publish("next")
    await until(lambda: "missed" in fleet.kept())
    assert list(fleet.kept()) == ["first", "next", "missed"]


async def test_nobodys_progress_moves_a_deadline(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    leader = await fleet.leader()
    hear = leader._subscription._hear
    monkeypatch.setattr(
        leader._subscription, "_hear", lambda channel, data: b'"m' in data or hear(channel, data)
    )
    for number in range(100):
        fleet.publish(f"{'m' if number % 4 == 1 else 'a'}{number}")
        await asyncio.sleep(0.01)
    await until(lambda: len(fleet.kept()) == 101)
    for name in fleet.published["t"]:
        assert fleet.latency(name) < SOON + SLACK, name


async def test_a_newcomer_waits_for_what_it_did_not_hear(fleet: Fleet) -> None:
    leader = await fleet.leader()
    for _ in range(5):
        await fleet.kill(leader)
        # Nobody leads; whoever heard this one waits for its deadline.
        fleet.publish(f"before-{len(fleet.heard)}")
        newcomer = await fleet.start()
        fleet.publish(f"after-{len(fleet.heard)}")
        leader = await fleet.leader()
        assert list(fleet.kept()) == list(fleet.published["t"])
        assert newcomer in fleet.workers


async def test_who_hears_that_another_joins_records_what_it_holds(fleet: Fleet) -> None:
    leader = await fleet.leader()
    await fleet.kill(leader)
    for worker in fleet.workers:
        worker._recorder._hold = 3600.0
    fleet.publish("held")
    await asyncio.sleep(0.01)
    assert "held" not in fleet.kept()
    await fleet.start()
    await until(lambda: "held" in fleet.kept())


async def test_newcomers_go_by_who_came_first(fleet: Fleet) -> None:
    """All at once, as after a failover of the store, and nobody who heard all."""
    for turn in range(12):
        await asyncio.gather(*(each._subscription.close() for each in fleet.workers))
        began, over = threading.Event(), threading.Event()

        def publish(turn: int = turn, began: threading.Event = began, over: threading.Event = over) -> None:
            with redis.Redis.from_url(fleet.url) as client:
                for number in range(2000):
                    if over.is_set():
                        break
                    client.publish("alerts:tenant:t", json.dumps({"alert_id": f"{turn:02}-{number:04}"}))
                    began.set()

        publishing = asyncio.get_running_loop().run_in_executor(None, publish)
        await until(began.is_set)
        await asyncio.gather(*(each._subscription.start() for each in fleet.workers))
        await asyncio.sleep(0.005)
        over.set()
        await publishing
        await until(lambda: not any(each._recorder._held for each in fleet.workers))
    kept = list(fleet.kept())
    assert kept == sorted(kept)
    assert kept


async def test_the_last_that_heard_an_alert_records_it(fleet: Fleet) -> None:
    leader = await fleet.leader()
    others = [each for each in fleet.workers if each is not leader]
    await fleet.kill(leader)
    await others[0]._subscription.close()
    fleet.publish("heard by one")
    await until(lambda: ("t", "heard by one") in fleet.heard[others[1]])
    await fleet.stop(others[1])
    assert list(fleet.kept()) == ["first", "heard by one"]


@pytest.mark.parametrize("seed", range(6))
async def test_whatever_happens_none_is_lost_late_double_or_out_of_order(fleet: Fleet, seed: int) -> None:
    chance = random.Random(seed)
    count = 0
    lost: set[tuple[str, str]] = set()
    for _ in range(25):
        for _ in range(chance.randint(0, 6)):
            fleet.publish(f"a{count}", chance.choice("tu"))
            count += 1
            await asyncio.sleep(chance.random() * 0.015)
        worker = chance.choice(fleet.workers)
        match chance.choice(["cut", "cut", "kill", "stop", "start", "store", "none"]):
            case "cut":
                # It hears nothing for a while, in which others may publish.
                await worker._subscription.close()
                fleet.publish(f"a{count}")
                count += 1
                await asyncio.sleep(chance.random() * 0.03)
                await worker._subscription.start()
            case "kill" if len(fleet.workers) > 2:
                # What nobody else heard may be lost with it.
                others = set().union(*(fleet.heard[each] for each in fleet.workers if each is not worker))
                lost |= fleet.heard[worker] - others
                await fleet.kill(worker)
            case "stop" if len(fleet.workers) > 2:
                await fleet.stop(worker)
            case "start" if len(fleet.workers) < 5:
                await fleet.start()
            case "store":
                # Whoever alone heard an alert and cannot reach the store keeps no order: first all have heard all.
                await asyncio.sleep(0.1)
                # All commands' connections; redis-py's own is one of them, too.
                fleet.cli.client_kill_filter(_type="normal", skipme=True)
    heard = set().union(*fleet.heard.values())

    def missing() -> list[tuple[str, str]]:
        kept = {(tenant, name) for tenant in "tu" for name in fleet.kept(tenant)}
        return sorted(heard - lost - kept)

    await until(lambda: not missing() and not any(each._recorder._held for each in fleet.workers))
    for tenant in "tu":
        kept = list(fleet.kept(tenant))
        published = fleet.published[tenant]
        assert kept == [name for name in published if name in set(kept)]
        late = {
            name: fleet.latency(name, tenant) for name in kept if fleet.latency(name, tenant) > SOON + SLACK
        }
        assert not late
    assert count > 50


async def test_who_knows_the_newest_that_is_gone_has_missed_nothing(
    store_server: EmbeddedStore, redis_cli: redis.Redis
) -> None:
    store = Store(store_server.url)
    await store.start()

    async def positions(log: AlertLog, *names: str) -> list[Position]:
        ends = []
        for name in names:
            await log.record("t", [(name, name.encode())])
            ends.append((await log.read("t", None, 10)).position)
        return ends

    async def follows(log: AlertLog, known: Position) -> tuple[str, list[bytes]]:
        page = await log.read("t", known, 10)
        return page.verdict, [raw for _, raw in page.entries]

    # By number: a call that records several has several trimmed.
    log = AlertLog(store, "w", most=3, retention=60)
    a, b, c = await positions(log, "a", "b", "c")
    await log.record("t", [("d", b"d"), ("e", b"e")])
    assert await follows(log, a) == ("too-old", [b"c", b"d", b"e"])
    assert await follows(log, b) == ("ok", [b"c", b"d", b"e"])
    assert await follows(log, c) == ("ok", [b"d", b"e"])
    # By age.
    redis_cli.flushall()
    log = AlertLog(store, "w", most=10, retention=0.3)
    a, b = await positions(log, "a", "b")
    await asyncio.sleep(0.2)
    (c,) = await positions(log, "c")
    await asyncio.sleep(0.15)
    await positions(log, "d")
    assert await follows(log, a) == ("too-old", [b"c", b"d"])
    assert await follows(log, b) == ("ok", [b"c", b"d"])
    assert await follows(log, OLDEST) == ("ok", [b"c", b"d"])
    await store.close()
