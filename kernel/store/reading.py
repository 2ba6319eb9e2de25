"""Reading a key: its value and its remaining life, by GET and PTTL in this order on one connection."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import Any

from kernel.store.errors import StoreDown, StoreRefused
from kernel.store.patience import answered

# PTTL of a key that has gone since its GET.
_GONE = -2


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
        return self._future.result()

    def land(self, value: str | None) -> None:
        """It is `value`."""
        self._future.set_result(value)

    def fail(self, error: StoreDown) -> None:
        """It cannot be had."""
        self._future.set_exception(error)
        self._future.exception()  # seen: nobody need wait for it


def found(value: asyncio.Future[Any], life: asyncio.Future[Any]) -> tuple[str | None, float | None]:
    """What the replies to GET and PTTL say: the value, and for how many seconds it holds (None: until it is changed).

    Raises StoreDown, and StoreRefused where another server has the key.
    """
    # Both are looked at, or asyncio reports the other one's failure.
    errors = [failure(reply) for reply in (value, life)]
    if isinstance(errors[0], StoreRefused) and str(errors[0]).startswith("WRONGTYPE"):
        errors[0] = None
        text: str | None = ""
    elif errors[0] is None:
        raw = value.result()
        text = None if raw is None else raw.decode("utf-8", "replace")
    for error in errors:
        if error is not None:
            raise error
    left: int = life.result()
    if left == _GONE and text is not None:
        return text, 0.0
    return text, (left + 1) / 1000 if left >= 0 else None


def failure(reply: asyncio.Future[Any]) -> BaseException | None:
    """Why there is no result; it counts as seen then."""
    return StoreDown("cancelled") if reply.cancelled() else reply.exception()
