"""Who records what: one worker as a rule, another one soon when it is gone, each alert once, in order; and streams that
cannot keep up."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

import pytest
import redis

from kernel.alerts.client import Wants
from kernel.alerts.service import Alerts
from kernel.server.embedded_store import EmbeddedStore
from kernel.store.alertlog import OLDEST, AlertLog, Position
from kernel.store.redis import Store
from tests.support.alerts import Listener, alert_worker
from tests.support.store import until


@pytest.fixture
async def fleet(store_server: EmbeddedStore) -> AsyncIterator[list[Alerts]]:
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(alert_worker(store_server.url)) for _ in range(3)]


def publish(cli: redis.Redis, *names: str, tenant: str = "t", **more: object) -> None:
    for name in names:
        cli.publish(f"alerts:tenant:{tenant}", json.dumps({"alert_id": name, **more}))


def kept(cli: redis.Redis, tenant: str = "t") -> int:
    return int(cli.xlen(f"gateway:alerts:{{{tenant}}}"))


async def test_one_worker_does_the_work(fleet: list[Alerts], redis_cli: redis.Redis) -> None:
    publish(redis_cli, "first")
    await until(lambda: kept(redis_cli) == 1)
    redis_cli.config_resetstat()
    for number in range(50):
        publish(redis_cli, f"a{number}", tenant=f"t{number % 5}")
        # Each alert waits for no other.
        await until(lambda n=number: sum(kept(redis_cli, f"t{each}") for each in range(5)) == n + 1)  # type: ignore[misc]
    await until(lambda: sum(each.numbers.recorded for each in fleet) == 51)
    assert sorted(each.numbers.recorded for each in fleet)[-1] >= 50
    calls = redis_cli.info("commandstats")["cmdstat_evalsha"]["calls"]
    assert calls <= 60, "others record, too"


async def test_a_burst_is_recorded_in_few_calls_and_in_order(
    fleet: list[Alerts], redis_cli: redis.Redis
) -> None:
    names = [f"a{number}" for number in range(1000)]
    listener = Listener("t")
    await listener.open(fleet[1])
    publish(redis_cli, *names)
    await until(lambda: len(listener.alerts) == 1000)
    assert listener.alerts == names
    assert redis_cli.info("commandstats")["cmdstat_evalsha"]["calls"] < 500
    await listener.close()


async def test_when_the_recorder_is_gone_another_one_steps_in(
    fleet: list[Alerts], redis_cli: redis.Redis
) -> None:
    publish(redis_cli, "first")
    await until(lambda: any(each.numbers.recorded for each in fleet))
    recorder = next(each for each in fleet if each.numbers.recorded)
    others = [each for each in fleet if each is not recorder]
    listener = Listener("t")
    await listener.open(others[0])
    # It hears alerts and does nothing about them.
    recorder._recorder.offer = lambda alert: None  # type: ignore[method-assign]
    names = [f"a{number}" for number in range(20)]
    publish(redis_cli, *names)
    await until(lambda: listener.alerts == names)
    assert sum(each.numbers.recorded for each in others) == 20
    await listener.close()


async def test_republished_alerts_are_counted_once_in_the_fleet(
    fleet: list[Alerts], redis_cli: redis.Redis
) -> None:
    publish(redis_cli, "same")
    await until(lambda: kept(redis_cli) == 1)
    for _ in range(5):
        publish(redis_cli, "same")
        await asyncio.sleep(0.01)
    publish(redis_cli, "last")
    await until(lambda: kept(redis_cli) == 2)
    await until(lambda: not any(each._recorder._held for each in fleet))
    assert sum(each.numbers.duplicates for each in fleet) == 5
    assert sum(each.numbers.recorded for each in fleet) == 2


async def test_connections_to_the_store_that_break_lose_nothing(
    fleet: list[Alerts], redis_cli: redis.Redis
) -> None:
    names = [f"a{number}" for number in range(100)]
    listener = Listener("t")
    await listener.open(fleet[0])
    for start in range(0, 100, 10):
        publish(redis_cli, *names[start : start + 10])
        redis_cli.client_kill_filter(_type="normal", skipme=True)
    await until(lambda: len(listener.alerts) >= 100)
    assert listener.alerts == names
    assert listener.events == ["alert"] * 100
    await listener.close()


async def test_an_announcement_that_got_lost_is_noticed_at_the_next_one(
    fleet: list[Alerts], redis_cli: redis.Redis
) -> None:
    listener = Listener("t")
    await listener.open(fleet[0])
    hear = fleet[0]._subscription._hear
    deaf = False

    def sometimes(channel: bytes, data: bytes) -> None:
        if not deaf:
            hear(channel, data)

    fleet[0]._subscription._hear = sometimes
    publish(redis_cli, "a1")
    await until(lambda: listener.alerts == ["a1"])
    deaf = True
    publish(redis_cli, "a2", "a3")
    await until(lambda: kept(redis_cli) == 3)
    await asyncio.sleep(0.05)
    deaf = False
    assert listener.alerts == ["a1"]
    publish(redis_cli, "a4")
    await until(lambda: len(listener.alerts) >= 4)
    assert listener.alerts == ["a1", "a2", "a3", "a4"]
    await listener.close()


async def test_a_stuck_stream_is_cut_off_and_the_others_are_not(
    store_server: EmbeddedStore, redis_cli: redis.Redis
) -> None:
    async with alert_worker(store_server.url, alerts_queue_events=50) as worker:
        stuck, *others = [Listener("t") for _ in range(20)]
        for listener in (stuck, *others):
            await listener.open(worker)
        stuck.reading.clear()
        names = [f"a{number}" for number in range(400)]
        publish(redis_cli, *names)
        await until(lambda: all(each.alerts == names for each in others))
        assert stuck.client is not None
        await until(stuck._task.done)
        assert stuck.client.ended == "slow"
        await stuck.close()
        assert worker.numbers.closed["slow"] == 1
        stuck.reading.set()
        await stuck.open(worker)
        await until(lambda: stuck.alerts == names)
        for listener in (stuck, *others):
            await listener.close()


async def test_a_write_that_never_ends_is_cut_off_without_any_alert(store_server: EmbeddedStore) -> None:
    async with alert_worker(store_server.url, alerts_heartbeat_seconds=0.1) as worker:
        listener = Listener("t")
        await listener.open(worker)
        listener.reading.clear()
        await until(listener._task.done)
        assert listener.client is not None
        assert listener.client.ended == "slow"
        await listener.close()


async def test_retention_by_time_and_number(store_server: EmbeddedStore, redis_cli: redis.Redis) -> None:
    store = Store(store_server.url)
    await store.start()
    log = AlertLog(store, "w", most=3, retention=0.2)
    start = (await log.read("t", None, 10)).position
    assert await log.record("t", [("a", b"1"), ("b", b"2"), ("a", b"1")]) == [1, 1, 0]
    page = await log.read("t", start, 10)
    assert (page.verdict, [raw for _, raw in page.entries], page.more) == ("ok", [b"1", b"2"], False)
    await log.record("t", [("c", b"3"), ("d", b"4")])
    assert (await log.read("t", start, 10)).verdict == "too-old"
    assert [raw for _, raw in (await log.read("t", OLDEST, 10)).entries] == [b"2", b"3", b"4"]
    first, second = (await log.read("t", OLDEST, 2)).entries
    assert [raw for _, raw in (await log.read("t", first[0], 10)).entries] == [b"3", b"4"]
    last = (await log.read("t", second[0], 10)).position
    assert last > second[0] > first[0] > start
    # Expired, nothing was missed by who had seen the last one, and ids go on growing.
    await until(lambda: not redis_cli.exists("gateway:alerts:{t}"))
    assert (await log.read("t", last, 10)).verdict == "ok"
    assert (await log.read("t", second[0], 10)).verdict == "too-old"
    assert await log.record("t", [("a", b"5")]) == [1]
    page = await log.read("t", last, 10)
    assert (page.verdict, [raw for _, raw in page.entries]) == ("ok", [b"5"])
    assert page.position > last
    assert (await log.read("t", second[0], 10)).verdict == "too-old"
    for strange in (Position(0, 0, 0), Position(page.position.generation, page.position.ms + 1, 0)):
        page = await log.read("t", strange, 10)
        assert (page.verdict, [raw for _, raw in page.entries]) == ("unknown", [b"5"])
    await store.close()


async def test_ids_grow_although_the_clock_is_set_back(
    store_server: EmbeddedStore, redis_cli: redis.Redis
) -> None:
    store = Store(store_server.url)
    await store.start()
    log = AlertLog(store, "w", most=10, retention=60)
    await log.record("t", [("a", b"1")])
    ahead = 32503680000000
    redis_cli.hset("gateway:alerts:{t}:meta", "last", f"{ahead}-7")
    redis_cli.xadd("gateway:alerts:{t}", {"e": "2"}, id=f"{ahead}-7")
    await log.record("t", [("b", b"3"), ("c", b"4")])
    page = await log.read("t", OLDEST, 10)
    assert [(here.ms, here.number) for here, _ in page.entries[1:]] == [(ahead, 7), (ahead, 8), (ahead, 9)]
    await store.close()


async def test_filtered_alerts_are_told_by_heartbeat(
    store_server: EmbeddedStore, redis_cli: redis.Redis
) -> None:
    async with alert_worker(store_server.url, alerts_heartbeat_seconds=0.1) as worker:
        listener = Listener("t", Wants(frozenset({"high"})))
        await listener.open(worker)
        known = listener.parser.last_id
        publish(redis_cli, "a", severity="low")
        await until(lambda: listener.parser.last_id != known)
        assert listener.messages == []
        await listener.close()


async def test_an_end_waits_for_no_write_that_never_ends(
    store_server: EmbeddedStore, redis_cli: redis.Redis
) -> None:
    async with alert_worker(store_server.url) as worker:
        stuck, other = Listener("t"), Listener("t")
        for listener in (stuck, other):
            await listener.open(worker)
        stuck.reading.clear()
        publish(redis_cli, "a")
        await until(lambda: other.alerts == ["a"])
        for listener in (stuck, other):
            assert listener.client is not None
            listener.client.end("drain", b"retry: 7\n\n")
            await until(listener._task.done)
            assert listener.client.ended == "drain"
            await listener.close()
        assert (other.parser.retry, stuck.parser.retry) == (7, None)
        assert worker.numbers.closed == {"drain": 2}
