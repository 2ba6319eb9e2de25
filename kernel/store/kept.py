"""A kept session: a connection of somebody's own to the store, made anew whenever it breaks.

For what cannot share a connection: the tracking of keys, and subscriptions.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from time import monotonic

from kernel.store.link import stop
from kernel.store.pace import Pace

# A session that lasted for less was not had.
_LASTING = 1.0
_RETRY = 0.25


class KeptSession:
    """`session()` connects, calls `established`, and goes on until anything is wrong, which it raises; `over()` follows it.

    `due` is set when it should be made anew at once: the store has come back, or is another one. A session clears it when it
    begins. `start` it in the loop that uses it.
    """

    def __init__(self, session: Callable[[], Awaitable[None]], over: Callable[[], None]) -> None:
        self.due = asyncio.Event()
        self.last_error = ""
        self._session = session
        self._over = over
        self._pace = Pace(_RETRY)
        self._tried: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin; done when a session is established, or has failed once (it is then retried in the background)."""
        loop = asyncio.get_running_loop()
        self._tried = loop.create_future()
        self._task = loop.create_task(self._keep())
        await self._tried

    def established(self) -> None:
        """Whoever waits for the start need wait no longer."""
        if self._tried is not None and not self._tried.done():
            self._tried.set_result(None)

    async def close(self) -> None:
        """End it."""
        if self._task is not None:
            await stop([self._task])

    async def _keep(self) -> None:
        """Nothing but its cancellation ends this: there would be no session ever again."""
        while True:
            began = monotonic()
            try:
                await self._session()
            except Exception as error:
                self.last_error = str(error) or type(error).__name__
            finally:
                self._over()
                self.established()
            # At once after a break, or when the store has come back, and at a growing pace when it cannot be had.
            if monotonic() - began >= _LASTING:
                self._pace.rest()
            elif not self.due.is_set():
                with contextlib.suppress(TimeoutError):
                    # No wait_for(): in Python 3.11 that may lose a cancellation.
                    async with asyncio.timeout(self._pace.pause()):
                        await self.due.wait()
