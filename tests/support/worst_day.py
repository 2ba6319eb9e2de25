"""What tests of a store's worst days share: requests at a steady pace that ask it for everything, and their record."""

from __future__ import annotations

import asyncio
import itertools
from time import monotonic
from types import TracebackType
from typing import NamedTuple, Self

from kernel.routing.catalog import Limit
from kernel.store.errors import StoreDown
from kernel.store.keys import subscription_changed_at, tenant_read_only, token_revoked
from kernel.store.limiter import Limiter
from kernel.store.redis import Store
from kernel.store.tracked import TrackedMap
from kernel.store.wait_budget import WaitBudget
from tests.support.store import until

# The store's part in a request is bounded by 0.1 s. The rest is for a loaded machine; and what the loop itself was late, when
# others had the processor, is measured beside and taken off.
BOUND = 0.25
_PULSE = 0.01
# The documented bound is 2 s after the store answers again.
BACK = 4.0
LIMIT = Limit(requests=1000, window=60)


class Asked(NamedTuple):
    """One request: how long it waited, whether its limit and its keys could be looked at, and why it failed."""

    seconds: float
    refused: bool
    read: bool
    error: BaseException | None


class Load:
    """Requests of users never seen before, `rate` a second, each asking for a limit and then twice for keys."""

    def __init__(self, url: str, *, rate: float = 40.0, fail_open: bool = True, timeout: float = 0.1) -> None:
        self.store = Store(url, timeout=timeout)
        self.tracked = TrackedMap(self.store)
        self._rate = rate
        self._fail_open = fail_open
        self._numbers = itertools.count()
        self._task: asyncio.Task[None] | None = None
        self._requests: set[asyncio.Task[None]] = set()
        self._late = 0.0
        self._pulse: asyncio.Task[None] | None = None
        self.asked: list[Asked] = []

    async def __aenter__(self) -> Self:
        await self.store.start()
        self.limiter = Limiter(self.store, fail_open=self._fail_open)
        await self.limiter.start()
        await self.tracked.start()
        self._task = asyncio.create_task(self._run())
        self._pulse = asyncio.create_task(self._measure())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._task is not None
        assert self._pulse is not None
        self._task.cancel()
        self._pulse.cancel()
        await asyncio.gather(self._task, self._pulse, *self._requests, return_exceptions=True)
        await self.limiter.close()
        await self.tracked.close()
        await self.store.close()

    async def well(self, seconds: float = BACK) -> None:
        """Until the store and the map are up, and requests are served by them."""
        await until(lambda: self.store.connected and self.tracked.live, seconds)
        seen = len(self.asked)
        await until(lambda: any(each.read for each in self.asked[seen:]), seconds)

    async def lost(self, seconds: float = 3.0) -> str:
        """Until the store counts as lost; why."""
        await until(lambda: not self.store.connected, seconds)
        return self.store.last_error

    async def bear(self, seconds: float) -> None:
        """Let requests come for a while."""
        await asyncio.sleep(seconds)

    def check(self) -> None:
        """No request waited longer than it may, and none failed."""
        assert len(self.asked) > 10
        errors = [each.error for each in self.asked if each.error is not None]
        assert not errors, errors[:3]
        bound = BOUND + self.store.timeout - 0.1
        slow = [each for each in self.asked if each.seconds >= bound]
        assert not slow, slow[:3]
        hanging = [request for request in self._requests if not request.done()]
        assert len(hanging) < self._rate * BOUND

    async def _run(self) -> None:
        while True:
            request = asyncio.create_task(self._request(next(self._numbers)))
            self._requests.add(request)
            request.add_done_callback(self._requests.discard)
            await asyncio.sleep(1 / self._rate)

    async def _measure(self) -> None:
        """Add up how late the loop is."""
        while True:
            due = monotonic() + _PULSE
            await asyncio.sleep(_PULSE)
            self._late += max(0.0, monotonic() - due)

    async def _request(self, number: int) -> None:
        WaitBudget()
        began, late = monotonic(), self._late
        error: BaseException | None = None
        refused, read = False, True
        try:
            outcome = self.limiter.take(f"user:{number}", LIMIT)
            if not isinstance(outcome, tuple):
                await outcome
        except StoreDown as down:
            refused = True
            error = down if self._fail_open else None
        except Exception as other:
            error = other
        for keys in (
            (token_revoked(f"j{number}"), subscription_changed_at(f"t{number}")),
            (tenant_read_only(f"t{number}"),),
        ):
            try:
                await self.tracked.fetch(keys)
            except StoreDown:
                read = False
        seconds = monotonic() - began - (self._late - late)
        self.asked.append(Asked(seconds, refused, read, error))
