"""Ledger: the requests with idempotency keys that this worker carries out, and what is still to be told of others.

While a request is under way its lease is renewed. What the store could not be told in time is told as soon as it can be, for
some minutes and within bounds; a record that is never settled says "unknown" when its lease is over, which is never wrong.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from functools import partial
from time import monotonic
from typing import Any, NamedTuple

from kernel.http.problems import IDEMPOTENCY_UNAVAILABLE, OVERLOADED, GatewayError
from kernel.store.errors import StoreDown, StoreError
from kernel.store.idempotency import (
    DONE,
    GONE,
    LEASE_SECONDS,
    NOT_KEPT,
    OURS,
    SENT,
    UNKNOWN,
    Records,
    State,
)
from kernel.store.redis import Store
from kernel.store.wait_budget import answered, taken_up
from kernel.traffic.idempotency_key import Keyed

_RETRY_SOON = ((b"retry-after", b"1"),)
_TICK = 1.0
_RENEW = LEASE_SECONDS / 3
# What bodies and answers of requests with keys may take in a worker, all together; and those the store has yet to be told.
# SECURITY: a little of each does not count, as with requests that have no key: who sends large bodies slowly keeps nobody
# else's small ones out.
_MOST_BYTES = 64 * 1024**2
_FREE_BYTES = 32 * 1024
_MOST_UNTOLD_BYTES = 16 * 1024**2
_MOST_UNTOLD = 10_000
_UNTOLD_SECONDS = 600.0


class _Settlement(NamedTuple):
    """What the store is to be told; `until` when (monotonic seconds) that is given up."""

    request: Keyed
    state: State
    value: bytes
    until: float


class Room:
    """What one request's body and answer take."""

    __slots__ = ("_bytes", "_free", "_ledger")

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._bytes = 0
        self._free = _FREE_BYTES

    def take(self, size: int) -> bool:
        """Whether there is room for `size` more bytes, which then are taken."""
        free = min(size, self._free)
        size -= free
        if size and self._ledger.held + size > _MOST_BYTES:
            return False
        self._free -= free
        self._ledger.held += size
        self._bytes += size
        return True

    def demand(self, size: int) -> None:
        """The same. Raises GatewayError: OVERLOADED."""
        if not self.take(size):
            raise GatewayError(OVERLOADED("Too many bodies with idempotency keys at once.", _RETRY_SOON))

    def leave(self) -> None:
        """All of it is free."""
        self._ledger.held -= self._bytes
        self._bytes = 0


class Ledger:
    """One a worker; `close` it before its store. `max_body`, `max_answer`: bytes."""

    def __init__(self, store: Store, *, keep: float, max_body: int, max_answer: int) -> None:
        self.max_body = max_body
        self.max_answer = max_answer
        self.held = 0
        self.results: defaultdict[str, int] = defaultdict(int)
        self._outcomes: defaultdict[str, int] = defaultdict(int)
        self._store = store
        self._records = Records(store, keep)
        self._running: set[Keyed] = set()
        self._untold: deque[_Settlement] = deque()
        self._untold_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        store.on_connect(self._connected)

    def families(self) -> dict[str, Any]:
        """For metrics."""
        return {
            "gateway_idempotency_requests_total": dict(self.results),
            "gateway_idempotency_outcomes_total": dict(self._outcomes),
            "gateway_idempotency_under_way": len(self._running),
        }

    async def claim(self, request: Keyed) -> tuple[str, bytes]:
        """The verdict: OURS, and the request may be sent; or what became of the first one, and what was kept of it.

        Raises:
            GatewayError: IDEMPOTENCY_UNAVAILABLE: the store cannot say.
        """
        budget = taken_up()
        try:
            verdict, value = await self._reply(self._records.claim(request.name, request.tag, request.owner))
            if verdict.decode() != OURS:
                return verdict.decode(), value
            if not await self._reply(self._records.settle(request.name, SENT, request.tag, request.owner)):
                raise StoreDown("the claim was over before it was used")
        except (StoreError, asyncio.CancelledError) as error:
            # It may have been executed all the same.
            self._tell(request, GONE, b"")
            if isinstance(error, asyncio.CancelledError):
                raise
            self.results["unavailable"] += 1
            raise GatewayError(IDEMPOTENCY_UNAVAILABLE("", _RETRY_SOON)) from None
        finally:
            budget.end()
        request.renewed = monotonic()
        self._running.add(request)
        self._watch()
        return OURS, b""

    async def keep(self, request: Keyed, answer: bytes) -> None:
        """Its answer is to be replayed. Returns when the store knows, or what the request may wait is over."""
        await self._known(self._settle(request, DONE, answer))

    async def lose(self, request: Keyed) -> None:
        """Nobody knows whether it took effect. Returns as `keep`."""
        await self._known(self._settle(request, UNKNOWN, b""))

    async def release(self, request: Keyed) -> None:
        """Nothing of it has reached the service: it may be sent again. Returns as `keep`."""
        await self._known(self._settle(request, GONE, b""))

    def keep_nothing(self, request: Keyed, status: int) -> None:
        """It was answered with `status`, and that is all that is kept."""
        self._settle(request, NOT_KEPT, b"%d" % status)

    async def close(self) -> None:
        """Tell the store, once more, what it does not know."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        replies = []
        for each in self._untold:
            try:
                replies.append(self._ask(each))
            except StoreDown:
                break
        self._untold.clear()
        await asyncio.gather(*replies, return_exceptions=True)

    async def _reply(self, reply: asyncio.Future[Any]) -> Any:
        """What comes within the time that a request may wait. Raises StoreError."""
        reply.add_done_callback(_seen)
        if not await answered(reply, self._store.timeout):
            raise StoreDown("no answer in time")
        return reply.result()

    async def _known(self, told: asyncio.Future[Any] | None) -> None:
        if told is not None:
            budget = taken_up()
            await answered(told, self._store.timeout)
            budget.end()

    # --- telling the store -----------------------------------------------------------------------------------------

    def _settle(self, request: Keyed, state: State, value: bytes) -> asyncio.Future[Any] | None:
        self._running.discard(request)
        self._outcomes[state] += 1
        return self._tell(request, state, value)

    def _tell(self, request: Keyed, state: State, value: bytes) -> asyncio.Future[Any] | None:
        return self._try(_Settlement(request, state, value, monotonic() + _UNTOLD_SECONDS))

    def _try(self, settlement: _Settlement) -> asyncio.Future[Any] | None:
        try:
            reply = self._ask(settlement)
        except StoreDown:
            self._later(settlement)
            return None
        reply.add_done_callback(partial(self._told, settlement))
        return reply

    def _ask(self, settlement: _Settlement) -> asyncio.Future[Any]:
        request, state, value, _ = settlement
        return self._records.settle(request.name, state, request.tag, request.owner, value)

    def _told(self, settlement: _Settlement, reply: asyncio.Future[Any]) -> None:
        # A store that refuses may only be full for a while.
        if not reply.cancelled() and isinstance(reply.exception(), StoreError):
            self._later(settlement)

    def _later(self, settlement: _Settlement) -> None:
        size = len(settlement.value)
        full = len(self._untold) >= _MOST_UNTOLD or self._untold_bytes + size > _MOST_UNTOLD_BYTES
        if monotonic() < settlement.until and not full and not self._closed:
            self._untold.append(settlement)
            self._untold_bytes += size
            self._watch()

    # --- time ------------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_TICK, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._renew(monotonic() - _RENEW)
        if self._store.connected:
            waiting, self._untold = self._untold, deque()
            self._untold_bytes = 0
            for each in waiting:
                self._try(each)
        if self._running or self._untold:
            self._watch()

    def _connected(self, _after_outage: bool) -> None:
        """It may have lost its data: whoever is under way is made known again."""
        self._renew(monotonic())

    def _renew(self, before: float) -> None:
        """Renew the leases that were renewed `before`."""
        now = monotonic()
        for request in self._running:
            if request.renewed > before:
                continue
            try:
                reply = self._records.settle(request.name, SENT, request.tag, request.owner, renewal=True)
            except StoreDown:
                return
            request.renewed = now
            reply.add_done_callback(_seen)


def _seen(reply: asyncio.Future[Any]) -> None:
    """Take note of a failure, or asyncio reports it: the lease is renewed again in any case."""
    if not reply.cancelled():
        reply.exception()
