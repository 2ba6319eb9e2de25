"""Lookup: the values of keys that decide about a request, from memory or else from the store, for one judge.

A judge is a plain function of the exchange and the values, in the order of the keys; it is the same whether they were known
or had to be fetched. What cannot be read is answered as RATE_LIMIT_FAIL_MODE says: `open` goes by what is known, counted;
`closed` is 503.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from kernel.exchange.exchange import Exchange
from kernel.http.problems import STORE_UNAVAILABLE, Problem
from kernel.state import State
from kernel.store.errors import StoreDown
from kernel.store.tracked import Values

Judge = Callable[[Exchange, Values], Problem | None]

_RETRY_SOON = ((b"retry-after", b"1"),)


class Lookup:
    """One a stage."""

    __slots__ = ("_closed", "_fetch", "_held", "_metrics", "peek")

    def __init__(self, state: State) -> None:
        self.peek = state.tracked.peek
        self._fetch = state.tracked.fetch
        self._held = state.tracked.held
        self._metrics = state.metrics
        self._closed = state.settings.rate_limit_fail_mode == "closed"

    def judge(
        self, x: Exchange, keys: tuple[str, ...], judge: Judge
    ) -> Problem | Awaitable[Problem | None] | None:
        """The verdict of `judge` on the values of `keys`, at once when they are all known."""
        values = self.peek(keys)
        return judge(x, values) if values is not None else self.fetched(x, keys, judge)

    async def fetched(self, x: Exchange, keys: tuple[str, ...], judge: Judge) -> Problem | None:
        """The same for keys that `peek` does not know. The verdict holds for this request alone: a change may be younger."""
        try:
            values = await self._fetch(keys)
        except StoreDown:
            self._metrics.unchecked += 1
            if self._closed:
                return STORE_UNAVAILABLE("What decides about this request cannot be read.", _RETRY_SOON)
            # One that cannot be read takes none that is known out of force.
            values = self._held(keys)
        return judge(x, values)
