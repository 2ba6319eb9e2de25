"""Timestamps: the times that other services write into the store, read leniently and remembered."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from time import time

from kernel.primitives.memo import keep

_MEMO_LIMIT = 4096
# The last second that ISO 8601 can write with four digits of a year; beyond it are milliseconds, or worse.
_LATEST = 253_402_300_799.0
_MAX_SHOWN = 64


class Timestamps:
    """Reads the values of `subscription_changed_at`: Unix seconds or ISO 8601.

    An unreadable value counts as a change at the moment this worker first saw it, and as one metric; `complain(key, value)`
    is called for it.
    """

    __slots__ = ("_complain", "_memo", "unreadable")

    def __init__(self, complain: Callable[[str, str], None] = lambda key, value: None) -> None:
        self._memo: dict[tuple[str, str], float] = {}
        self._complain = complain
        self.unreadable = 0

    def read(self, key: str, value: str) -> float:
        """The moment in Unix seconds."""
        known = self._memo.get((key, value))
        if known is None:
            moment = _parse(value)
            if moment is None:
                moment = time()
                self.unreadable += 1
                self._complain(key, value[:_MAX_SHOWN])
            known = keep(self._memo, (key, value), moment, _MEMO_LIMIT)
        return known


def _parse(value: str) -> float | None:
    text = value.strip()
    try:
        moment = float(text)
    except ValueError:
        try:
            parsed = datetime.fromisoformat(text)
        except ValueError:
            return None
        return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp()
    # NaN is in no interval.
    return moment if -_LATEST <= moment <= _LATEST else None
