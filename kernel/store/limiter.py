"""Limiter: token buckets shared by all workers and instances, at the price of a dict hit.

A worker takes a *lease* of several tokens from the bucket in the store (see lease.lua, and the proof there that no
more is ever admitted than by one bucket) and spends it without asking again. It asks for about a second's worth at
the client's pace, and renews in the background, so that steady traffic never waits. What those who wait will use counts as
used at once. A lease that lies idle for a second is returned, except for a few tokens of a client far from its limit (three
in a hundred, over all workers): they are lent for a minute, and then expire.

Without the store (`fail_open`), what is left of a lease is spent; then each worker has a bucket of its own: the limit
divided by the live workers last seen, charged with all it admitted before, and beginning with at most its part of what
the store had left. So workers that share a client's requests evenly admit together what the shared bucket would have; a
worker that had not seen the client adds its own part at most. Back with the store, every worker first tells it of each
bucket that is not full, and the store keeps the lowest figure: also a store that has lost its data gives no client a
second helping. Meanwhile, for `_SETTLE` seconds, the workers still use their own buckets.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable
from functools import partial
from importlib.resources import files
from time import monotonic
from typing import Any

from kernel.routing.catalog import Limit
from kernel.store.bucket import Bucket, Verdict
from kernel.store.errors import StoreDown, StoreRefused
from kernel.store.link import stop
from kernel.store.redis import Script, Store
from kernel.store.reporter import report_all
from kernel.store.wait_budget import answered
from kernel.store.workers import WorkerRegistry

__all__ = ["Limiter", "Verdict"]

LEASE = Script(files("kernel.store").joinpath("lease.lua").read_text())

_LEASE_SECONDS = 10.0
# Of a few tokens of a client far from its limit, but no longer than its window: a bucket that is full soon has no use for it.
_LONG_LEASE_SECONDS = 60.0
# The worker's end of a lease comes before the store's even when its clock is a little slow.
_SPENDABLE = 0.99
_RENEW_BEFORE = 2.0
_IDLE = 1.0
_TICK = 0.1
_BEAT = 1.0
# Longer than any worker takes to notice that the store is back.
_SETTLE = 0.6
_MAX_BUCKETS = 32_768


class Limiter:
    """The buckets of one worker. Make it in the loop that will use it, `start` it, and `close` it before its store.

    `fail_open`: without the store enforce alone (else raise StoreDown). `fleet`: the number of workers to assume
    until the store has said how many live. `clock` and `lease` are for tests.
    """

    def __init__(
        self,
        store: Store,
        *,
        fail_open: bool = True,
        fleet: int = 1,
        max_buckets: int = _MAX_BUCKETS,
        clock: Callable[[], float] = monotonic,
        lease: Script = LEASE,
    ) -> None:
        self._store = store
        self._fleet = WorkerRegistry(store, fleet, clock)
        self._fail_open = fail_open
        self._max_buckets = max_buckets
        self._clock = clock
        self._lease = lease
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()
        # Buckets with a lease, in the order in which they are to be looked after.
        self._held: deque[Bucket] = deque()
        self._spent: set[Bucket] = set()  # with a used-up lease: until the store knows, it refills too little
        self._numbers = itertools.count(1)
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._next_beat = 0.0
        self._epoch = 0
        self._alone_until = 0.0
        self._reseeding: asyncio.Task[None] | None = None
        self._beating: asyncio.Task[None] | None = None
        self._trips = 0
        self._waits = 0
        self._alone = 0
        store.on_connect(self._reconnected)

    async def start(self) -> None:
        """Make this worker known to the others and begin to look after leases. Does not need the store to be up."""
        await self._fleet.beat()
        self._tick()

    async def close(self) -> None:
        """Return every lease and leave the fleet, if the store answers; no more `take` after this."""
        if self._timer is not None:
            self._timer.cancel()
        await stop([task for task in (self._reseeding, self._beating) if task is not None])
        await report_all([each for each in self._buckets.values() if each.left], self._give_back, self._clock)
        await self._fleet.leave()

    def take(self, key: str, limit: Limit) -> Verdict | Awaitable[Verdict]:
        """One token for `key` under `limit` (at least one request a window): the verdict, or an awaitable of it.

        The awaitable raises StoreDown when the store is out of reach and the limiter does not fail open. A key goes
        with one limit: used with two in turn, each would begin anew every time.
        """
        bucket = self._buckets.get(key)
        if bucket is None or bucket.limit is not limit:
            bucket = self._bucket(key, limit)
        now = self._clock()
        left = bucket.left
        if left > 0 and now < bucket.until:
            # PERF: 0.3 us; no store, no await.
            left -= 1
            bucket.left = left
            bucket.seen = now
            if left <= bucket.low and bucket.flight is None:
                self._fly(bucket, now)
            remaining = left + bucket.rest
            return True, remaining, (bucket.capacity - remaining) * bucket.per_token, 0.0
        return self._settle(bucket, now) or self._wait(bucket)

    def hold(self, key: str, limit: Limit) -> Verdict | Awaitable[Verdict]:
        """As `take`, but whoever takes it must `settle` it: what it was for may turn out to cost nothing.

        The store learns of the token's use when it is settled; until then it is part of the lease.
        """
        bucket = self._buckets.get(key)
        if bucket is None or bucket.limit is not limit:
            bucket = self._bucket(key, limit)
        now = self._clock()
        # What has come for those who wait counts as used already.
        if bucket.left > bucket.waiting - bucket.holding and now < bucket.until:
            verdict = self._spend(bucket, now, held=1)
            if bucket.left <= bucket.low and bucket.flight is None:
                self._fly(bucket, now)
            return verdict
        return self._settle(bucket, now) or self._wait(bucket, held=1)

    def settle(self, key: str, *, back: bool) -> None:
        """A held token is used for good or, `back`, never was."""
        bucket = self._buckets.get(key)
        if bucket is None:
            return
        if not bucket.held:
            # It was this worker's own, or the bucket has been made anew since.
            if back and bucket.alone:
                bucket.give_alone(self._fleet.size)
            return
        now = self._clock()
        bucket.held -= 1
        if back and now < bucket.until:
            bucket.left += 1
            bucket.blocked = 0.0
            if not bucket.far:
                # Near the limit, what lies here until it is looked after is what others are refused.
                self._give_back(bucket, now)
            elif not bucket.queued:
                self._look_after(bucket, now)
        elif not bucket.left:
            self._spent.add(bucket)

    def snapshot(self) -> dict[str, int]:
        """Figures for metrics: live workers, local buckets, and how often so far a call went to the store, a request
        waited for one, and a request was judged by this worker alone."""
        return {
            "workers": self._fleet.size,
            "buckets": len(self._buckets),
            "trips": self._trips,
            "waits": self._waits,
            "alone": self._alone,
        }

    # --- a request ---------------------------------------------------------------------------------------------

    def _settle(self, bucket: Bucket, now: float) -> Verdict | None:
        """The verdict on a bucket without a lease, if it can be had without the store."""
        bucket.asked = now
        if now < bucket.blocked and not bucket.alone:
            return bucket.refuse(now)
        if self._fail_open and (not self._store.connected or now < self._alone_until):
            self._alone += 1
            return bucket.take_alone(now, self._fleet.size)
        return None

    def _spend(self, bucket: Bucket, now: float, held: int) -> Verdict:
        """The verdict on a request that gets a token of the lease."""
        bucket.left -= 1
        bucket.held += held
        bucket.seen = now
        if not bucket.left and bucket.used > bucket.reported:
            self._spent.add(bucket)
        remaining = bucket.left + bucket.rest
        return True, remaining, (bucket.capacity - remaining) * bucket.per_token, 0.0

    async def _wait(self, bucket: Bucket, held: int = 0) -> Verdict:
        self._waits += 1
        while True:
            flight: asyncio.Future[None] | None = None
            bucket.waiting += 1
            bucket.holding += held
            try:
                if bucket.flight is None:
                    self._fly(bucket, self._clock())
                flight = bucket.flight
                # Without a flight nothing can come; and whoever shares the tokens may take them all, again and again.
                landed = flight is not None and await answered(flight, self._store.timeout)
            except asyncio.CancelledError:
                if not held and flight is not None and flight.done() and bucket.left:
                    bucket.left -= 1  # the token that came for it counts as used
                raise
            finally:
                bucket.waiting -= 1
                bucket.holding -= held
            now = self._clock()
            if bucket.left > (bucket.waiting - bucket.holding if held else 0) and now < bucket.until:
                return self._spend(bucket, now, held)
            verdict = self._settle(bucket, now)
            if verdict is not None:
                return verdict
            if not landed or not self._store.connected or now < self._alone_until:
                if not self._fail_open:
                    raise StoreDown("the limits cannot be checked")
                self._alone += 1
                return bucket.take_alone(now, self._fleet.size)

    # --- leases ------------------------------------------------------------------------------------------------

    def _fly(self, bucket: Bucket, now: float, *, renew: bool = True) -> None:
        """Report to the store and, to `renew`, ask for tokens. `bucket.flight` is done when the reply has been taken
        in; it stays None when the store is down."""
        fleet = self._fleet.size
        wanted = max(bucket.wanted(now, fleet), 0) if renew else 0
        guess = int(bucket.estimate(now))
        bucket.low = -1
        waiting = bucket.waiting - bucket.holding if renew else 0
        used = bucket.used
        args = (
            bucket.capacity,
            bucket.window,
            self._fleet.me,
            bucket.number,
            used,
            bucket.returned,
            wanted,
            fleet,
            int(_LEASE_SECONDS * 1e6),
            guess,
            # What was admitted without the store, or what a store has forgotten, is made known by this.
            -1 if bucket.epoch == self._epoch and not bucket.alone else guess,
            int((now - bucket.seen) * 1e6),
            waiting,
            bucket.keep(fleet),
            int(max(min(_LONG_LEASE_SECONDS, bucket.limit.window), _LEASE_SECONDS) * 1e6),
        )
        try:
            reply = self._store.run(self._lease, (bucket.key,), args)
        except StoreDown:
            return
        self._trips += 1
        bucket.flight = self._loop.create_future()
        reply.add_done_callback(partial(self._landed, bucket, now, self._epoch, used))

    def _landed(self, bucket: Bucket, sent: float, epoch: int, used: int, reply: asyncio.Future[Any]) -> None:
        flight, bucket.flight = bucket.flight, None
        assert flight is not None
        flight.set_result(None)
        try:
            granted, rest, wait, known, spent, lease = reply.result()
        except StoreRefused:
            # Out of memory, say: as good as down, but nobody will announce its return.
            self._alone_until = max(self._alone_until, self._clock() + _IDLE)
            return
        except (StoreDown, asyncio.CancelledError):
            return
        now = self._clock()
        # Counted as used by a call whose reply was lost, or for somebody who waits no more.
        gone = max(0, known - used) + max(0, spent - bucket.waiting + bucket.holding)
        until = sent + _SPENDABLE * lease / 1e6
        bucket.land(granted, rest, wait / 1e6, now, until, self._fleet.size, gone)
        bucket.reported = known + spent
        bucket.epoch = epoch
        if now >= self._alone_until:
            bucket.alone = False
        if bucket.left and not bucket.queued:
            self._look_after(bucket, now)

    def _look_after(self, bucket: Bucket, now: float) -> None:
        bucket.queued = True
        bucket.due = now + _IDLE
        self._held.append(bucket)

    def _give_back(self, bucket: Bucket, now: float) -> None:
        if bucket.left and now < bucket.until and bucket.flight is None:
            bucket.returned += bucket.left
            bucket.left = 0
            self._fly(bucket, now, renew=False)

    def _bucket(self, key: str, limit: Limit) -> Bucket:
        now = self._clock()
        known = self._buckets.get(key)
        if known is not None:
            if known.limit == limit:
                known.limit = limit
                return known
            self._give_back(known, now)
        elif len(self._buckets) >= self._max_buckets:
            self._evict(now)
        bucket = self._buckets[key] = Bucket(key, limit, next(self._numbers), now, self._epoch)
        return bucket

    def _evict(self, now: float) -> None:
        """Make room for a new bucket: drop one of the oldest that no request is using."""
        for _ in range(8):
            key, bucket = self._buckets.popitem(last=False)
            if bucket.flight is None and not bucket.waiting and now - bucket.touched >= _IDLE:
                break
            self._buckets[key] = bucket
        else:
            key, bucket = self._buckets.popitem(last=False)
            if bucket.flight is not None or bucket.waiting:
                self._buckets[key] = bucket
                return
        self._give_back(bucket, now)

    # --- time --------------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        self._timer = self._loop.call_later(_TICK, self._tick)
        now = self._clock()
        self.sweep(now)
        if now >= self._next_beat:
            self._next_beat = now + _BEAT
            self._beating = self._loop.create_task(self._fleet.beat())

    def sweep(self, now: float) -> None:
        """Renew or return the leases that are due, report those used up, and forget a few idle buckets.

        The few spare tokens of a client far from its limit expire, after a whole long lease without a request.
        """
        spent, self._spent = self._spent, set()
        for bucket in spent:
            if not bucket.left and bucket.flight is None:
                self._fly(bucket, now, renew=False)
        held = self._held
        while held and held[0].due <= now:
            bucket = held.popleft()
            bucket.queued = False
            # PERF: one that is lent for longer is not looked at again, nor given back: it ends by itself.
            if bucket.left == 0 or now >= bucket.until or bucket.until - now > _LEASE_SECONDS:
                continue
            if bucket.flight is None:
                if now - bucket.seen >= _IDLE:
                    self._give_back(bucket, now)
                    continue
                if bucket.until - now < _RENEW_BEFORE:
                    self._fly(bucket, now)
            self._look_after(bucket, now)
        for _ in range(min(len(self._buckets), 16)):
            key, bucket = self._buckets.popitem(last=False)
            idle = now - bucket.touched
            if bucket.queued or bucket.flight is not None or idle < max(bucket.limit.window, _LEASE_SECONDS):
                self._buckets[key] = bucket

    def _reconnected(self, after_outage: bool) -> None:
        """The store may have lost its data: tell it what this worker knows of each bucket that is not full."""
        self._epoch += 1
        now = self._clock()
        self._fleet.doubt()
        self._next_beat = now
        if after_outage and self._fail_open:
            self._alone_until = now + _SETTLE
        if self._reseeding is not None:
            self._reseeding.cancel()
        telling = report_all(list(self._buckets.values()), self._retell, self._clock)
        self._reseeding = self._loop.create_task(telling)

    def _retell(self, bucket: Bucket, now: float) -> None:
        if bucket.flight is None and bucket.estimate(now) < bucket.capacity - 1:
            self._fly(bucket, now, renew=False)
