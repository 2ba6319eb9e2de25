"""`idempotency` of services and routes, and `IDEMPOTENCY` for all others: which rows heed an Idempotency-Key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from kernel.config.settings import Settings
from kernel.routing.catalog import RouteRow
from kernel.routing.keyed import OFF, OPTIONAL, keyable


def flaw(rows: Sequence[RouteRow], changes: Mapping[str, Any]) -> str:
    """Why no row of a pattern can do what its table's `changes` demand, or an empty string."""
    asked = changes.get("idempotency", OFF)
    if asked == OFF or any(keyable(row) for row in rows if row.idempotency == asked):
        return ""
    return "idempotency is for POST and PATCH of services, from callers who are known: each has answers of their own"


def settle(settings: Settings) -> Settings:
    """Every row's `idempotency` as it holds: None, OPTIONAL or REQUIRED."""
    default = OPTIONAL if settings.idempotency else OFF
    return replace(settings, routes=tuple(_settled(row, default) for row in settings.routes))


def _settled(row: RouteRow, default: str) -> RouteRow:
    asked = row.idempotency or default
    holds = None if asked == OFF or not keyable(row) else asked
    return row if holds == row.idempotency else replace(row, idempotency=holds)
