"""Alerts without a gateway around them: workers in this loop, on a real store, and streams that note what they get."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import redis

from kernel.alerts.client import ALL, Client, Wants
from kernel.alerts.event import payload_key
from kernel.alerts.service import Alerts
from kernel.config import Settings
from kernel.store.alertlog import Position
from kernel.store.redis import Store
from kernel.telemetry.log import Log
from kernel.telemetry.writer import Writer
from tests.support.eventstream import Message, Parser
from tests.support.store import until


@contextlib.asynccontextmanager
async def alert_worker(url: str, *, probe: float = 0.05, **changes: Any) -> AsyncIterator[Alerts]:
    """What a worker has of alerts; `changes` are settings, `probe` is the store's."""
    store = Store(url, probe=probe)
    await store.start()
    writer = Writer(lambda _line: None)
    alerts = Alerts(store, msgspec.structs.replace(Settings(), **changes), Log(writer))
    await alerts.start()
    try:
        yield alerts
    finally:
        await alerts.close()
        await store.close()
        writer.close(1.0)


class Listener:
    """One stream after another at any worker, as one client that reconnects with its last id."""

    def __init__(self, tenant: str, wants: Wants = ALL) -> None:
        self.tenant = tenant
        self.messages: list[Message] = []
        self.parser = Parser()
        self.client: Client | None = None
        self.wants = wants
        # Cleared, it reads nothing.
        self.reading = asyncio.Event()
        self.reading.set()
        self._worker: Alerts
        self._task: asyncio.Task[bool]

    async def open(self, worker: Alerts) -> None:
        """Connect; done when the stream has an id."""
        last = self.parser.last_id
        known = Position(*map(int, last.split("-"))) if last else None
        client = worker.open(self.tenant, known, self.wants)
        assert client is not None
        self.client, self._worker = client, worker
        self.parser._rest = b""
        self._task = asyncio.get_running_loop().create_task(client.run(self._write))
        await until(lambda: bool(self.parser.last_id))

    async def close(self) -> None:
        if self.client is not None:
            self.client.end("client")
            await self._task
            self._worker.close_stream(self.client)
            self.client = None

    @property
    def alerts(self) -> list[Any]:
        """The alert ids so far."""
        return [json.loads(each.data)["alert_id"] for each in self.messages if each.event == "alert"]

    @property
    def events(self) -> list[str]:
        return [each.event for each in self.messages]

    async def _write(self, chunk: bytes) -> None:
        await self.reading.wait()
        self.messages += self.parser.feed(chunk)
        await asyncio.sleep(0)


class Fleet:
    """Workers in this loop that come and go, and what was published and heard."""

    def __init__(self, url: str, cli: redis.Redis, *, probe: float = 0.05) -> None:
        self.url = url
        self.cli = cli
        self._probe = probe
        self.workers: list[Alerts] = []
        # Tenant -> alert id -> when it was published, in this order.
        self.published: defaultdict[str, dict[str, float]] = defaultdict(dict)
        # Those that some worker heard, by worker.
        self.heard: dict[Alerts, set[tuple[str, str]]] = {}
        self._stack = contextlib.AsyncExitStack()

    async def close(self) -> None:
        await self._stack.aclose()

    async def start(self) -> Alerts:
        worker = await self._stack.enter_async_context(
            alert_worker(self.url, probe=self._probe, alerts_retention_events=100_000)
        )
        heard: set[tuple[str, str]] = set()
        offer = worker._recorder.offer

        def noted(alert: object) -> None:
            heard.add((alert.tenant, alert.key))  # type: ignore[attr-defined]
            offer(alert)  # type: ignore[arg-type]

        worker._recorder.offer = noted  # type: ignore[method-assign]
        self.workers.append(worker)
        self.heard[worker] = heard
        return worker

    async def kill(self, worker: Alerts) -> None:
        """As SIGKILL does: what it holds is gone with it."""
        self.workers.remove(worker)
        recorder = worker._recorder
        recorder._record = lambda tenant: None  # type: ignore[method-assign]
        for task in recorder._running.values():
            task.cancel()
        await worker._subscription.close()

    async def stop(self, worker: Alerts) -> None:
        """As SIGTERM does."""
        self.workers.remove(worker)
        await worker._subscription.close()
        await worker._recorder.close()

    def publish(self, name: str, tenant: str = "t") -> None:
        self.published[tenant][name] = time.time()
        self.cli.publish(f"alerts:tenant:{tenant}", json.dumps({"alert_id": name}))

    def kept(self, tenant: str = "t") -> dict[str, float]:
        """Alert id -> when it was recorded, in the order recorded."""
        # Each once: the stream itself is asked, not a set of its ids.
        raw: Any = redis.Redis.from_url(self.url)
        entries = raw.xrange(f"gateway:alerts:{{{tenant}}}")
        raw.close()
        names = [(payload_key(fields[b"e"]), int(entry.split(b"-")[0]) / 1000) for entry, fields in entries]
        assert len(dict(names)) == len(names), "recorded twice"
        return dict(names)

    def latency(self, name: str, tenant: str = "t") -> float:
        return self.kept(tenant)[name] - self.published[tenant][name]

    async def leader(self) -> Alerts:
        """The worker that recorded the last alert; a first one is published when there is none."""
        if not self.published["t"]:
            self.publish("first")
        await until(lambda: list(self.kept()) == list(self.published["t"]))
        await until(lambda: not any(each._recorder._held for each in self.workers))
        names = {each._recorder._leader for each in self.workers}
        assert len(names) == 1
        return next(each for each in self.workers if each._recorder._me in names)
