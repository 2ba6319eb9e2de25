"""Recorder: sees to it that every published alert is recorded, whichever workers live.

Every worker hears every alert and holds it until it hears that it was recorded. Who recorded the last alert records the
next one at once; the others do so only after a while. So one worker does the work, a dead one is replaced within a tenth
of a second, nobody renews a lease, and two who record the same alert do no harm: the store's script takes each alert once.

Alerts of a tenant go to the store in the order in which they came, in one script call at a time.
"""

from __future__ import annotations

import asyncio
import random
from time import monotonic

from kernel.alerts.counters import Counters
from kernel.alerts.intake import Alert
from kernel.store.alertlog import AlertLog
from kernel.store.errors import StoreDown, StoreError
from kernel.store.link import stop

# Seconds that a worker waits for the usual recorder, plus up to as much again, so that they do not all step in at once.
_HOLD = 0.06
# The same when there is none yet.
_FIRST = 0.01
_RETRY = 0.25
_BATCH = 64
_BATCH_BYTES = 256 * 1024
# What is held at most, also while the store is out of reach.
_MAX_HELD_BYTES = 16 * 1024 * 1024
# Refused by the store so often, a batch is given up.
_MAX_REFUSALS = 20


class Recorder:
    """One a worker; `me` is its name in announcements."""

    def __init__(self, log: AlertLog, me: str, numbers: Counters) -> None:
        self._log = log
        self._me = me.encode()
        self._numbers = numbers
        self._leader: bytes | None = None
        self._hold = _HOLD * random.uniform(1, 2)  # noqa: S311
        # Tenant -> alert id -> payload, oldest first; and when the oldest is due.
        self._held: dict[str, dict[str, bytes]] = {}
        # Tenant and id of alerts that are this worker's to record: known already, they were published twice.
        self._own: set[tuple[str, str]] = set()
        self._due: dict[str, float] = {}
        self._bytes = 0
        self._running: dict[str, asyncio.Task[None]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._wakes = 0.0

    def offer(self, alert: Alert) -> None:
        """An alert was published."""
        held = self._held.setdefault(alert.tenant, {})
        if alert.key in held:
            self._numbers.duplicates += self._leader == self._me
            return
        if self._bytes + len(alert.payload) > _MAX_HELD_BYTES:
            self._numbers.dropped += 1
            return
        held[alert.key] = alert.payload
        self._bytes += len(alert.payload)
        if self._leader == self._me:
            self._own.add((alert.tenant, alert.key))
            self._record(alert.tenant)
        elif alert.tenant not in self._due:
            self._postpone(alert.tenant, self._hold if self._leader else self._hold * _FIRST / _HOLD)

    def recorded(self, worker: bytes, tenant: str, key: str) -> None:
        """An alert was recorded, or is known to have been, by `worker`."""
        self._leader = worker
        held = self._held.get(tenant)
        if held is None or tenant in self._running:
            return
        payload = held.pop(key, None)
        if payload is not None:
            self._bytes -= len(payload)
            if held:
                # The recorder is at work: it gets the same time for the next one.
                self._due[tenant] = monotonic() + self._hold
            else:
                del self._held[tenant]
                self._due.pop(tenant, None)

    async def close(self) -> None:
        """Record what is held, whoever else may, and nothing any more."""
        if self._timer is not None:
            self._timer.cancel()
        for tenant in list(self._held):
            self._record(tenant)
        if self._running:
            await asyncio.wait(self._running.values(), timeout=_RETRY)
        await stop(self._running.values())

    def _postpone(self, tenant: str, seconds: float) -> None:
        moment = self._due[tenant] = monotonic() + seconds
        if self._timer is None or moment < self._wakes:
            if self._timer is not None:
                self._timer.cancel()
            self._wakes = moment
            self._timer = asyncio.get_running_loop().call_later(seconds, self._wake)

    def _wake(self) -> None:
        self._timer = None
        now = monotonic()
        for tenant in [tenant for tenant, due in self._due.items() if due <= now]:
            self._record(tenant)
        if self._due:
            soonest = min(self._due, key=self._due.__getitem__)
            self._postpone(soonest, max(0.0, self._due[soonest] - now))

    def _record(self, tenant: str) -> None:
        self._due.pop(tenant, None)
        if tenant in self._held and tenant not in self._running:
            self._running[tenant] = asyncio.get_running_loop().create_task(self._drain(tenant))

    async def _drain(self, tenant: str) -> None:
        """Record all that is held of a tenant."""
        held = self._held[tenant]
        refusals = 0
        try:
            while held:
                batch = _batch(held)
                try:
                    results = await self._log.record(tenant, batch)
                except StoreError as error:
                    # Whether it was recorded is not known: at the next attempt that says nothing of publishers.
                    self._own.difference_update((tenant, key) for key, _ in batch)
                    refusals += not isinstance(error, StoreDown)
                    if refusals < _MAX_REFUSALS:
                        await asyncio.sleep(_RETRY)
                        continue
                    refusals = 0
                    self._numbers.dropped += len(batch)
                else:
                    self._numbers.recorded += sum(results)
                    self._numbers.duplicates += sum(
                        not new and (tenant, key) in self._own
                        for (key, _), new in zip(batch, results, strict=True)
                    )
                for key, payload in batch:
                    self._own.discard((tenant, key))
                    del held[key]
                    self._bytes -= len(payload)
        finally:
            del self._running[tenant]
            if not held:
                del self._held[tenant]
                self._due.pop(tenant, None)


def _batch(held: dict[str, bytes]) -> list[tuple[str, bytes]]:
    batch: list[tuple[str, bytes]] = []
    size = 0
    for key, payload in held.items():
        size += len(payload)
        if batch and (len(batch) == _BATCH or size > _BATCH_BYTES):
            break
        batch.append((key, payload))
    return batch
