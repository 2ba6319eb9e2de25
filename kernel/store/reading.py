"""Reading a key: a value on its way, and what a reply to GET says."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import Any

from kernel.store.errors import StoreDown, StoreRefused
from kernel.store.wait_budget import answered


class Reading:
    """A value on its way, for at most `timeout` seconds. Several may wait for it, or nobody."""

    __slots__ = ("_future", "_timeout")

    def __init__(self, timeout: float) -> None:
        self._future: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self._timeout = timeout

    def __await__(self) -> Generator[Any, None, str | None]:
        return self._wait().__await__()

    async def _wait(self) -> str | None:
        if not await answered(self._future, self._timeout):
            raise StoreDown("no answer in time")
        error = self._future.exception()
        if error is not None:
            # PERF: each raises one of its own. What is raised holds the frames that it passes, and those hold this reading: a
            # circle of 2.5 KiB for each key of a store that is lost, until the collector comes.
            raise StoreDown(str(error))
        return self._future.result()

    def land(self, value: str | None) -> None:
        """It is `value`."""
        self._future.set_result(value)

    def fail(self, error: StoreDown) -> None:
        """It cannot be had."""
        self._future.set_exception(error)
        self._future.exception()  # seen: nobody need wait for it


def found(reply: asyncio.Future[Any]) -> str | None:
    """The value that GET answered; of another type it is the empty string. Raises StoreDown, and StoreRefused."""
    error = failure(reply)
    if error is None:
        raw = reply.result()
        return None if raw is None else str(raw, "utf-8", "replace")
    if isinstance(error, StoreRefused) and str(error).startswith("WRONGTYPE"):
        return ""
    raise error


def failure(reply: asyncio.Future[Any]) -> BaseException | None:
    """Why there is no result; it counts as seen then."""
    return StoreDown("cancelled") if reply.cancelled() else reply.exception()
