"""AlertLog: the alerts of each tenant as the store keeps them, recorded once and read page by page.

A position says up to where somebody knows a tenant's alerts: (generation, milliseconds, number within them). Within a
generation positions grow; a store that lost its data begins another one.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from typing import NamedTuple

from kernel.store.keys import ALERTS_RECORDED, tenant_alerts
from kernel.store.redis import Script, Store

_RECORD = Script(files("kernel.store").joinpath("alerts_record.lua").read_text())
_READ = Script(files("kernel.store").joinpath("alerts_read.lua").read_text())
# How long a position stays good for a tenant without alerts.
_LIFE = 30 * 86400.0


class Position(NamedTuple):
    """See the module's docstring. Comparable within one generation."""

    generation: int
    ms: int
    number: int

    def __str__(self) -> str:
        return f"{self.generation}-{self.ms}-{self.number}"


# Asks for all that is kept.
OLDEST = Position(-1, 0, 0)


class Page(NamedTuple):
    """What follows a position. `verdict`: "ok", or why the position is no good ("too-old", "unknown").

    In the latter case `entries` begin with the oldest alert kept. `position` is that of the last entry or, when there is
    no `more`, where the stream ends.
    """

    verdict: str
    position: Position
    entries: list[tuple[Position, bytes]]
    more: bool

    @property
    def start(self) -> Position:
        """Before all alerts of the generation."""
        return Position(self.position.generation, 0, 0)


class AlertLog:
    """`most` alerts of a tenant are kept for `retention` seconds after the last one. `worker` signs what is recorded."""

    def __init__(self, store: Store, worker: str, *, most: int, retention: float) -> None:
        self._store = store
        self._worker = worker
        kept = int(retention * 1000)
        self._life = int(max(retention, _LIFE) * 1000)
        self._limits = (most, kept, self._life)

    async def record(self, tenant: str, alerts: Sequence[tuple[str, bytes]]) -> list[int]:
        """Record (alert id, payload) pairs in this order; 1 for each new one, 0 for each seen before. Raises StoreError.

        Each new one is announced on ALERTS_RECORDED as b"recorded WORKER TENANT GENERATION ID PREVIOUS_ID\\nPAYLOAD", each
        other one as b"seen WORKER TENANT\\nALERT_ID".
        """
        flat = [part for pair in alerts for part in pair]
        results: list[int] = await self._store.run(
            _RECORD, tenant_alerts(tenant), (ALERTS_RECORDED, tenant, self._worker, *self._limits, *flat)
        )
        return results

    async def read(self, tenant: str, known: Position | None, count: int) -> Page:
        """Up to `count` alerts after `known`; None asks only where the stream ends, OLDEST for all. Raises StoreError."""
        if known is None:
            asked = ("", "")
        elif known is OLDEST:
            asked = ("*", "")
        else:
            asked = (str(known.generation), f"{known.ms}-{known.number}")
        generation, last, verdict, raw = await self._store.run(
            _READ, tenant_alerts(tenant), (*asked, count, self._life)
        )
        entries = [(position(generation, each), fields[1]) for each, fields in raw]
        more = len(entries) == count
        end = entries[-1][0] if more else position(generation, last)
        return Page(verdict.decode(), end, entries, more)


def position(generation: bytes, entry: bytes) -> Position:
    """The position that the store spells with these two. Raises ValueError."""
    ms, _, number = entry.partition(b"-")
    return Position(int(generation), int(ms), int(number))
