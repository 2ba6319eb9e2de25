"""Incidents: what an operator must read in the log without a request that tells of it: the store lost and back, breakers
opened and closed. Looked at once a second, so that nothing on a request's way has to tell."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping

from kernel.telemetry.log import Log

_SECONDS = 1.0
# (connected, why it is not)
StoreState = Callable[[], tuple[bool, str]]
# (service, replica) of every breaker that is not closed
OpenBreakers = Callable[[], Iterable[tuple[str, str]]]


class Incidents:
    """One a worker.

    Args:
        log: where it is told.
        store: the store's state.
        breakers: the breakers that let nothing or only a probe through.
    """

    def __init__(self, log: Log, store: StoreState, breakers: OpenBreakers) -> None:
        self._log = log
        self._store = store
        self._breakers = breakers
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        # Since when, in loop time.
        self._lost: float | None = None
        self._open: Mapping[tuple[str, str], float] = {}

    def start(self) -> None:
        """Look now, and from now on."""
        self.look()
        self._timer = self._loop.call_later(_SECONDS, self.start)

    async def stop(self) -> None:
        """No more looks."""
        if self._timer is not None:
            self._timer.cancel()

    def look(self) -> None:
        """Tell what has changed since the last look."""
        now = self._loop.time()
        connected, reason = self._store()
        if connected and self._lost is not None:
            self._log.info("store back", seconds=round(now - self._lost, 1))
            self._lost = None
        elif not connected and self._lost is None:
            self._log.warning(
                "store lost: each worker limits on its own, locks and revocations go unchecked", reason=reason
            )
            self._lost = now
        found = {breaker: self._open.get(breaker, now) for breaker in self._breakers()}
        for service, replica in found.keys() - self._open.keys():
            self._log.warning("breaker opened", service=service, replica=replica)
        for gone in self._open.keys() - found.keys():
            seconds = round(now - self._open[gone], 1)
            self._log.info("breaker closed", service=gone[0], replica=gone[1], seconds=seconds)
        self._open = found
