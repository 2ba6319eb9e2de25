"""CPU policy: a busy worker's threads run through batches, an idle one's answer at once.

The event loop and granian's I/O thread wake each other several times a request, and at each wake-up the kernel may switch
between them. Under SCHED_BATCH (Linux) a woken thread waits until the running one has nothing to do: a fifth less CPU time
a request when a core is full, but up to a time slice more for each answer when other programs want that core.
So the policy follows the load.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from pathlib import Path
from time import process_time

_TICK = 0.25
# Shares of a core that this worker uses: above the one it is busy, below the other it is not. What is saved by batches
# must not take it below: that would have it change back and forth.
_BUSY, _CALM = 0.7, 0.4


class CpuPolicy:
    """One a worker. `apply(busy)` sets the policy; `cpu()` gives CPU seconds of the process."""

    __slots__ = ("_apply", "_busy", "_cpu", "_loop", "_timer", "_used", "_when")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        apply: Callable[[bool], bool] | None = None,
        cpu: Callable[[], float] = process_time,
    ) -> None:
        self._loop = loop
        self._apply = apply or _set_policy
        self._cpu = cpu
        self._busy = False
        self._used = cpu()
        self._when = loop.time()
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Look at the load four times a second, where there is such a policy."""
        if sys.platform.startswith("linux"):
            self._timer = self._loop.call_later(_TICK, self._tick)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        self._timer = self._loop.call_later(_TICK, self._tick)
        self.judge(self._loop.time())

    def judge(self, now: float) -> None:
        """Change the policy if the load since the last call demands it."""
        used = self._cpu()
        share = (used - self._used) / max(now - self._when, 0.001)
        self._used, self._when = used, now
        busy = share > (_CALM if self._busy else _BUSY)
        if busy != self._busy:
            self._busy = busy
            if not self._apply(busy):
                self.stop()


def _set_policy(busy: bool) -> bool:
    """Set the policy of every thread; False when that is forbidden, as in some sandboxes."""
    policy = os.SCHED_BATCH if busy else os.SCHED_OTHER
    parameters = os.sched_param(0)
    try:
        for thread in Path("/proc/self/task").iterdir():
            try:
                os.sched_setscheduler(int(thread.name), policy, parameters)
            except ProcessLookupError:
                continue  # it has just ended
    except OSError:
        return False
    return True
