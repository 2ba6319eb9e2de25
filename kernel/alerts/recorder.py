"""Recorder: sees to it that every published alert is recorded, soon and in order, whichever workers live.

Every worker hears every alert and holds it until it hears that it was recorded. All hear the same announcements, so all
know who recorded last: that worker, the leader, records the next alert at once. Whatever anybody still holds after its hold
is recorded by whoever holds it. Two who record the same do no harm: the store's script takes each alert once.

    HOLD        35 to 55 ms, drawn by each worker: from when it heard an alert until it records it whoever leads
    PROBATION   85 ms: from when its subscription came into force until a worker records what it heard since
    STEP        10 ms, five times at most: what a newcomer is ahead of one who came later

Why none is lost while one worker that heard it lives, and why each is recorded within 100 ms: an alert has one deadline, the
later of heard + HOLD and the end of the PROBATION in which it was heard (heard + PROBATION at most). Nothing moves it, and
nothing but the word that this very alert is in the store takes it out of the hand. When another one is announced first, it
was passed over (its leader's subscription had broken), and is recorded without waiting for its deadline.

Why in order: what is recorded of a tenant is always the oldest that is held, in the order heard, one script call at a time.
So B comes before A, published earlier, only by a worker that never heard A: it subscribed in between, and B waits out its
PROBATION. Its subscription begins with a hello, which lies between A and B for whoever heard A. On it they record at once
what they hold: 85 ms before the newcomer may, which is the margin for a loop that is late and for the way to the store.
Those who are on probation themselves (after a failover of the store everybody is) end it a STEP earlier for each hello that
they hear. Whoever subscribed earlier has heard all hellos that a later one has, and the later one's: it is a STEP ahead.

Why in order, too, when the store could not be reached or took nothing: who heard A could not record it on the newcomer's
hello, and does not find the store again at the same time. So (1) a subscription lives on while its server does, whatever
becomes of the connection for commands: nobody misses what others hear. (2) Who finds the store again says so to all ("back"),
who ask it at once; so does whoever hears anything else of it. (3) Who was on probation when it was lost, or came later,
begins it anew with that word.

Where that ends: A was heard by one worker alone that lives and cannot reach the store for longer than PROBATION after others
can, or is held up for so long itself. Nobody else can know of A, since pub/sub keeps and numbers nothing. So whoever has
B either waits for a worker that may be dead, for as long as that may take, or records it within the 100 ms promised, and A
comes after it: no rule keeps both. The 100 ms are kept, and A is recorded late. It takes two faults at once: one that leaves
A with a single worker (all others died or were cut off just before it), and one between that one and the store. One fault is
both, the death of the store's server: what of its last alerts came to one worker only may follow those of its successor.

Under a burst that takes a leader longer than a HOLD all others would do the same work once more, and make it later still: who
steps in and finds a whole call recorded already leaves the tenant alone for another HOLD, unless something is passed over.

A leader that dies costs the next alert one HOLD; nobody renews a lease.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from time import monotonic

from kernel.alerts.counters import Counters
from kernel.alerts.intake import Alert
from kernel.store.alertlog import AlertLog
from kernel.store.errors import StoreDown
from kernel.store.link import stop

# Drawn anew by each worker, so that they do not all step in at once.
_HOLD = (0.035, 0.055)
_PROBATION = 0.085
_STEP = 0.01
_MAX_STEPS = 5
# The store's refusals and failures: the first pause, and the longest. Newcomers wait no longer than a PROBATION.
_SOON = 0.01
_RETRY = 0.25
_BATCH = 64
_BATCH_BYTES = 256 * 1024
# What is held at most, also while the store is out of reach.
_MAX_HELD_BYTES = 16 * 1024 * 1024
# Refused by the store so often, a batch is given up.
_MAX_REFUSALS = 20


class _Held:
    """An alert in hand: from when on it `may` be recorded, and when it is `due`."""

    __slots__ = ("due", "key", "may", "own", "payload", "tenant")

    def __init__(self, alert: Alert, may: float, due: float, own: bool) -> None:
        self.tenant = alert.tenant
        self.key = alert.key
        self.payload = alert.payload
        self.may = may
        self.due = due
        # This worker's to record as the leader: known to the store already, it was published twice.
        self.own = own


class Recorder:
    """One a worker; `me` is its name in announcements."""

    def __init__(self, log: AlertLog, me: str, numbers: Counters) -> None:
        self._log = log
        self._me = me.encode()
        self._numbers = numbers
        self._leader = b""
        self._hold = random.uniform(*_HOLD)  # noqa: S311
        # When the probation of the present subscription ends.
        self._probation = 0.0
        # Who has joined since it began.
        self._juniors = 0
        # It began, or went on, while the store was out of reach.
        self._junior = False
        self._promotion: asyncio.TimerHandle | None = None
        self._closing = False
        # Tenant -> alert id -> alert, oldest first.
        self._held: dict[str, dict[str, _Held]] = {}
        self._bytes = 0
        # All of them by the moment they are due, which is the order they came in; recorded ones leave when they would be.
        self._due: deque[_Held] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._running: dict[str, asyncio.Task[None]] = {}
        # Tenants whose leader was found to be at work, only late.
        self._late: dict[str, asyncio.TimerHandle] = {}
        self._again = asyncio.Event()

    def subscribed(self, *, reachable: bool) -> None:
        """Alerts are heard from now on; what was published before may have been missed.

        `reachable`: whether the store is, as far as this worker knows.
        """
        # What was heard by the subscription before waits for nothing new, unless it never had its time.
        began = self._probation if self._junior else None
        self._juniors = 0
        self._junior = not reachable
        self._begin(began)

    def joined(self) -> None:
        """A worker has subscribed that has heard nothing of what is held here."""
        began, now = self._probation, monotonic()
        if self._juniors < _MAX_STEPS and (began > now or self._junior):
            self._juniors += 1
            self._probation -= _STEP
        for held in self._held.values():
            for item in held.values():
                item.may = item.due = self._probation if item.may == began else item.may
        self._flush()
        self._promote()

    def lost(self) -> None:
        """The store cannot be reached: who is on probation now does not know whether those before had their time."""
        self._junior = self._junior or self._probation > monotonic()

    def found(self) -> None:
        """The store takes what is recorded (again): all hear that at once, and so between the same two alerts."""
        if self._junior:
            self._junior = False
            self._begin(self._probation)

    def reconnected(self) -> None:
        """The store can be reached again: what it did not take is tried at once."""
        if self._junior:  # until all hear of it, or if that cannot be published
            self._begin(self._probation)
        self._again.set()
        self._again.clear()

    def offer(self, alert: Alert) -> None:
        """An alert was published."""
        lead = self._leader == self._me
        held = self._held.get(alert.tenant)
        if held is not None and alert.key in held:
            self._numbers.duplicates += lead
            return
        if self._bytes + len(alert.payload) > _MAX_HELD_BYTES:
            self._numbers.dropped += 1
            return
        may = self._probation
        item = _Held(alert, may, max(monotonic() + self._hold, may), lead)
        if held is None:
            held = self._held[alert.tenant] = {}
        held[alert.key] = item
        self._bytes += len(alert.payload)
        self._due.append(item)
        if self._timer is None:
            self._sleep()
        if lead:
            self._record(alert.tenant)

    def recorded(self, worker: bytes, tenant: str, key: str, *, new: bool) -> None:
        """An alert was recorded by `worker`, or (not `new`) is known to have been."""
        if new and worker != self._leader:
            self._leader = worker
            if worker == self._me:
                self._flush()
        held = self._held.get(tenant)
        item = held.get(key) if held is not None else None
        if held is None or item is None:
            return
        item.own = item.own and worker == self._me
        passed_over = False
        for each in held.values():
            if each is item:
                break
            passed_over = True
            each.due = each.may
        self._let_go(item)
        if passed_over:
            self._record(tenant)

    async def close(self) -> None:
        """Record what is held, whoever else may, and nothing any more."""
        self._closing = True
        for timer in (self._timer, self._promotion, *self._late.values()):
            if timer is not None:
                timer.cancel()
        self._flush()
        left = self._probation - monotonic()
        if left > 0 and self._held:
            await asyncio.sleep(left)
            self._flush()
        if self._running:
            await asyncio.wait(self._running.values(), timeout=_RETRY)
        await stop(self._running.values())

    def _begin(self, began: float | None) -> None:
        """Begin the probation; anew for what was heard in the one that was to end at `began`."""
        self._probation = monotonic() + _PROBATION - _STEP * self._juniors
        for held in self._held.values():
            for item in held.values():
                if item.may == began:
                    item.may = item.due = self._probation
        self._promote()

    def _promote(self) -> None:
        """Record what is held when the probation ends."""
        left = self._probation - monotonic()
        if self._held and left > 0 and not self._closing:
            if self._promotion is not None:
                self._promotion.cancel()
            # A timer may be early by its resolution.
            self._promotion = asyncio.get_running_loop().call_later(left + 0.001, self._flush)

    def _sleep(self) -> None:
        if self._due and not self._closing:
            seconds = max(0.0, self._due[0].due - monotonic())
            self._timer = asyncio.get_running_loop().call_later(seconds, self._wake)

    def _wake(self) -> None:
        self._timer = None
        now = monotonic()
        due = self._due
        while due and due[0].due <= now:
            item = due.popleft()
            if item.payload and item.tenant not in self._late:
                self._record(item.tenant)
        self._sleep()

    def _wait(self, tenant: str) -> None:
        """Leave a tenant to its leader for another hold."""
        if tenant not in self._late:
            self._late[tenant] = asyncio.get_running_loop().call_later(self._hold, self._waited, tenant)

    def _waited(self, tenant: str) -> None:
        del self._late[tenant]
        self._record(tenant)

    def _flush(self) -> None:
        for tenant in self._held:
            self._record(tenant)

    def _record(self, tenant: str) -> None:
        if tenant in self._held and tenant not in self._running:
            self._running[tenant] = asyncio.get_running_loop().create_task(self._drain(tenant))

    async def _drain(self, tenant: str) -> None:
        """Record what is held of a tenant and due, or all of it as the leader."""
        refusals = 0
        pause = _SOON
        late = False
        try:
            while batch := self._batch(tenant):
                try:
                    results = await self._log.record(tenant, [(each.key, each.payload) for each in batch])
                except Exception as error:  # whatever it is: nobody else may have these
                    for each in batch:
                        # Whether it was recorded is not known: at the next attempt that says nothing of publishers.
                        each.own = False
                    refusals += not isinstance(error, StoreDown)
                    if refusals < _MAX_REFUSALS:
                        try:
                            async with asyncio.timeout(pause):
                                await self._again.wait()
                            pause = _SOON
                        except TimeoutError:
                            pause = min(2 * pause, _RETRY)
                        continue
                    refusals = 0
                    self._numbers.dropped += sum(bool(each.payload) for each in batch)
                else:
                    self._numbers.recorded += sum(results)
                    self._numbers.duplicates += sum(
                        not new and each.own for each, new in zip(batch, results, strict=True)
                    )
                    late = not any(results) and self._leader != self._me
                for each in batch:
                    self._let_go(each)
                if late and not self._closing and not self._demanded(tenant):
                    self._wait(tenant)
                    break
        finally:
            del self._running[tenant]

    def _batch(self, tenant: str) -> list[_Held]:
        """The next alerts of a tenant that are to be recorded now. A batch that is due takes along all that follow."""
        batch: list[_Held] = []
        size = 0
        now = monotonic()
        for item in self._held.get(tenant, {}).values():
            size += len(item.payload)
            if not batch and not (self._closing or self._leader == self._me or item.due <= now):
                break
            if item.may > now or (batch and (len(batch) == _BATCH or size > _BATCH_BYTES)):
                break
            batch.append(item)
        return batch

    def _demanded(self, tenant: str) -> bool:
        """Whether what is held waits for no deadline any more: it was passed over, or somebody has joined."""
        return any(item.due == item.may for item in self._held.get(tenant, {}).values())

    def _let_go(self, item: _Held) -> None:
        held = self._held.get(item.tenant)
        if held is not None and held.get(item.key) is item:
            del held[item.key]
            self._bytes -= len(item.payload)
            item.payload = b""
            if not held:
                del self._held[item.tenant]
