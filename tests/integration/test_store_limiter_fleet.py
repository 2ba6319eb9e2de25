"""The limiter as a fleet of processes on one store: never over the limit, whatever happens to the store."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any

import msgspec
import pytest

from kernel.store.embedded import EmbeddedStore
from tests.support.store import mortal_store, session_store, store_server

__all__ = ["mortal_store", "session_store", "store_server"]

REQUESTS = 240
WINDOW = 60.0


class Fleet:
    """Worker processes that all do the same at the same time."""

    def __init__(self, url: str, size: int, requests: int = REQUESTS) -> None:
        self._url = url
        self.size = size
        self._requests = requests
        self._workers: list[asyncio.subprocess.Process] = []

    async def __aenter__(self) -> Fleet:
        arguments = ("-m", "tests.support.limiter_worker", self._url, str(self._requests), str(WINDOW))
        pipe = asyncio.subprocess.PIPE
        self._workers = list(
            await asyncio.gather(
                *(
                    asyncio.create_subprocess_exec(sys.executable, *arguments, stdin=pipe, stdout=pipe)
                    for _ in range(self.size)
                )
            )
        )
        while any(answer["workers"] != self.size for answer in await self.all("figures")):
            await asyncio.sleep(0.05)
        self.started = time.monotonic()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self._workers:
            assert worker.stdin is not None
            with contextlib.suppress(ConnectionError):
                worker.stdin.close()
        codes = [await worker.wait() for worker in self._workers]
        assert error is not None or codes == [0] * self.size

    async def all(self, command: str) -> list[dict[str, Any]]:
        """The answers of every worker to `command`."""
        return list(await asyncio.gather(*(self._ask(worker, command) for worker in self._workers)))

    async def admitted(self, command: str) -> int:
        """How many requests they admitted together."""
        return sum(answer["admitted"] for answer in await self.all(command))

    def ideal(self) -> float:
        """What one bucket would have admitted at most since the fleet started."""
        return self._requests + (time.monotonic() - self.started) * self._requests / WINDOW

    async def _ask(self, worker: asyncio.subprocess.Process, command: str) -> dict[str, Any]:
        assert worker.stdin is not None
        assert worker.stdout is not None
        worker.stdin.write(command.encode() + b"\n")
        line = await worker.stdout.readline()
        assert line, "the worker died"
        answer: dict[str, Any] = msgspec.json.decode(line)
        return answer


@pytest.fixture
async def fleet(mortal_store: EmbeddedStore) -> AsyncIterator[Fleet]:
    async with Fleet(mortal_store.url, 4) as fleet:
        yield fleet


@pytest.mark.parametrize("size", [2, 4])
async def test_processes_under_load_use_the_limit_up_and_never_exceed_it(
    store_server: EmbeddedStore, size: int
) -> None:
    async with Fleet(store_server.url, size) as fleet:
        admitted = await fleet.admitted("hammer 0.7 client")
        assert admitted <= fleet.ideal()
        # A lease that a worker no longer needs comes back after a second.
        admitted += await fleet.admitted("hammer 1.3 client")
        most = fleet.ideal()
        assert 0.97 * most <= admitted <= most
        figures = await fleet.all("figures")
        # A refused client does not ask the store each time: thousands were sent.
        assert sum(each["trips"] for each in figures) < 400


async def test_an_outage_admits_no_more_than_the_limit_and_a_tenth(
    fleet: Fleet, mortal_store: EmbeddedStore
) -> None:
    used = await fleet.admitted("take 25 client")
    assert used == 100
    mortal_store.kill()
    admitted, fresh = used, 0
    admitted += await fleet.admitted("hammer 0.5 client")
    fresh += await fleet.admitted("hammer 0.5 other")
    # A client half-way to its limit, and one that nobody had seen.
    assert 0.75 * REQUESTS <= admitted <= 1.1 * fleet.ideal()
    assert 0.9 * REQUESTS <= fresh <= 1.1 * fleet.ideal()

    # Back, and empty: nobody gets a second helping.
    mortal_store.start()
    while not all(each["connected"] for each in await fleet.all("figures")):
        await asyncio.sleep(0.02)
    for _ in range(3):
        admitted += await fleet.admitted("hammer 0.2 client")
        fresh += await fleet.admitted("hammer 0.2 other")
    assert admitted <= 1.1 * fleet.ideal()
    assert fresh <= 1.1 * fleet.ideal()
    alone = sum(each["alone"] for each in await fleet.all("figures"))
    await fleet.all("hammer 0.2 client")
    assert sum(each["alone"] for each in await fleet.all("figures")) == alone, "still on their own"


async def test_a_store_restarted_under_load_never_gives_twice(
    fleet: Fleet, mortal_store: EmbeddedStore
) -> None:
    load = asyncio.create_task(fleet.admitted("hammer 2.5 client"))
    for _ in range(3):
        await asyncio.sleep(0.4)
        mortal_store.kill()
        await asyncio.sleep(0.1)
        mortal_store.start()
    admitted = await load
    assert 0.9 * REQUESTS <= admitted <= 1.1 * fleet.ideal()
