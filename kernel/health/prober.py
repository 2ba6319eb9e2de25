"""Asks every service how it is, in the background: no request ever waits for a probe.

The workers of one gateway probe once, not once each: whoever holds the lock probes and writes `health.json`, the others
read it. When the holder dies the lock is free again; when it hangs its file grows old, and the others probe for
themselves.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import random
import time
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

import msgspec

from kernel.http.problems import GatewayError

INTERVAL_SECONDS = 30.0
# A service that failed is asked again sooner, so that its recovery shows soon.
RETRY_SECONDS = 5.0
TIMEOUT_SECONDS = 5.0
FOLLOW_SECONDS = 1.0
HEALTHY, UNHEALTHY, UNKNOWN = "healthy", "unhealthy", "unknown"

Probe = Callable[[str], Awaitable[None]]


class ProbeFailed(Exception):
    """A service answered, but not that it is well. The text is shown to anyone who asks: no addresses in it."""


class ServiceHealth(msgspec.Struct, frozen=True):
    """What the last probe of a service found; `checked` in Unix seconds. `error` is for anyone, `reason` for operators."""

    status: str = UNKNOWN
    latency_ms: float | None = None
    error: str = ""
    checked: float = 0.0
    reason: str = ""


Changed = Callable[[str, ServiceHealth, bool], None]


def _nothing(name: str, result: ServiceHealth, mine: bool) -> None:
    return None


_DECODER = msgspec.json.Decoder(dict[str, ServiceHealth])


class HealthProber:
    """Keeps `results` up to date.

    Args:
        services: their names.
        probe: `await probe(name)` returns when the service is well and raises when it is not.
        interval: seconds between two probes of a healthy service, give or take a tenth.
        timeout: seconds a probe may take.
        run_dir: shared with the other workers; None when there are none.
        changed: `changed(service, result, mine)` is told of a service whose status is another one now; `mine` when this
            worker has found it out.
        reason: `reason(name)` is what operators should know of a probe that has failed.
    """

    def __init__(
        self,
        services: Iterable[str],
        probe: Probe,
        *,
        interval: float = INTERVAL_SECONDS,
        retry: float = RETRY_SECONDS,
        timeout: float = TIMEOUT_SECONDS,
        follow: float = FOLLOW_SECONDS,
        run_dir: Path | None = None,
        changed: Changed = _nothing,
        reason: Callable[[str], str] = lambda name: "",
    ) -> None:
        self.results: dict[str, ServiceHealth] = {name: ServiceHealth() for name in services}
        self._probe = probe
        self._interval = interval
        self._retry = min(retry, interval)
        self._timeout = timeout
        self._follow = follow
        self._run_dir = run_dir
        self._changed = changed
        self._reason = reason
        self._lock_fd = -1
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Probe from now on, in a task of the running loop."""
        self._task = asyncio.create_task(self._run(), name="health-prober")

    async def stop(self) -> None:
        """Stop probing and let another worker do it."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    def samples(self) -> dict[str, dict[tuple[str, str], float]]:
        """A source for `Metrics.register_source`. A service not asked yet has no series."""
        return {
            "gateway_service_health": {
                (name, status): float(result.status == status)
                for name, result in self.results.items()
                if result.status != UNKNOWN
                for status in (HEALTHY, UNHEALTHY)
            }
        }

    async def _run(self) -> None:
        while not self._is_mine():  # noqa: ASYNC110  # the lock is another process's, no event tells of it
            await asyncio.sleep(self._follow)
        async with asyncio.TaskGroup() as group:
            for name in self.results:
                group.create_task(self._watch(name))

    async def _watch(self, name: str) -> None:
        while True:
            result = await self._ask(name)
            self._note(name, result, mine=True)
            self._publish()
            pause = self._interval if result.status == HEALTHY else self._retry
            # Spread out, or all services would be asked at the same moment for ever.
            await asyncio.sleep(pause * random.uniform(0.9, 1.1))  # noqa: S311  # not a secret

    async def _ask(self, name: str) -> ServiceHealth:
        started = time.perf_counter()
        error = ""
        try:
            async with asyncio.timeout(self._timeout):
                await self._probe(name)
        except TimeoutError:
            error = f"no answer within {self._timeout:g} s"
        except GatewayError as failure:
            # SECURITY: anyone may ask for this text, as for that of any problem: it holds no address.
            error = failure.problem.detail
        except ProbeFailed as failure:
            error = str(failure)
        except Exception as failure:
            error = type(failure).__name__
        latency = round((time.perf_counter() - started) * 1000, 1)
        reason = self._reason(name) if error else ""
        return ServiceHealth(UNHEALTHY if error else HEALTHY, latency, error, time.time(), reason)

    def _note(self, name: str, result: ServiceHealth, *, mine: bool) -> None:
        before, self.results[name] = self.results[name], result
        if result.status != before.status:
            self._changed(name, result, mine)

    def _is_mine(self) -> bool:
        """Whether this worker is the one to probe; if not, take over what the one that is has found."""
        if self._run_dir is None:
            return True
        if self._lock_fd < 0:
            self._lock_fd = os.open(
                self._run_dir / "health.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
            )
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        return not self._read()

    def _read(self) -> bool:
        """Read the other's results; False when they are too old to be believed."""
        assert self._run_dir is not None
        file = self._run_dir / "health.json"
        try:
            found = _DECODER.decode(file.read_bytes())
            age = time.time() - file.stat().st_mtime
        except (FileNotFoundError, ValueError):
            return True  # it has not finished its first probe
        for name, result in found.items():
            if name in self.results:
                self._note(name, result, mine=False)
        return age < 2 * self._interval + self._timeout

    def _publish(self) -> None:
        if self._run_dir is None:
            return
        with contextlib.suppress(OSError):
            temporary = self._run_dir / f"health.{os.getpid()}.new"
            temporary.write_bytes(msgspec.json.encode(self.results))
            temporary.replace(self._run_dir / "health.json")
