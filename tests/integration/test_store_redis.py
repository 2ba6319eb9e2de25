"""The store client against real servers: batching, scripts, dying and coming back, sentinels and clusters."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from functools import partial
from typing import Any

import pytest
import redis
from redis.exceptions import RedisClusterException

from kernel.server.embedded_store import EmbeddedStore
from kernel.store.errors import StoreDown, StoreRefused
from kernel.store.limiter import Limiter
from kernel.store.link import Command, Link
from kernel.store.pubsub import Subscription
from kernel.store.redis import Script, Store
from kernel.store.tracked import TrackedMap
from kernel.store.workers import WorkerRegistry
from tests.support.store import RawServer, until


async def connected(url: str, **options: float) -> Store:
    store = Store(url, **options)
    await store.start()
    return store


async def test_replies_are_raw_and_in_order(store_server: EmbeddedStore) -> None:
    store = await connected(store_server.url)
    assert await store.execute("SET", "a", "é") == b"OK"
    replies = await asyncio.gather(*(store.execute("INCRBY", "n", 1) for _ in range(500)))
    assert replies == list(range(1, 501))
    assert await store.execute("GET", "a") == "é".encode()
    assert await store.execute("HGETALL", "none") == {}
    with pytest.raises(StoreRefused, match="WRONGTYPE"):
        await store.execute("HGETALL", "a")
    assert await store.execute("GET", b"none") is None
    assert store.snapshot()["errors"] == 0
    await store.close()


async def test_commands_of_one_tick_share_a_write(
    store_server: EmbeddedStore, redis_cli: redis.Redis
) -> None:
    store = await connected(store_server.url)

    def reads() -> int:
        info: Any = redis_cli.info("stats")
        return int(info["total_reads_processed"])

    before = reads()
    await asyncio.gather(*(store.execute("PING") for _ in range(200)))
    assert reads() - before < 10
    await store.close()


async def test_a_script_is_sent_in_full_only_when_the_server_lost_it(
    store_server: EmbeddedStore, redis_cli: redis.Redis
) -> None:
    store = await connected(store_server.url)
    script = Script("return {KEYS[1], ARGV[1]}")
    calls = [store.run(script, ["k"], [n]) for n in range(3)]
    assert await asyncio.gather(*calls) == [[b"k", b"0"], [b"k", b"1"], [b"k", b"2"]]
    redis_cli.script_flush()
    assert await store.run(script, ["k"], [7]) == [b"k", b"7"]
    stats: Any = redis_cli.info("commandstats")
    sent_in_full = stats["cmdstat_eval"]["calls"]
    assert await store.run(script, ["k"], [8]) == [b"k", b"8"]
    stats = redis_cli.info("commandstats")
    assert stats["cmdstat_eval"]["calls"] == sent_in_full
    await store.close()


async def test_a_caller_that_gives_up_disturbs_no_other(store_server: EmbeddedStore) -> None:
    store = await connected(store_server.url)
    abandoned = store.execute("SET", "a", 1)
    kept = store.execute("GET", "a")
    abandoned.cancel()
    assert await kept == b"1"
    await store.close()


async def test_starts_without_a_server_and_finds_it_when_it_comes(mortal_store: EmbeddedStore) -> None:
    mortal_store.kill()
    store = await connected(mortal_store.url, probe=0.02)
    assert not store.connected
    with pytest.raises(StoreDown):
        store.execute("PING")
    mortal_store.start()
    await until(lambda: store.connected)
    assert await store.execute("PING") == b"PONG"
    await store.close()


async def test_a_dead_server_fails_commands_at_once_and_recovery_is_noticed(
    mortal_store: EmbeddedStore,
) -> None:
    store = await connected(mortal_store.url, probe=0.02)
    arrivals: list[bool] = []
    store.on_connect(arrivals.append)
    mortal_store.kill()
    await until(lambda: not store.connected)
    for _ in range(1000):
        with pytest.raises(StoreDown):
            store.execute("PING")
    mortal_store.start()
    await until(lambda: store.connected)
    assert await store.execute("PING") == b"PONG"
    assert arrivals == [True]
    figures = store.snapshot()
    assert figures["reconnects"] == 1
    assert figures["errors"] >= 1
    assert store.last_error
    await store.close()


async def test_commands_in_flight_fail_when_the_server_dies_for_good(mortal_store: EmbeddedStore) -> None:
    store = await connected(mortal_store.url)
    assert mortal_store.pid is not None
    os.kill(mortal_store.pid, signal.SIGSTOP)
    calls = [asyncio.ensure_future(store.execute("PING")) for _ in range(10)]
    await asyncio.sleep(0)
    mortal_store.kill()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(result, StoreDown) for result in results)
    await store.close()


async def test_a_hanging_server_is_given_up_after_the_timeout(mortal_store: EmbeddedStore) -> None:
    store = await connected(mortal_store.url, timeout=0.05, probe=0.02)
    assert mortal_store.pid is not None
    os.kill(mortal_store.pid, signal.SIGSTOP)
    with pytest.raises(StoreDown):
        await store.execute("PING")
    assert not store.connected
    with pytest.raises(StoreDown):
        store.execute("PING")
    os.kill(mortal_store.pid, signal.SIGCONT)
    await until(lambda: store.connected)
    assert await store.execute("PING") == b"PONG"
    await store.close()


async def test_a_loop_that_was_held_up_does_not_take_the_store_for_dead(store_server: EmbeddedStore) -> None:
    store = await connected(store_server.url, timeout=0.02)
    for _ in range(5):
        call = store.execute("PING")
        await asyncio.sleep(0)  # the command leaves
        await asyncio.sleep(0)
        time.sleep(0.05)  # and its time is up before the reply can be read
        assert await call == b"PONG"
    assert store.snapshot()["errors"] == 0
    await store.close()


async def test_a_killed_connection_is_replaced_without_a_failed_command(
    store_server: EmbeddedStore, redis_cli: redis.Redis
) -> None:
    store = await connected(store_server.url)
    arrivals: list[bool] = []
    store.on_connect(arrivals.append)
    stop = asyncio.Event()
    done = 0

    def exceeds(goal: int) -> bool:
        return done > goal

    def reconnected(times: int) -> bool:
        return store.snapshot()["reconnects"] >= times

    async def load() -> None:
        nonlocal done
        while not stop.is_set():
            await store.execute("PING")
            done += 1

    tasks = [asyncio.create_task(load()) for _ in range(8)]
    for kills in range(1, 4):
        await until(partial(exceeds, done + 50))
        redis_cli.client_kill_filter(_type="normal", skipme=True)
        await until(partial(reconnected, kills))
    await until(partial(exceeds, done + 50))
    stop.set()
    await asyncio.gather(*tasks)
    assert store.connected
    assert arrivals == [False] * 3
    await store.close()


async def test_closing_fails_what_is_unanswered(store_server: EmbeddedStore) -> None:
    store = await connected(store_server.url)
    call = store.execute("PING")
    await store.close()
    with pytest.raises(StoreDown):
        await call
    with pytest.raises(StoreDown):
        store.execute("PING")
    assert not store.connected


async def test_a_wrong_password_is_said(mortal_store: EmbeddedStore) -> None:
    with EmbeddedStore(port=0) as guarded:
        assert guarded.tcp_url is not None
        store = await connected(guarded.tcp_url.replace("default:", "default:x"))
        assert not store.connected
        assert "invalid username-password" in store.last_error
        await store.close()
        store = await connected(guarded.tcp_url)
        assert store.connected
        await store.close()


async def test_a_sentinel_failover_fails_no_command(watched: tuple[RawServer, RawServer, RawServer]) -> None:
    first, second, sentinel = watched
    store = await connected(f"redis+sentinel://127.0.0.1:{sentinel.port}/mymaster", probe=0.02)
    await until(lambda: store.connected)
    assert await store.endpoints() == {("127.0.0.1", first.port)}
    await store.execute("SET", "k", "v")
    assert first.client.get("k") == "v"
    sentinel.call("SENTINEL", "REMOVE", "mymaster")
    sentinel.call("SENTINEL", "MONITOR", "mymaster", "127.0.0.1", second.port, 1)
    first.call("REPLICAOF", "127.0.0.1", second.port)
    assert await store.execute("SET", "k", "w") == b"OK"
    assert second.client.get("k") == "w"
    assert await store.endpoints() == {("127.0.0.1", second.port)}
    await store.close()


async def test_an_unknown_sentinel_service_is_said(watched: tuple[RawServer, RawServer, RawServer]) -> None:
    store = await connected(f"redis+sentinel://127.0.0.1:{watched[2].port}/other")
    assert not store.connected
    assert "other" in store.last_error
    with pytest.raises(StoreDown, match="other"):
        await store.endpoints()
    await store.close()


async def test_closing_waits_for_a_connection_that_broke_shortly_before(mortal_store: EmbeddedStore) -> None:
    store = await connected(mortal_store.url, probe=0.02)
    link = store._carrier
    assert isinstance(link, Link)
    close = link.close

    async def slowly() -> list[Command]:
        await asyncio.sleep(0.05)
        return await close()

    link.close = slowly  # type: ignore[method-assign]
    mortal_store.kill()
    await until(lambda: store._carrier is None)
    await store.close()
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_closing_a_limiter_ends_its_heartbeat(
    store_server: EmbeddedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await connected(store_server.url)
    limiter = Limiter(store)
    await limiter.start()
    began = asyncio.Event()

    async def beat(_: WorkerRegistry) -> None:
        began.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(WorkerRegistry, "beat", beat)
    await began.wait()
    await limiter.close()
    await store.close()
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.parametrize("broken", ["open", "prove"])
async def test_no_foreign_exception_ends_the_search_for_the_store(
    mortal_store: EmbeddedStore, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    """redis-py has errors that are no RedisError, and any library may have a bug."""
    store = await connected(mortal_store.url, probe=0.02)
    tracked = TrackedMap(store)
    await tracked.start()
    heard: list[bytes] = []
    subscription = Subscription(
        store, ("c",), ("p*",), lambda _channel, data: heard.append(data), lambda: None
    )
    await subscription.start()
    with monkeypatch.context() as patch:

        async def surprise(*_: object) -> None:
            raise RedisClusterException("no RedisError is this")

        patch.setattr(Link, broken, surprise)
        if broken == "open":
            patch.setattr(Store, "endpoints", surprise)  # the subscription's way
        mortal_store.kill()
        mortal_store.start()
        await until(lambda: not store.connected)
        await asyncio.sleep(0.2)
    await until(lambda: store.connected and tracked.live and subscription.live)
    assert await store.execute("PUBLISH", "c", "hello") == 1
    await until(lambda: heard == [b"hello"])
    await subscription.close()
    await tracked.close()
    await store.close()


async def test_what_cannot_be_sent_fails_alone(store_server: EmbeddedStore) -> None:
    store = await connected(store_server.url)
    good, bad, ugly = (
        store.execute("SET", "a", 1),
        store.execute("SET", "\udc80", 1),
        store.execute("GET", "a"),
    )
    with pytest.raises(StoreRefused):
        await bad
    assert await good == b"OK"
    assert await ugly == b"1"
    assert store.snapshot()["reconnects"] == 0
    await store.close()


async def test_a_hint_has_a_lost_store_asked_at_once(mortal_store: EmbeddedStore) -> None:
    store = await connected(mortal_store.url, probe=3600)
    mortal_store.kill()
    await until(lambda: not store.connected)
    store.hurry()  # there is nobody yet: that ends nothing
    await asyncio.sleep(0.2)
    mortal_store.start()
    store.hurry()
    await until(lambda: store.connected, 2)
    await store.close()
