"""The tracked map: known keys cost nothing, changes are seen, and what may be stale is never believed."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import sys
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest
import redis

from kernel.server.embedded_store import EmbeddedStore
from kernel.store.errors import StoreDown
from kernel.store.keys import PLATFORM_READ_ONLY, subscription_changed_at, tenant_read_only, token_revoked
from kernel.store.link import Link
from kernel.store.redis import Store
from kernel.store.tracked import TrackedMap
from tests.support.store import RawServer, until
from tests.support.tracked_worker import value

KEY = tenant_read_only("t1")


class SlowMap(TrackedMap):
    """A map whose replies can be held back."""

    gate: asyncio.Event | None = None

    def _ask(self, link: Link, key: str) -> asyncio.Future[Any]:
        reply = super()._ask(link, key)
        return reply if self.gate is None else asyncio.ensure_future(self._held(reply, self.gate))

    async def _held(self, reply: asyncio.Future[Any], gate: asyncio.Event) -> Any:
        result = await reply
        await gate.wait()
        return result


@pytest.fixture
async def store(store_server: EmbeddedStore) -> AsyncIterator[Store]:
    store = Store(store_server.url, probe=0.02)
    await store.start()
    yield store
    await store.close()


@pytest.fixture
async def tracked(store: Store) -> AsyncIterator[SlowMap]:
    tracked = SlowMap(store)
    await tracked.start()
    assert tracked.live, tracked.last_error
    yield tracked
    await tracked.close()


def known(tracked: TrackedMap, key: str = KEY) -> bool:
    found = tracked.get(key)
    return found is None or isinstance(found, str)


@pytest.mark.parametrize(
    "key", [KEY, subscription_changed_at("t1"), token_revoked("j1"), PLATFORM_READ_ONLY], ids=lambda key: key
)
async def test_every_kind_of_key_is_followed(tracked: TrackedMap, redis_cli: redis.Redis, key: str) -> None:
    assert await value(tracked, key) is None
    redis_cli.set(key, "é")
    await until(lambda: tracked.get(key) is not None)
    assert await value(tracked, key) == "é"
    redis_cli.delete(key)
    await until(lambda: tracked.get(key) != "é")
    assert await value(tracked, key) is None


async def test_a_known_key_needs_no_store_whether_it_exists_or_not(
    tracked: TrackedMap, store: Store, redis_cli: redis.Redis
) -> None:
    redis_cli.set(KEY, "stocktaking")
    await until(lambda: tracked.snapshot()["changes"] == 1)
    assert await value(tracked, KEY) == "stocktaking"
    assert await value(tracked, PLATFORM_READ_ONLY) is None
    commands = store.snapshot()["commands"]
    for _ in range(100):
        assert tracked.get(KEY) == "stocktaking"
        assert tracked.get(PLATFORM_READ_ONLY) is None
    assert store.snapshot()["commands"] == commands


async def test_every_change_is_another_generation(
    tracked: SlowMap, store: Store, redis_cli: redis.Redis
) -> None:
    """Who has looked at keys need not look again in the same generation: none of them can have changed."""
    seen = [tracked.generation]

    async def changed() -> None:
        await until(lambda: tracked.generation != seen[-1])
        assert tracked.generation not in seen
        seen.append(tracked.generation)

    assert await value(tracked, KEY) is None
    assert tracked.generation == seen[-1]  # a reading is no change
    redis_cli.set(KEY, "locked")
    await changed()
    assert await value(tracked, KEY) == "locked"
    redis_cli.delete(KEY)
    await changed()
    redis_cli.set(token_revoked("never asked for"), "1")
    await changed()
    redis_cli.set(KEY, "for a moment", px=30)
    await changed()
    assert await value(tracked, KEY) == "for a moment"
    await changed()  # it has expired
    redis_cli.flushall()
    await changed()
    redis_cli.client_kill_filter(_type="normal", skipme=True)
    await changed()


async def test_a_change_by_hand_is_seen_by_every_process(
    store_server: EmbeddedStore, redis_cli: redis.Redis
) -> None:
    arguments = (sys.executable, "-m", "tests.support.tracked_worker", store_server.url)
    pipe = asyncio.subprocess.PIPE
    workers = [await asyncio.create_subprocess_exec(*arguments, stdin=pipe, stdout=pipe) for _ in range(2)]

    async def ask(worker: asyncio.subprocess.Process, line: str) -> None:
        assert worker.stdin is not None
        assert worker.stdout is not None
        worker.stdin.write(line.encode() + b"\n")
        assert await worker.stdout.readline() == b"done\n"

    async def every(line: str) -> None:
        await asyncio.wait_for(asyncio.gather(*(ask(worker, line) for worker in workers)), 10)

    await every("live")
    await every(f"until {KEY} -")
    for reason in ("one", "two"):
        redis_cli.set(KEY, reason)
        await every(f"until {KEY} {reason}")
    redis_cli.delete(KEY)
    await every(f"until {KEY} -")
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.close()
        assert await worker.wait() == 0


async def overtaken(tracked: SlowMap, store: Store, redis_cli: redis.Redis) -> asyncio.Task[str | None]:
    """A read whose reply (no such key) is held back while the key is set, and the change announced."""
    tracked.gate = asyncio.Event()
    commands = store.snapshot()["commands"]
    reading = asyncio.ensure_future(value(tracked, KEY))
    await until(lambda: store.snapshot()["commands"] > commands)
    redis_cli.set(KEY, "locked")
    await until(lambda: tracked.snapshot()["changes"] == 1)
    return reading


async def test_a_reply_that_a_change_overtook_is_not_kept(
    tracked: SlowMap, store: Store, redis_cli: redis.Redis
) -> None:
    reading = await overtaken(tracked, store, redis_cli)
    assert tracked.gate is not None
    tracked.gate.set()
    assert await reading is None
    assert not known(tracked)
    assert await value(tracked, KEY) == "locked"


async def test_who_asks_after_a_change_does_not_share_a_read_from_before(
    tracked: SlowMap, store: Store, redis_cli: redis.Redis
) -> None:
    reading = await overtaken(tracked, store, redis_cli)
    later = asyncio.ensure_future(value(tracked, KEY))
    await asyncio.sleep(0)
    assert tracked.gate is not None
    tracked.gate.set()
    assert await reading is None
    assert await later == "locked"
    assert tracked.get(KEY) == "locked"


async def test_tracking_begins_anew_with_a_new_connection_of_the_store(
    tracked: TrackedMap, store: Store, redis_cli: redis.Redis
) -> None:
    clients: Any = redis_cli.client_list()
    for client in clients:
        if client["cmd"] != "client|list" and not set(client["flags"]) & set("tB"):
            redis_cli.client_kill_filter(_id=client["id"])
    await until(lambda: store.snapshot()["reconnects"] == 1)
    await until(lambda: tracked.snapshot()["drops"] == 1)
    assert tracked.last_error == "the store was reconnected"
    await until(lambda: tracked.live)


async def test_a_lost_connection_drops_everything_and_comes_back(
    tracked: TrackedMap, store: Store, redis_cli: redis.Redis
) -> None:
    def dropped(times: int) -> bool:
        return tracked.snapshot()["drops"] >= times

    for turn in range(3):
        assert await value(tracked, KEY) == (str(turn - 1) if turn else None)
        assert known(tracked)
        redis_cli.client_kill_filter(_type="normal", skipme=True)
        redis_cli.set(KEY, turn)  # nobody announces this
        await until(partial(dropped, turn + 1))
        assert await value(tracked, KEY) == str(turn)
        await until(lambda: tracked.live)
        assert await value(tracked, KEY) == str(turn)


async def test_under_load_and_cut_connections_no_value_older_than_the_last_drop_is_believed(
    tracked: TrackedMap, redis_cli: redis.Redis
) -> None:
    stop = asyncio.Event()
    written = 0
    floor = 0  # what had been written when the map last began anew
    tracked.on_change(lambda key: raise_floor() if key is None else None)

    def raise_floor() -> None:
        nonlocal floor
        floor = written

    async def read() -> int:
        reads = 0
        while not stop.is_set():
            least = floor
            with contextlib.suppress(StoreDown):  # on a loaded machine a new connection may take too long
                assert int(await value(tracked, KEY) or 0) >= least
                reads += 1
            await asyncio.sleep(0)
        return reads

    readers = [asyncio.create_task(read()) for _ in range(4)]
    for _turn in range(3):
        for _ in range(50):
            written += 1
            redis_cli.set(KEY, written)
            await asyncio.sleep(0.001)
        await until(lambda: tracked.live)
        drops = tracked.snapshot()["drops"]
        redis_cli.client_kill_filter(_type="normal", skipme=True)
        while tracked.snapshot()["drops"] == drops:
            written += 1
            redis_cli.set(KEY, written)
            await asyncio.sleep(0)
    stop.set()
    assert sum(await asyncio.gather(*readers)) > 300
    await until(lambda: tracked.live)
    assert await value(tracked, KEY) == str(written)


async def test_without_a_store_the_caller_is_told(mortal_store: EmbeddedStore) -> None:
    store = Store(mortal_store.url, probe=0.02)
    await store.start()
    tracked = TrackedMap(store)
    await tracked.start()
    await until(lambda: known(tracked))
    mortal_store.kill()
    await until(lambda: not tracked.live and not store.connected)
    with pytest.raises(StoreDown):
        await value(tracked, KEY)
    tracked.get(KEY)  # an answer that nobody waits for
    gc.collect()
    assert tracked.staleness == float("inf")
    assert tracked.last_error
    mortal_store.start()
    # The store's own return begins the tracking anew, whichever came first: known for good only after both.
    await until(lambda: store.connected and known(tracked))
    assert tracked.get(KEY) is None
    await tracked.close()
    await store.close()


async def test_it_starts_without_a_store(mortal_store: EmbeddedStore) -> None:
    mortal_store.kill()
    store = Store(mortal_store.url, probe=0.02)
    await store.start()
    tracked = TrackedMap(store)
    await tracked.start()
    assert not tracked.live
    mortal_store.start()
    await until(lambda: tracked.live)
    await tracked.close()
    await store.close()


async def test_a_silent_server_is_not_believed_for_long(mortal_store: EmbeddedStore) -> None:
    store = Store(mortal_store.url, probe=0.02)
    await store.start()
    tracked = TrackedMap(store, beat=0.05, silence=0.2)
    await tracked.start()
    assert await value(tracked, KEY) is None
    assert mortal_store.pid is not None
    os.kill(mortal_store.pid, signal.SIGSTOP)
    assert known(tracked)
    await until(lambda: not tracked.live)
    assert not known(tracked)
    await until(lambda: "not heard of" in tracked.last_error)
    os.kill(mortal_store.pid, signal.SIGCONT)
    await until(lambda: tracked.live)
    await tracked.close()
    await store.close()


async def test_sentinel_failover_moves_the_tracking(watched: tuple[RawServer, RawServer, RawServer]) -> None:
    first, second, sentinel = watched
    store = Store(f"redis+sentinel://127.0.0.1:{sentinel.port}/mymaster", probe=0.02)
    await store.start()
    await until(lambda: store.connected)
    tracked = TrackedMap(store, beat=0.05)
    await tracked.start()
    await until(lambda: tracked.live)
    assert await value(tracked, KEY) is None
    sentinel.call("SENTINEL", "REMOVE", "mymaster")
    sentinel.call("SENTINEL", "MONITOR", "mymaster", "127.0.0.1", second.port, 1)
    first.call("REPLICAOF", "127.0.0.1", second.port)
    await store.execute("SET", "other", 1)  # finds out, and goes over to the second
    await until(lambda: tracked.snapshot()["drops"] >= 1 and tracked.live)
    assert await value(tracked, KEY) is None
    second.client.set(KEY, "locked")
    await until(lambda: tracked.get(KEY) is not None)
    assert await value(tracked, KEY) == "locked"
    await tracked.close()
    await store.close()


async def test_a_flush_drops_everything(tracked: TrackedMap, redis_cli: redis.Redis) -> None:
    redis_cli.set(KEY, "locked")
    assert await value(tracked, KEY) == "locked"
    redis_cli.flushall()
    await until(lambda: tracked.get(KEY) != "locked")
    assert await value(tracked, KEY) is None


async def test_an_expiry_is_kept_to_without_an_announcement(store: Store, redis_cli: redis.Redis) -> None:
    tracked = TrackedMap(store, prefixes=("elsewhere:",))
    await tracked.start()
    redis_cli.set(KEY, "for a moment", px=300)
    assert await value(tracked, KEY) == "for a moment"
    assert tracked.get(KEY) == "for a moment"
    while await value(tracked, KEY) is not None:
        await asyncio.sleep(0.01)
    await tracked.close()


async def test_a_key_of_another_type_counts_as_set(tracked: TrackedMap, redis_cli: redis.Redis) -> None:
    redis_cli.hset(KEY, "reason", "locked")
    await until(lambda: tracked.snapshot()["changes"] == 1)
    assert await value(tracked, KEY) == ""
    assert tracked.get(KEY) == ""


async def test_memory_is_bounded(store: Store) -> None:
    tracked = TrackedMap(store, max_keys=10)
    await tracked.start()
    for n in range(50):
        await value(tracked, tenant_read_only(str(n)))
    assert tracked.snapshot()["keys"] == 10
    assert known(tracked, tenant_read_only("49"))
    assert not known(tracked, tenant_read_only("0"))
    await tracked.close()


async def test_readers_share_a_read_and_may_give_up(tracked: SlowMap) -> None:
    tracked.gate = asyncio.Event()
    readers = [asyncio.ensure_future(value(tracked, KEY)) for _ in range(10)]
    await asyncio.sleep(0)
    readers[0].cancel()
    tracked.get(KEY)
    tracked.gate.set()
    assert await asyncio.gather(*readers[1:]) == [None] * 9
    assert tracked.snapshot()["reads"] == 1


async def test_listeners_hear_of_changes_and_of_drops(tracked: TrackedMap, redis_cli: redis.Redis) -> None:
    heard: list[str | None] = []
    tracked.on_change(heard.append)
    redis_cli.set(KEY, "locked")
    redis_cli.set("elsewhere", "not followed")
    await until(lambda: heard == [KEY])
    redis_cli.client_kill_filter(_type="normal", skipme=True)
    await until(lambda: len(heard) > 1)
    assert set(heard[1:]) == {None}
