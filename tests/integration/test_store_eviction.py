"""A store that throws keys away when it is full is warned of, once, whenever it was connected to."""

from __future__ import annotations

import redis

from kernel.server.embedded_store import EmbeddedStore
from kernel.store.eviction import EvictionWatch, eviction_policy
from kernel.store.redis import Store
from tests.support.store import until


async def test_each_policy_is_warned_of_once(mortal_store: EmbeddedStore) -> None:
    with redis.Redis.from_url(mortal_store.url) as client:
        client.config_set("maxmemory-policy", "volatile-ttl")
        store = Store(mortal_store.url, probe=0.02)
        await store.start()
        warned: list[str] = []
        EvictionWatch(store, warned.append)
        await until(lambda: warned == ["volatile-ttl"])
        for policy, expected in (("volatile-ttl", 1), ("allkeys-lfu", 2), ("noeviction", 2)):
            client.config_set("maxmemory-policy", policy)
            before = store.snapshot()["reconnects"]
            client.client_kill_filter(_type="normal", skipme=True)
            await until(lambda: store.snapshot()["reconnects"] > before)  # noqa: B023
            assert await store.execute("PING") == b"PONG"  # after the answer to INFO
            assert len(warned) == expected
        await store.close()


def test_a_store_that_does_not_say_is_not_suspected() -> None:
    assert eviction_policy(b"# Memory\r\nused_memory:1\r\n") == ""
