"""Moments: the times that other services write into the store, read leniently and remembered."""

from __future__ import annotations

from datetime import UTC, datetime
from math import isfinite
from time import time

_MEMO_LIMIT = 4096


class Moments:
    """Reads the values of `subscription_changed_at`: Unix seconds or ISO 8601.

    An unreadable value counts as a change at the moment this worker first saw it, and as one metric.
    """

    __slots__ = ("_memo", "unreadable")

    def __init__(self) -> None:
        self._memo: dict[tuple[str, str], float] = {}
        self.unreadable = 0

    def read(self, key: str, value: str) -> float:
        """The moment in Unix seconds."""
        known = self._memo.get((key, value))
        if known is None:
            known = self._parse(value)
            if len(self._memo) >= _MEMO_LIMIT:
                self._memo.pop(next(iter(self._memo)))
            self._memo[key, value] = known
        return known

    def _parse(self, value: str) -> float:
        text = value.strip()
        try:
            moment = float(text)
        except ValueError:
            try:
                parsed = datetime.fromisoformat(text)
            except ValueError:
                parsed = None
            if parsed is None:
                self.unreadable += 1
                return time()
            return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp()
        if not isfinite(moment):
            self.unreadable += 1
            return time()
        return moment
