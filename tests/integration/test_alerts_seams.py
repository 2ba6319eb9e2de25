"""Where replay and live meet: whatever comes between reading the store and joining the fan-out, all comes once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import redis

from kernel.alerts.service import Alerts
from kernel.server.embedded_store import EmbeddedStore
from kernel.store.alertlog import Page, Position
from tests.support.alerts import Listener, alert_worker
from tests.support.store import until


class Worker:
    """A worker whose ears can be stopped, and whose reads can be held up between the store and the reader."""

    def __init__(self, alerts: Alerts, cli: redis.Redis) -> None:
        self.alerts = alerts
        self.deaf = False
        # Run once, after the next read has come back from the store and before its reader has it.
        self.meanwhile: Callable[[], Awaitable[None]] | None = None
        self._cli = cli
        self._unheard: list[tuple[bytes, bytes]] = []
        self._hear = alerts._subscription._hear
        self._read = alerts._fanout.log.read
        alerts._subscription._hear = self._listen
        alerts._fanout.log.read = self._held_read  # type: ignore[method-assign]

    def _listen(self, channel: bytes, data: bytes) -> None:
        if self.deaf and channel == b"gateway:alerts:recorded":
            self._unheard.append((channel, data))
        else:
            self._hear(channel, data)

    async def _held_read(self, tenant: str, known: Position | None, count: int) -> Page:
        page = await self._read(tenant, known, count)
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            await meanwhile()
        return page

    def hear_again(self, *, what_was_missed: bool) -> None:
        self.deaf = False
        unheard, self._unheard = self._unheard, []
        for channel, data in unheard if what_was_missed else ():
            self._hear(channel, data)

    async def publish(self, *names: str) -> None:
        """Done when they are recorded, and heard unless the worker is deaf."""
        for name in names:
            self._cli.publish("alerts:tenant:t", json.dumps({"alert_id": name}))
        recorder = self.alerts._recorder
        seen = "gateway:alerts:{t}:seen"
        await until(lambda: all(self._cli.zscore(seen, name) is not None for name in names))
        if not self.deaf:
            topic = self.alerts._fanout._topics["t"]
            last = str(self._cli.hget("gateway:alerts:{t}:meta", "last"))
            await until(
                lambda: topic._missed or (topic.position is not None and str(topic.position).endswith(last))
            )
        await until(lambda: not recorder._running)


@pytest.fixture
async def worker(store_server: EmbeddedStore, redis_cli: redis.Redis) -> AsyncIterator[Worker]:
    async with alert_worker(store_server.url) as alerts:
        yield Worker(alerts, redis_cli)


async def settled(listener: Listener, worker: Worker) -> list[str]:
    """What it has when one more alert, which ends every wait, has come."""
    await worker.publish("last")
    await until(lambda: "last" in listener.alerts)
    assert set(listener.events) == {"alert"}
    found: list[str] = listener.alerts
    await listener.close()
    return found


async def test_an_alert_handed_on_between_read_and_join_is_read(worker: Worker) -> None:
    listener = Listener("t")
    worker.meanwhile = lambda: worker.publish("a1", "a2")
    await listener.open(worker.alerts)
    # At once, and not only when the next one shows that they are missing.
    await until(lambda: listener.alerts == ["a1", "a2"])
    assert await settled(listener, worker) == ["a1", "a2", "last"]


async def test_an_alert_that_was_read_before_it_was_announced_comes_once(worker: Worker) -> None:
    early, late = Listener("t"), Listener("t")
    await early.open(worker.alerts)
    await worker.publish("a1")
    await until(lambda: early.alerts == ["a1"])
    worker.deaf = True
    await worker.publish("a2")
    # It starts behind a2, the others are not there yet.
    await late.open(worker.alerts)
    worker.hear_again(what_was_missed=True)
    assert await settled(late, worker) == ["last"]
    await until(lambda: "last" in early.alerts)
    assert early.alerts == ["a1", "a2", "last"]
    await early.close()


async def test_an_alert_announced_while_missed_ones_are_read_is_read_too(worker: Worker) -> None:
    listener = Listener("t")
    await listener.open(worker.alerts)
    await worker.publish("a1")
    worker.deaf = True
    await worker.publish("a2")
    worker.hear_again(what_was_missed=False)
    worker.meanwhile = lambda: worker.publish("a4")
    # Its announcement shows that a2 is missing.
    await worker.publish("a3")
    await until(lambda: worker.meanwhile is None and len(listener.alerts) >= 4)
    assert await settled(listener, worker) == ["a1", "a2", "a3", "a4", "last"]


async def test_a_subscription_that_broke_between_read_and_join_is_made_up_for(worker: Worker) -> None:
    async def broken() -> None:
        worker.deaf = True
        await worker.publish("a1")
        worker.hear_again(what_was_missed=False)
        worker.alerts._fanout.connected()

    listener = Listener("t")
    worker.meanwhile = broken
    await listener.open(worker.alerts)
    await until(lambda: listener.alerts == ["a1"])
    assert await settled(listener, worker) == ["a1", "last"]


async def test_a_store_emptied_between_read_and_join_resets(worker: Worker, redis_cli: redis.Redis) -> None:
    other, listener = Listener("t"), Listener("t")
    await other.open(worker.alerts)
    await worker.publish("a1")

    async def emptied() -> None:
        redis_cli.flushall()
        # Another millisecond, another generation.
        await asyncio.sleep(0.005)

    worker.meanwhile = emptied
    await listener.open(worker.alerts)
    redis_cli.publish("alerts:tenant:t", json.dumps({"alert_id": "a2"}))
    for each in (listener, other):
        await until(lambda: "a2" in each.alerts)  # noqa: B023
        assert each.events[-2:] == ["reset", "alert"]
        assert each.events.count("reset") == 1
        await each.close()
