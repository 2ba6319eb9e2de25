"""Pacing: something that all workers of all instances together do one at a time, with a pause between.

Whoever has the turn gives it back when it is done; the pause begins then, not when it was taken. So however late a
request leaves its worker or reaches its server, the next one leaves a whole pause after the server has answered. A turn
that is never given back (a killed worker) ends by itself.
"""

from __future__ import annotations

import contextlib
from importlib.resources import files
from typing import NamedTuple

from kernel.store.errors import StoreError
from kernel.store.redis import Script, Store

_PACING = Script(files("kernel.store").joinpath("pacing.lua").read_text())
_LONGEST_PAUSE = 600.0


class Place(NamedTuple):
    """`mine`: go on. Otherwise ask again after `seconds`, or sooner when it is `held`: it may be given back any moment."""

    mine: bool
    held: bool
    seconds: float


class Pacing:
    """The turn named by the store's `key`. `pause` and `longest` (how long it may be kept) are seconds."""

    def __init__(self, store: Store, key: str, *, pause: float, longest: float) -> None:
        self._store = store
        self._keys = (key,)
        self._pause = pause
        self._longest = longest
        store.on_connect(self._open)

    async def take(self, who: str) -> Place:
        """Ask for the turn. `who` is unique to each turn. Raises StoreError."""
        ahead = max(_LONGEST_PAUSE, self._longest + self._pause)
        state, wait = await self._store.run(
            _PACING,
            self._keys,
            ("take", who, _us(self._longest + self._pause), _us(ahead), _us(self._pause)),
        )
        return Place(state == 1, state == 2, wait / 1e6)

    async def give(self, who: str, pause: float = 0.0) -> None:
        """Give the turn back, with the usual pause after it or a longer one. Without the store it ends by itself."""
        seconds = min(max(self._pause, pause), _LONGEST_PAUSE)
        with contextlib.suppress(StoreError):
            await self._store.run(_PACING, self._keys, ("give", who, _us(seconds)))

    async def open(self) -> None:
        """Make it known to a store that knows nothing, so that the first turn need not wait."""
        with contextlib.suppress(StoreError):
            await self._store.run(_PACING, self._keys, ("open", "", _us(self._pause)))

    def _open(self, _after_outage: bool) -> None:
        with contextlib.suppress(StoreError):
            reply = self._store.run(_PACING, self._keys, ("open", "", _us(self._pause)))
            reply.add_done_callback(lambda done: done.cancelled() or done.exception())


def _us(seconds: float) -> int:
    return int(seconds * 1e6)
