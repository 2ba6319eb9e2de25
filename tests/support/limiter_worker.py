"""A worker of a fleet, as a process: `python -m tests.support.limiter_worker STORE_URL REQUESTS WINDOW`.

Answers one JSON line to each line on stdin: `take N KEY` (N requests one after the other), `hammer SECONDS KEY` (as
many as it can, several at a time), `figures`.
"""

from __future__ import annotations

import asyncio
import sys
import time

import msgspec

from kernel.routing.catalog import Limit
from kernel.store.limiter import Limiter, Verdict
from kernel.store.redis import Store


class Worker:
    """One limiter and what its parent may ask of it."""

    def __init__(self, limiter: Limiter, limit: Limit) -> None:
        self._limiter = limiter
        self._limit = limit

    async def _request(self, key: str) -> bool:
        verdict = self._limiter.take(key, self._limit)
        if not isinstance(verdict, tuple):
            verdict = await verdict
        assert plausible(verdict, self._limit), verdict
        return verdict[0]

    async def take(self, count: int, key: str) -> dict[str, int]:
        """So many requests, one after the other."""
        return {"admitted": sum([await self._request(key) for _ in range(count)])}

    async def hammer(self, seconds: float, key: str) -> dict[str, int]:
        """Requests without pause from eight clients."""
        end = time.monotonic() + seconds
        admitted = sent = 0

        async def client() -> None:
            nonlocal admitted, sent
            while time.monotonic() < end:
                sent += 1
                passed = await self._request(key)
                admitted += passed
                await asyncio.sleep(0.0005)

        await asyncio.gather(*(client() for _ in range(8)))
        return {"admitted": admitted, "sent": sent}


def plausible(verdict: Verdict, limit: Limit) -> bool:
    """Whether the figures of a verdict agree with each other."""
    admitted, remaining, reset, retry = verdict
    sane = 0 <= remaining < limit.requests and 0 <= reset <= limit.window * 1.01
    return sane and (retry == 0 if admitted else remaining == 0 and 0 <= retry <= limit.window)


async def main(url: str, requests: str, window: str) -> None:
    """Serve stdin until it ends."""
    store = Store(url, probe=0.05)
    await store.start()
    limiter = Limiter(store)
    await limiter.start()
    worker = Worker(limiter, Limit(requests=int(requests), window=float(window)))
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    answer: dict[str, int]
    while line := (await lines.readline()).decode().split():
        match line:
            case ["take", count, key]:
                answer = await worker.take(int(count), key)
            case ["hammer", seconds, key]:
                answer = await worker.hammer(float(seconds), key)
            case _:
                answer = limiter.snapshot() | {"connected": int(store.connected)}
        print(msgspec.json.encode(answer).decode(), flush=True)
    await limiter.close()
    await store.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
