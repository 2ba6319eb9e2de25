"""The faults. Each is a coroutine that makes the trouble, waits, and ends it; its name says whose it is."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal

import redis.asyncio as aioredis

from kernel.server.embedded_store import EmbeddedStore
from tests.drills.load import Load
from tests.drills.service import Service
from tests.support.gateway import GatewayProcess, workers


class Faults:
    """What can be done to a drill's parts. Times in seconds."""

    def __init__(
        self,
        store: EmbeddedStore,
        service: Service,
        gateways: list[GatewayProcess],
        load: Load,
        rng: random.Random,
    ) -> None:
        self._store = store
        self._service = service
        self._gateways = gateways
        self._load = load
        self._rng = rng

    def names(self) -> list[str]:
        """Every fault."""
        return sorted(name for name in dir(self) if name.startswith(("store_", "service_", "worker_")))

    async def _command(self, *words: str) -> None:
        with contextlib.suppress(aioredis.RedisError, OSError):
            async with aioredis.Redis.from_url(self._store.url, socket_timeout=1) as client:
                await client.execute_command(*words)  # type: ignore[no-untyped-call]

    @contextlib.asynccontextmanager
    async def _ill_store(self):  # type: ignore[no-untyped-def]
        """While the store is ill, what depends on it is not held against the gateway; 3 s more to be found well."""
        self._load.store_well = False
        try:
            yield
        finally:
            await asyncio.sleep(3)
            self._load.store_well = True

    async def store_read_only(self) -> None:
        async with self._ill_store():
            await self._command("REPLICAOF", "127.0.0.1", "1")
            await asyncio.sleep(4)
            await self._command("REPLICAOF", "NO", "ONE")

    async def store_frozen(self) -> None:
        async with self._ill_store():
            pid = self._store.pid
            assert pid is not None
            os.kill(pid, signal.SIGSTOP)
            await asyncio.sleep(self._rng.uniform(0.3, 3))
            os.kill(pid, signal.SIGCONT)

    async def store_paused_for_writes(self) -> None:
        async with self._ill_store():
            await self._command("CLIENT", "PAUSE", "2500", "WRITE")
            await asyncio.sleep(2.5)

    async def store_busy(self) -> None:
        async with self._ill_store():
            await self._command("CLIENT", "PAUSE", "1500", "ALL")
            await asyncio.sleep(1.5)

    async def store_drops_subscribers(self) -> None:
        """All at once; what is published meanwhile is heard by nobody."""
        await self._command("CLIENT", "KILL", "TYPE", "PUBSUB")
        await asyncio.sleep(1)

    async def store_drops_one_subscriber(self) -> None:
        """One after the other, and at once something is published, which only the others hear."""
        for _ in range(8):
            with contextlib.suppress(aioredis.RedisError, OSError):
                async with aioredis.Redis.from_url(self._store.url, socket_timeout=1) as client:
                    listed = await client.client_list(_type="pubsub")
                if listed:
                    await self._load.publish("CLIENT", "KILL", "ID", self._rng.choice(listed)["id"])
            await asyncio.sleep(0.5)

    async def store_drops_everybody(self) -> None:
        async with self._ill_store():
            await self._command("CLIENT", "KILL", "TYPE", "NORMAL", "SKIPME", "YES")
            await asyncio.sleep(0.5)

    async def service_resets(self) -> None:
        self._service.resets = True
        await asyncio.sleep(2)

    async def service_errs(self) -> None:
        self._service.errors = True
        await asyncio.sleep(2)

    async def service_cuts_bodies(self) -> None:
        self._service.cuts = True
        await asyncio.sleep(2)

    async def service_hangs_in_one_place(self) -> None:
        self._service.hangs = True
        await asyncio.sleep(4)

    async def service_answers_unasked(self) -> None:
        self._service.chatter = True
        await asyncio.sleep(3)

    async def service_restarts(self) -> None:
        await self._service.stop()
        await asyncio.sleep(self._rng.uniform(0.1, 1.5))
        await self._service.start()
        await asyncio.sleep(1)

    async def worker_killed(self) -> None:
        await self._worker(signal.SIGKILL)

    async def worker_frozen(self) -> None:
        pids = workers(self._rng.choice(self._gateways))
        self._load.workers_well = False
        pid = self._rng.choice(pids)
        os.kill(pid, signal.SIGSTOP)
        await asyncio.sleep(0.8)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
        await asyncio.sleep(1)
        self._load.workers_well = True

    async def worker_reload(self) -> None:
        self._rng.choice(self._gateways).process.send_signal(signal.SIGHUP)
        await asyncio.sleep(5)

    async def _worker(self, number: signal.Signals) -> None:
        self._load.workers_well = False
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._rng.choice(workers(self._rng.choice(self._gateways))), number)
        await asyncio.sleep(3)
        self._load.workers_well = True
