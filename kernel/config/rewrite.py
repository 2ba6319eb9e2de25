"""Changes to the built-in routes: the rows by pattern, and functions from rows to rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from kernel.routing.catalog import METHODS, RouteRow, with_head
from kernel.routing.rpc import GRPC


class Table:
    """Rows by pattern and by service, in the order in which patterns came.

    PERF: what is done for one table of gateway.toml touches the rows of its pattern or service only: 5,000 tables take 0.2 s,
    where looking at all rows for each took half a minute.
    """

    def __init__(self, rows: Iterable[RouteRow]) -> None:
        self._rows: dict[str, list[RouteRow]] = {}
        # Service -> the patterns of which it has or had rows.
        self._patterns: dict[str | None, dict[str, None]] = {}
        for row in rows:
            self.put(row.pattern, [*self.at(row.pattern), row])

    def __iter__(self) -> Iterator[RouteRow]:
        for rows in self._rows.values():
            yield from rows

    def at(self, pattern: str) -> Sequence[RouteRow]:
        """The rows of `pattern`."""
        return self._rows.get(pattern, ())

    def put(self, pattern: str, rows: Sequence[RouteRow]) -> None:
        """Let `rows` be those of `pattern`."""
        self._rows[pattern] = list(rows)
        for row in rows:
            self._patterns.setdefault(row.service, {})[pattern] = None

    def owner(self, pattern: str) -> str | None:
        """The service that answers at `pattern`; of several, the last."""
        rows = self.at(pattern)
        return rows[-1].service if rows else None

    def patterns(self, service: str) -> list[str]:
        """The patterns at which `service` answers."""
        return [
            pattern
            for pattern in self._patterns.get(service, ())
            if any(row.service == service for row in self._rows[pattern])
        ]


def change(
    rows: Sequence[RouteRow],
    pattern: str,
    methods: frozenset[str] | None,
    changes: Mapping[str, Any],
    inherited: Mapping[str, Any],
) -> list[RouteRow]:
    """Apply `changes` to what `rows`, all of `pattern`, do for `methods` (None: all they serve); add a row for the rest,
    which has what is `inherited` as well.

    A row that serves other methods too is split. Raises ValueError when a row has to be added and `changes` name no
    service for it.
    """
    result: list[RouteRow] = []
    missing = with_head(methods)
    found = False
    for row in rows:
        served = row.answered
        common = served & with_head(methods)
        if not common:
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
        fields = {**inherited, **changes}
        result.append(RouteRow(pattern=pattern, methods=None if missing == METHODS else missing, **fields))
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
    if row.handler not in {"proxy", GRPC} and row.service is not None:
        return "the gateway answers this route itself: it has no service"
    if row.websocket and row.answered != {"GET", "HEAD"}:
        return "a WebSocket is opened with GET: it has no other methods"
    if row.graphql and (row.websocket or row.handler != "proxy" or row.effect):
        return "graphql is for a service's own answers to GET and POST"
    if row.websocket and row.effect:
        return "a WebSocket has no 2xx answer, and so no effect"
    if row.websocket and row.response_headers:
        return "a WebSocket has no answer that response_headers could change"
    if row.handler != "proxy" and (
        row.rewrite or row.set_headers or row.remove_headers or row.response_headers
    ):
        return "the gateway answers this route itself: nothing is sent that could be rewritten"
    if row.admin and row.public:
        return "an admin route cannot be public"
    if row.public:
        demands = {"min_tier": row.min_tier, "service_only": row.service_only, "critical": row.critical}
        named = [name for name, value in demands.items() if value]
        if named:
            return f"a public route knows no identity: {' and '.join(named)} cannot be checked"
    return ""
