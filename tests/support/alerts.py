"""Alerts without a gateway around them: workers in this loop, on a real store, and streams that note what they get."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from kernel.alerts.client import ALL, Client, Wants
from kernel.alerts.service import Alerts
from kernel.config import Settings
from kernel.store.alertlog import Position
from kernel.store.redis import Store
from kernel.telemetry.log import Log
from kernel.telemetry.writer import Writer
from tests.support.eventstream import Message, Parser
from tests.support.store import until


@contextlib.asynccontextmanager
async def alert_worker(url: str, **changes: Any) -> AsyncIterator[Alerts]:
    """What a worker has of alerts; `changes` are settings."""
    store = Store(url, probe=0.05)
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
