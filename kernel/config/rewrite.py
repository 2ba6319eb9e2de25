"""Changes to the built-in routes, as functions from rows to rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from kernel.routing.catalog import METHODS, RouteRow, with_head


def change(
    rows: Sequence[RouteRow], pattern: str, methods: frozenset[str] | None, changes: Mapping[str, Any]
) -> list[RouteRow]:
    """Apply `changes` to what `rows` do for `pattern` and `methods` (None: all they serve); add a row for the rest.

    A row that serves other methods too is split. Raises ValueError when a row has to be added and `changes` name no
    service for it.
    """
    result: list[RouteRow] = []
    missing = with_head(methods)
    found = False
    for row in rows:
        served = row.answered
        common = served & with_head(methods)
        if row.pattern != pattern or not common:
            result.append(row)
            continue
        found = True
        missing -= common
        if served - common:
            result.append(replace(row, methods=served - common))
        result.append(replace(row, methods=row.methods if served == common else common, **changes))
    if missing and not (found and methods is None):
        if "service" not in changes:
            raise ValueError("no route has this pattern and these methods: a new one needs a service")
        result.append(RouteRow(pattern=pattern, methods=None if missing == METHODS else missing, **changes))
    return result


def narrow(rows: Sequence[RouteRow], service: str, methods: frozenset[str]) -> list[RouteRow]:
    """`rows` with those of `service` serving only `methods`."""
    result: list[RouteRow] = []
    for row in rows:
        if row.service != service:
            result.append(row)
        elif common := row.answered & with_head(methods):
            result.append(replace(row, methods=common))
    return result


def contradiction(row: RouteRow) -> str:
    """Why `row` cannot mean what it says, or an empty string."""
    if row.handler != "proxy" and row.service is not None:
        return "the gateway answers this route itself: it has no service"
    if row.websocket and row.answered != {"GET", "HEAD"}:
        return "a WebSocket is opened with GET: it has no other methods"
    if row.websocket and row.effect:
        return "a WebSocket has no 2xx answer, and so no effect"
    if row.admin and row.public:
        return "an admin route cannot be public"
    if row.public:
        demands = {"min_tier": row.min_tier, "service_only": row.service_only, "critical": row.critical}
        named = [name for name, value in demands.items() if value]
        if named:
            return f"a public route knows no identity: {' and '.join(named)} cannot be checked"
    return ""
