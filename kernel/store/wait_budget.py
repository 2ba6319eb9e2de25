"""The budget of waiting: how long one request may wait for the store, all its questions together.

Each answer comes within the store's timeout or not at all; but a request asks for its limit, its token, locks and more,
one after the other, and a store that is slow and not dead would cost it that time again and again.
"""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from time import monotonic
from typing import Any


class WaitBudget:
    """What a request has waited so far. It is the running context's own, and that of tasks begun in it, until `end`."""

    __slots__ = ("_over", "waited")

    def __init__(self) -> None:
        self._over = False
        self.waited = 0.0
        _MINE.set(self)

    def begin(self) -> None:
        """Count again, from what it has waited so far."""
        self._over = False

    def end(self) -> None:
        """From here on each wait is one of its own: a stream lives for hours."""
        self._over = True

    def left(self, total: float) -> float:
        """Seconds of `total` that are left."""
        return total if self._over else total - self.waited


def taken_up() -> WaitBudget:
    """The running request's own once more, for a handler that asks, too: `end` it."""
    budget = _MINE.get()
    if budget is None:
        return WaitBudget()
    budget.begin()
    return budget


_MINE: ContextVar[WaitBudget | None] = ContextVar("wait_budget", default=None)


async def answered(reply: asyncio.Future[Any], total: float) -> bool:
    """Wait until `reply` is done, which is others', too. False: that took `total` seconds, or what is left of them."""
    if reply.done():
        return True
    budget = _MINE.get()
    seconds = total if budget is None else budget.left(total)
    if seconds <= 0:
        return False
    began = monotonic()
    try:
        await asyncio.wait((reply,), timeout=seconds)
    finally:
        if budget is not None:
            budget.waited += monotonic() - began
        if not reply.done():
            reply.add_done_callback(_seen)
    return reply.done()


def _seen(reply: asyncio.Future[Any]) -> None:
    """Take note of a failure that nobody waits for any more, or asyncio reports it."""
    if not reply.cancelled():
        reply.exception()
