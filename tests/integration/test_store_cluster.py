"""Store and tracked map on a real cluster of two primaries."""

from __future__ import annotations

import asyncio
import json
import os
import signal

import pytest

from kernel.store.errors import StoreDown, StoreRefused
from kernel.store.redis import Script, Store
from kernel.store.tracked import TrackedMap
from tests.support.alerts import Listener, alert_worker
from tests.support.store import RawServer, until

KEYS = [f"tenant:{n}:read_only" for n in range(20)]


async def connected(cluster: list[RawServer]) -> Store:
    store = Store(f"redis+cluster://127.0.0.1:{cluster[0].port}", probe=0.05, timeout=1.0)
    await store.start()
    assert store.connected, store.last_error
    return store


async def test_keys_and_scripts_find_their_nodes(cluster: list[RawServer]) -> None:
    store = await connected(cluster)
    await asyncio.gather(*(store.execute("SET", f"key{n}", n) for n in range(50)))
    assert all(node.call("DBSIZE") > 5 for node in cluster)
    script = Script("return redis.call('GET', KEYS[1])")
    for n in range(10):
        assert await store.run(script, [f"key{n}"], []) == str(n).encode()
    assert await store.endpoints() == {("127.0.0.1", node.port) for node in cluster}
    with pytest.raises(StoreRefused, match="WRONGTYPE"):
        await store.execute("HGETALL", "key1")
    await store.close()


async def test_changes_on_every_node_are_followed(cluster: list[RawServer]) -> None:
    store = await connected(cluster)
    tracked = TrackedMap(store)
    await tracked.start()
    assert tracked.live, tracked.last_error
    for key in KEYS:
        pending = tracked.get(key)
        assert not isinstance(pending, str)
        assert pending is not None
        assert await pending is None
    assert [tracked.get(key) for key in KEYS] == [None] * len(KEYS)
    await asyncio.gather(*(store.execute("SET", key, "locked") for key in KEYS))
    await until(lambda: tracked.snapshot()["keys"] == 0)
    await tracked.close()
    await store.close()


async def test_a_silent_node_brings_the_store_down_until_it_answers(cluster: list[RawServer]) -> None:
    store = await connected(cluster)
    silent = cluster[1].process.pid
    os.kill(silent, signal.SIGSTOP)
    try:
        calls = [store.execute("GET", f"key{n}") for n in range(10)]
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert any(isinstance(result, StoreDown) for result in results)
        assert not store.connected
        with pytest.raises(StoreDown):
            store.execute("GET", "key1")
    finally:
        os.kill(silent, signal.SIGCONT)
    await until(lambda: store.connected)
    await store.close()


async def test_alerts_go_through_a_cluster(cluster: list[RawServer]) -> None:
    url = f"redis+cluster://127.0.0.1:{cluster[0].port}"
    async with alert_worker(url) as first, alert_worker(url) as second:
        # Tenants whose keys lie on one node and on the other.
        listeners = [Listener(f"t{number}") for number in range(6)]
        for number, listener in enumerate(listeners):
            await listener.open((first, second)[number % 2])
        names = [f"a{number}" for number in range(20)]
        for number, name in enumerate(names):
            for listener in listeners:
                channel = f"alerts:tenant:{listener.tenant}"
                cluster[number % 2].client.publish(channel, json.dumps({"alert_id": name}))
        for listener in listeners:
            await until(lambda: len(listener.alerts) == 20)  # noqa: B023
            # Published on two nodes, they may overtake each other on the way between these.
            assert sorted(listener.alerts) == sorted(names)
            assert listener.events == ["alert"] * 20
            await listener.close()
    homes = [len(node.client.keys("gateway:alerts:*:seen")) for node in cluster]
    assert sum(homes) == 6
    assert min(homes) > 0
