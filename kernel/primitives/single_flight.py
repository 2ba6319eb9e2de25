"""One piece of work at a time per key; whoever asks meanwhile shares its result."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class SingleFlight(Generic[K, V]):
    """Runs the work in a task of its own: a caller that is cancelled takes nothing from the others, and work that
    must not be torn (a refresh token is spent by using it) runs to its end even when every caller has left."""

    __slots__ = ("_running",)

    def __init__(self) -> None:
        self._running: dict[K, asyncio.Task[V]] = {}

    def start(self, key: K, work: Callable[[], Coroutine[Any, Any, V]]) -> asyncio.Task[V]:
        """The running task of `key`, or a new one. Do not cancel it; wait with `asyncio.wait` or a shield."""
        task = self._running.get(key)
        if task is None:
            task = asyncio.create_task(work())
            self._running[key] = task
            task.add_done_callback(lambda done: self._finish(key, done))
        return task

    def run(self, key: K, work: Callable[[], Coroutine[Any, Any, V]]) -> Awaitable[V]:
        """The result of `work`, or of the same key's work already under way; raises what it raises."""
        return asyncio.shield(self.start(key, work))

    def running(self, key: K) -> asyncio.Task[V] | None:
        return self._running.get(key)

    def _finish(self, key: K, task: asyncio.Task[V]) -> None:
        self._running.pop(key, None)
        if not task.cancelled():
            task.exception()  # retrieved, or asyncio reports it when every caller has left

    async def close(self) -> None:
        """Cancel what runs and wait for it to end."""
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
