"""WorkerRegistry: how many workers live, by their heartbeats in the store."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable
from importlib.resources import files

from kernel.store.errors import StoreError
from kernel.store.keys import WORKERS
from kernel.store.redis import Script, Store

_HEARTBEAT = Script(files("kernel.store").joinpath("workers.lua").read_text())
_LIFE = 3.0


class WorkerRegistry:
    """This worker among the others. `size` is the number of live workers last seen, at first the one assumed."""

    __slots__ = ("_clock", "_seen", "_store", "me", "size")

    def __init__(self, store: Store, assumed: int, clock: Callable[[], float]) -> None:
        self.me = f"{os.getpid()}-{secrets.token_hex(6)}"
        self.size = max(1, assumed)
        self._store = store
        self._clock = clock
        self._seen = clock()

    async def beat(self) -> None:
        """Say that this worker lives, and count the others. Without the store the last number stays in force."""
        try:
            live: int = await self._store.run(_HEARTBEAT, (WORKERS,), (self.me, int(_LIFE * 1e6)))
        except StoreError:
            return
        now = self._clock()
        # A smaller fleet is believed after a while: a new or emptied store has not heard of everybody yet.
        if live >= self.size or now - self._seen > _LIFE:
            self.size = max(1, live)
            self._seen = now

    def doubt(self) -> None:
        """The store was lost and found: give the others time to be heard of."""
        self._seen = self._clock()

    async def leave(self) -> None:
        """Say that this worker ends."""
        with contextlib.suppress(StoreError):
            await self._store.execute("ZREM", WORKERS, self.me)
