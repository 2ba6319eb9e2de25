"""When keys were used last, for who wants to know whether one is still needed: written beside the requests, in batches."""

from __future__ import annotations

import asyncio
from typing import ClassVar

from kernel.store.errors import StoreError
from kernel.store.keys import api_key_used
from kernel.store.link import stop
from kernel.store.redis import Script, Store

_PAUSE = 1.0
_MOST = 4096
# It outlives what nobody uses for over a year.
_SECONDS = 400 * 86_400
# Unless another worker has noted it within the minute. What is of the future a wrong clock has written.
_NOTE = Script("""
local noted = tonumber(redis.call('GET', KEYS[1]) or '')
if noted and math.abs(tonumber(ARGV[1]) - noted) < tonumber(ARGV[2]) then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[3])
return 1
""")


class Uses:
    """One a worker. All of them together write once a minute at most for each secret of a key; what the store cannot take is
    let go."""

    INTERVAL: ClassVar[float] = 60.0

    def __init__(self, store: Store) -> None:
        self._store = store
        self._pending: dict[str, int] = {}
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Write from now on."""
        self._task = asyncio.get_running_loop().create_task(self._keep())

    def note(self, key_id: str, fingerprint: str, now: float) -> None:
        """The secret was used at `now` (Unix seconds)."""
        if len(self._pending) < _MOST:
            self._pending[api_key_used(key_id, fingerprint)] = int(now)
            self._wake.set()

    async def close(self) -> None:
        """Write what is left, if the store takes it."""
        if self._task is not None:
            await stop([self._task])
        await self._write()

    async def _keep(self) -> None:
        while True:
            await self._wake.wait()
            await asyncio.sleep(_PAUSE)
            await self._write()

    async def _write(self) -> None:
        self._wake.clear()
        pending, self._pending = self._pending, {}
        try:
            replies = [
                self._store.run(_NOTE, [name], [moment, int(self.INTERVAL), _SECONDS])
                for name, moment in pending.items()
            ]
        except StoreError:
            return
        await asyncio.gather(*replies, return_exceptions=True)
