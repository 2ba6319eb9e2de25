"""The load: readers, writers, uploads, logins, alert streams, clients that leave or never end."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Callable, Coroutine
from itertools import pairwise
from typing import Any

import redis.asyncio as aioredis

from tests.drills.ledger import ALERT_BOUND, BOUND, STORE_BOUND, Ledger
from tests.drills.wire import Broken, Wire
from tests.support.eventstream import Parser
from tests.support.tokens import TENANT, access_token

CHANNEL = f"alerts:tenant:{TENANT}"
# The gateways' REQUEST_TIMEOUT_SECONDS.
HANG = 3.0
_SECONDS_OF_STREAM = 5.0


class Load:
    """Runs until `stop`. `chosen()` is a gateway's port; `troubled()` says that connections may break just now."""

    def __init__(self, ledger: Ledger, ports: list[int], rng: random.Random, store: str) -> None:
        self._ledger = ledger
        self._ports = ports
        self._rng = rng
        self._store = store
        self._number = 0
        self._alerts = 0
        self._over = False
        self._tasks: list[asyncio.Task[None]] = []
        self.store_well = True
        self.workers_well = True
        self.published: dict[str, float] = {}
        # Of two that are published at the same time none is the first.
        self._publishing = asyncio.Lock()
        self.streams = [Stream(self, number) for number in range(4)]

    @property
    def ledger(self) -> Ledger:
        return self._ledger

    @property
    def over(self) -> bool:
        return self._over

    def chosen(self) -> int:
        """A gateway's port."""
        return self._rng.choice(self._ports)

    def start(self) -> None:
        """Begin everything."""
        jobs: list[Callable[[], Coroutine[Any, Any, None]]] = [
            *[lambda: self._requests("GET", "/api/v1/inventory/items", 0.05)] * 3,
            lambda: self._requests("GET", "/api/v1/inventory/slow", 0.3, HANG * 2 + BOUND),
            lambda: self._requests("POST", "/api/v1/sales/orders", 0.08, body=b"x" * 500),
            lambda: self._requests("POST", "/api/v1/sales/uploads", 0.4, body=b"y" * 300_000),
            lambda: self._requests("POST", "/api/v1/auth/login", 0.3, body=b"{}", user=""),
            self._newcomers,
            self._leavers,
            self._unfinished,
            self._publish,
            *(stream.run for stream in self.streams),
        ]
        self._tasks = [asyncio.create_task(job()) for job in jobs]

    async def stop(self) -> None:
        """End everything; raises what a client of ours could not cope with."""
        self._over = True
        await asyncio.wait(self._tasks, timeout=HANG * 3)
        for task in self._tasks:
            if task.done() and task.exception() is not None:
                task.result()
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def nonce(self, method: str) -> str:
        """A name no other request has."""
        self._number += 1
        return f"{method}-{self._number}"

    async def _requests(
        self,
        method: str,
        path: str,
        pause: float,
        bound: float = BOUND,
        body: bytes = b"",
        user: str | None = None,
    ) -> None:
        name = f"user-{self._rng.randrange(10**6)}" if user is None else user
        token = access_token(user_id=name).decode() if name else ""
        wire = Wire(self.chosen())
        while not self._over:
            nonce = self.nonce(method)
            headers = {"authorization": f"Bearer {token}"} if token else {}
            began = time.monotonic()
            try:
                async with asyncio.timeout(bound * 3):
                    answer = await wire.ask(method, f"{path}?n={nonce}", headers, body)
            except TimeoutError:
                self._ledger.violation(f"{method} {path}: no answer within {bound * 3:.0f} s")
            except Broken as error:
                self._ledger.broken[type(error).__name__ if self.workers_well else "worker ended"] += 1
            else:
                most = bound if self.store_well or bound > BOUND else STORE_BOUND
                self._ledger.answer(f"{method} {path}", answer, nonce, name, time.monotonic() - began, most)
            if self._rng.random() < 0.05:
                wire.close()
                wire = Wire(self.chosen())
            await asyncio.sleep(pause * self._rng.uniform(0.5, 1.5))

    async def _newcomers(self) -> None:
        """A user never seen before with each request: what is remembered of others helps nobody."""
        wire = Wire(self.chosen())
        while not self._over:
            nonce, name = self.nonce("GET"), self.nonce("newcomer")
            token = await asyncio.to_thread(lambda: access_token(user_id=name).decode())  # noqa: B023
            began = time.monotonic()
            try:
                answer = await wire.ask(
                    "GET", f"/api/v1/inventory/items?n={nonce}", {"authorization": f"Bearer {token}"}
                )
            except Broken:
                self._ledger.broken["newcomer"] += 1
            else:
                most = BOUND if self.store_well else STORE_BOUND
                self._ledger.answer("a newcomer", answer, nonce, name, time.monotonic() - began, most)
            await asyncio.sleep(0.1)

    async def revoke(self) -> None:
        """Revoke a token that is in use; a second later no worker may take it."""
        name = self.nonce("revoked")
        token = access_token(user_id=name, jti=name).decode()
        headers = {"authorization": f"Bearer {token}"}
        wires = [Wire(port) for port in self._ports for _ in range(3)]
        try:
            for wire in wires:
                await wire.ask("GET", "/api/v1/inventory/items?n=", headers)
            async with aioredis.Redis.from_url(self._store) as client:
                await client.set(f"token:revoked:{name}", "1", ex=60)
            await asyncio.sleep(1)
            for wire in wires:
                answer = await wire.ask("GET", "/api/v1/inventory/items?n=", headers)
                if answer.status == 200 and self.store_well:
                    self._ledger.violation("a revoked token was taken a second later")
        except (Broken, OSError, aioredis.RedisError):
            pass
        finally:
            for wire in wires:
                wire.close()

    async def _leavers(self) -> None:
        """Clients that go before their answer."""
        token = access_token(user_id="leaver").decode()
        request = (
            f"GET /api/v1/inventory/slow?n= HTTP/1.1\r\nhost: t\r\nauthorization: Bearer {token}\r\n\r\n"
        )
        while not self._over:
            await self._say(request.encode(), self._rng.uniform(0, 0.1))
            await asyncio.sleep(0.1)

    async def _unfinished(self) -> None:
        """Clients that never end their head, or their body."""
        head = b"GET /api/v1/inventory/items HTTP/1.1\r\nhost: t\r\n"
        token = access_token(user_id="unfinished")
        body = b"POST /api/v1/sales/orders?n= HTTP/1.1\r\nhost: t\r\nauthorization: Bearer %b\r\n" % token
        while not self._over:
            said = self._rng.choice((head, body + b"content-length: 9999\r\n\r\nabc"))
            await self._say(said, self._rng.uniform(0.2, 1))

    async def _say(self, said: bytes, seconds: float) -> None:
        """Say it, wait, and go."""
        wire = Wire(self.chosen())
        try:
            await wire.open()
            wire.send(said)
        except Broken:
            pass
        await asyncio.sleep(seconds)
        wire.close()

    async def _publish(self) -> None:
        """An alert every now and then, as services publish them."""
        while not self._over:
            await self.publish()
            await asyncio.sleep(0.05)

    async def publish(self, *before: str) -> None:
        """One alert, in one trip with the command `before` it, when the one before is published or failed."""
        async with self._publishing:
            await self._publish_one(before)

    async def _publish_one(self, before: tuple[str, ...]) -> None:
        self._alerts += 1
        name = f"alert-{self._alerts:06}"
        document = {"alert_id": name, "severity": "low", "message": "m", "timestamp": "2026-01-01T00:00:00Z"}
        began = time.monotonic()
        try:
            async with aioredis.Redis.from_url(self._store, socket_timeout=1) as client:
                pipe = client.pipeline(transaction=False)
                if before:
                    pipe.execute_command(*before)
                pipe.publish(CHANNEL, json.dumps(document))
                heard = (await pipe.execute())[-1]
        except (OSError, aioredis.RedisError):
            return
        # What nobody heard was published to nobody: Redis keeps no message.
        if heard:
            self.published[name] = began


class Stream:
    """One reader of alerts, who comes back where it was."""

    def __init__(self, load: Load, number: int) -> None:
        self._load = load
        self._number = number
        self._last = ""
        self.received: list[str] = []
        self.resets = 0
        self.since = 0.0

    async def run(self) -> None:
        token = access_token(user_id=f"reader-{self._number}").decode()
        while not self._load.over:
            wire = Wire(self._load.chosen())
            try:
                async with asyncio.timeout(_SECONDS_OF_STREAM):
                    await self._read(wire, token)
            except (Broken, OSError, EOFError, ValueError, TimeoutError):
                pass
            finally:
                wire.close()
            await asyncio.sleep(0.05)

    async def _read(self, wire: Wire, token: str) -> None:
        await wire.open()
        resume = f"last-event-id: {self._last}\r\n" if self._last else ""
        wire.send(
            f"GET /api/v1/alerts/stream HTTP/1.1\r\nhost: t\r\nauthorization: Bearer {token}\r\n{resume}\r\n".encode()
        )
        status, _ = await wire.head()
        if status != 200:
            return
        parser = Parser()
        while data := await wire.part():
            self.since = self.since or time.monotonic()
            for message in parser.feed(data):
                if message.event == "reset":
                    self.resets += 1
                elif message.event in {"message", "alert"}:
                    self._take(message.json["alert_id"])
                if message.id:
                    self._last = message.id
            if parser.last_id:
                self._last = parser.last_id

    def _take(self, name: str) -> None:
        load, ledger = self._load, self._load.ledger
        late = time.monotonic() - load.published.get(name, time.monotonic())
        if late > ALERT_BOUND and load.store_well and load.workers_well:
            ledger.violation(f"stream {self._number}: {name} came after {late:.1f} s")
        self.received.append(name)

    def disorder(self) -> list[str]:
        """What came out of order, or twice; of publications that were confirmed."""
        known = [name for name in self.received if name in self._load.published]
        return [f"{later} before {name}" for later, name in pairwise(known) if name <= later]

    def missing(self) -> list[str]:
        """What was published since it first read, and never came."""
        got = set(self.received)
        return [name for name, when in self._load.published.items() if when > self.since and name not in got]
