"""Alerts keep their order when the store is out of reach for a while, and the workers do not all find it again at once."""

from __future__ import annotations

import asyncio
import json
import random
import threading
import time
from collections.abc import AsyncIterator
from itertools import pairwise

import pytest
import redis

from kernel.server.embedded_store import EmbeddedStore
from tests.support.alerts import Fleet
from tests.support.store import until


def ask(fleet: Fleet, *words: str) -> None:
    """One command to the store's server."""
    fleet.cli.execute_command(*words)  # type: ignore[no-untyped-call]


@pytest.fixture
async def fleet(store_server: EmbeddedStore, redis_cli: redis.Redis) -> AsyncIterator[Fleet]:
    """Three workers that ask a lost store again at the pace of production."""
    fleet = Fleet(store_server.url, redis_cli, probe=0.25)
    for _ in range(3):
        await fleet.start()
    await asyncio.sleep(0.1)  # they are no newcomers any more
    try:
        yield fleet
    finally:
        ask(fleet, "CLIENT", "UNPAUSE")
        ask(fleet, "REPLICAOF", "NO", "ONE")
        await fleet.close()


class Publisher:
    """Somebody who publishes one alert after the other, each when the last one's publication is confirmed."""

    def __init__(self, url: str, pause: float) -> None:
        self._url = url
        self._pause = pause
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        # Those that somebody heard.
        self.heard: list[str] = []

    def __enter__(self) -> Publisher:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        with redis.Redis.from_url(self._url) as client:
            number = 0
            while not self._over.is_set():
                name = f"{number:06}"
                if client.publish("alerts:tenant:t", json.dumps({"alert_id": name})):
                    self.heard.append(name)
                number += 1
                time.sleep(self._pause)


async def recorded_in_order(fleet: Fleet, publisher: Publisher) -> None:
    """All that somebody heard is recorded, in the order published."""
    last = ("t", publisher.heard[-1])
    await until(lambda: any(last in heard for heard in fleet.heard.values()))
    await until(lambda: not any(each._recorder._held for each in fleet.workers))
    kept = list(fleet.kept())
    assert [f"{later} before {name}" for name, later in pairwise(kept) if name > later] == []
    assert sorted(set(publisher.heard) - set(kept)) == []
    assert len(kept) > 50


@pytest.mark.parametrize("seed", range(2))
async def test_order_is_kept_over_a_pause_of_writes(fleet: Fleet, seed: int) -> None:
    chance = random.Random(seed)
    with Publisher(fleet.url, 0.0005) as publisher:
        for _ in range(2):
            await asyncio.sleep(0.2)
            ask(fleet, "CLIENT", "PAUSE", str(chance.randint(300, 900)), "WRITE")
            await asyncio.sleep(2.5)
    await recorded_in_order(fleet, publisher)


@pytest.mark.parametrize("seed", range(2))
async def test_order_is_kept_by_who_joins_while_nothing_can_be_recorded(fleet: Fleet, seed: int) -> None:
    chance = random.Random(seed)
    with Publisher(fleet.url, 0.004) as publisher:
        await asyncio.sleep(0.2)
        ask(fleet, "REPLICAOF", "127.0.0.1", "1")
        await asyncio.sleep(chance.uniform(0.2, 0.6))
        await fleet.start()
        await asyncio.sleep(chance.uniform(0.2, 0.6))
        await fleet.start()
        await asyncio.sleep(0.2)
        ask(fleet, "REPLICAOF", "NO", "ONE")
        await asyncio.sleep(2.5)
    await recorded_in_order(fleet, publisher)
