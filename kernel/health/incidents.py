"""Incidents: what an operator must read in the log without a request that tells of it: the store lost and back, breakers
opened and closed, replicas ejected and let back in, TLS that fails. Looked at once a second: nothing on a request's way has
to tell."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping

from kernel.telemetry.log import Log

_SECONDS = 1.0
# (connected, why it is not)
StoreState = Callable[[], tuple[bool, str]]
# (service, replica, why) of everyone that something is the matter with
Replicas = Callable[[], Iterable[tuple[str, str, str]]]


def _none() -> tuple[()]:
    return ()


class Incidents:
    """One a worker.

    Args:
        log: where it is told.
        store: the store's state.
        breakers: the breakers that let nothing or only a probe through.
        ejected: the replicas that are left alone because they fail while the others are well.
        tls: the replicas that no connection can be made to because of TLS.
    """

    def __init__(
        self,
        log: Log,
        store: StoreState,
        breakers: Replicas,
        ejected: Replicas = _none,
        tls: Replicas = _none,
    ) -> None:
        self._log = log
        self._store = store
        self._told = (
            _Told(log, breakers, "breaker opened", "breaker closed"),
            _Told(log, ejected, "replica ejected: it fails while the others are well", "replica let back in"),
            _Told(log, tls, "TLS to a service failed", "TLS to a service works again"),
        )
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._lost: float | None = None  # since when, in loop time

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
        for each in self._told:
            each.look(now)


class _Told:
    """One matter of replicas: who it concerns, and what is said when it begins and when it ends."""

    def __init__(self, log: Log, concerned: Replicas, begins: str, ends: str) -> None:
        self._log = log
        self._concerned = concerned
        self._begins = begins
        self._ends = ends
        self._since: Mapping[tuple[str, str], tuple[str, float]] = {}

    def look(self, now: float) -> None:
        since, found = self._since, {}
        for service, replica, why in self._concerned():
            before = since.get((service, replica))
            found[service, replica] = (why, before[1] if before else now)
            if before is None or before[0] != why:
                reason = {"reason": why} if why else {}
                self._log.warning(self._begins, service=service, replica=replica, **reason)
        for gone in since.keys() - found.keys():
            seconds = round(now - since[gone][1], 1)
            self._log.info(self._ends, service=gone[0], replica=gone[1], seconds=seconds)
        self._since = found
