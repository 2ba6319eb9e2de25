"""What tests of the limiter share: a clock of their own, in workers and script alike, and the ideal token bucket."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from kernel.routing.catalog import Limit
from kernel.store.errors import StoreDown
from kernel.store.limiter import LEASE, Limiter, Verdict
from kernel.store.link import Argument
from kernel.store.redis import Script, Store

# The script with its clock in a key.
TIMED_LEASE = Script(
    LEASE.source.replace(
        "redis.call('TIME')",
        "(function(t) return {math.floor(t / 1000000), t % 1000000} end)(tonumber(redis.call('GET', 'clock')))",
    )
)


class Clock:
    """Seconds that pass only by `advance`, for workers and store alike."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    async def advance(self, seconds: float) -> None:
        """Let `seconds` pass."""
        self.now += seconds
        await self._store.execute("SET", "clock", round(self.now * 1e6))


class LossyStore(Store):
    """A store whose next script replies can get lost after the scripts were executed."""

    losing = 0

    def run(self, script: Script, keys: Sequence[str], args: Sequence[Argument]) -> asyncio.Future[Any]:
        reply = super().run(script, keys, args)
        if not self.losing:
            return reply
        self.losing -= 1
        lost: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def lose(reply: asyncio.Future[Any]) -> None:
            if not reply.cancelled():
                reply.exception()
            lost.set_exception(StoreDown("reply lost"))

        reply.add_done_callback(lose)
        return lost


class IdealBucket:
    """The token bucket as it is defined: every request takes its token from one bucket at its moment."""

    def __init__(self, limit: Limit, clock: Callable[[], float]) -> None:
        self._limit = limit
        self._clock = clock
        self._at = clock()
        self.tokens = float(limit.requests)

    def admit(self) -> None:
        """One request was admitted now; `tokens` may not fall below nothing."""
        now = self._clock()
        refill = (now - self._at) * self._limit.requests / self._limit.window
        self.tokens = min(self._limit.requests, self.tokens + refill) - 1
        self._at = now

    def give_back(self) -> None:
        """What was admitted costs nothing after all."""
        self.admit()
        self.tokens = min(self._limit.requests, self.tokens + 2)


async def verdict(limiter: Limiter, key: str, limit: Limit) -> Verdict:
    """One request."""
    outcome = limiter.take(key, limit)
    return outcome if isinstance(outcome, tuple) else await outcome


async def held(limiter: Limiter, key: str, limit: Limit) -> Verdict:
    """One request whose token is to be settled."""
    outcome = limiter.hold(key, limit)
    return outcome if isinstance(outcome, tuple) else await outcome


async def settled(limiter: Limiter) -> None:
    """Wait until `limiter` has no call on its way."""
    while any(bucket.flight is not None for bucket in limiter._buckets.values()):
        await asyncio.sleep(0)
