"""Streams: the long-lived requests of a worker (SSE, WebSocket), so that a drain can end them."""

from __future__ import annotations

from collections.abc import Callable

End = Callable[[], None]


class Streams:
    """One a worker. A stream registers what ends it, and takes it back when it has ended."""

    __slots__ = ("_draining", "_open")

    def __init__(self) -> None:
        self._open: set[End] = set()
        self._draining = False

    def __len__(self) -> int:
        return len(self._open)

    def add(self, end: End) -> None:
        """Have `end` called once, when the worker drains; at once when it already does."""
        self._open.add(end)
        if self._draining:
            self._end(end)

    def discard(self, end: End) -> None:
        """The stream has ended by itself. Harmless when it was already told to end."""
        self._open.discard(end)

    def drain(self) -> None:
        """End every stream: granian waits for each before it stops."""
        self._draining = True
        for end in list(self._open):
            self._end(end)

    def _end(self, end: End) -> None:
        if end in self._open:
            self._open.discard(end)
            end()
