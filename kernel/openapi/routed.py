"""From a path as a service's document has it to the paths by which clients get there."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping

from kernel.routing.catalog import METHODS, RouteRow
from kernel.routing.trie import Trie

# (path here, the rows by which requests for it get to the service, by method) for a path there.
Routed = Callable[[str], Iterator[tuple[str, Mapping[str, RouteRow]]]]

_VARIABLE = re.compile(r"\{[a-z][a-z0-9_]*\}")


class Table:
    """Rows by path and method, and those that rewrite by what they send."""

    def __init__(self, rows: tuple[RouteRow, ...]) -> None:
        self.trie: Trie[RouteRow] = Trie()
        # Service -> first segment that is sent ("" for a variable) -> rows.
        self.rewriting: dict[str | None, dict[str, list[RouteRow]]] = {}
        for row in rows:
            self.trie.add(METHODS if row.methods is None else row.methods, row.pattern, row)
            if row.rewrite:
                first = row.rewrite.split("/", 2)[1]
                first = "" if first == "**" or _VARIABLE.fullmatch(first) else first
                self.rewriting.setdefault(row.service, {}).setdefault(first, []).append(row)


def routed_to(table: Table, service: str | None) -> Routed:
    """Which paths and rows lead to `service` (None: the gateway itself)."""
    rewriting = table.rewriting.get(service, {})

    def routed(path: str) -> Iterator[tuple[str, Mapping[str, RouteRow]]]:
        routes, _ = table.trie.match(path.encode())
        plain = {m: row for m, row in (routes or {}).items() if row.service == service and not row.rewrite}
        if plain:
            yield path, plain
        if not rewriting:
            return
        found: dict[str, dict[str, RouteRow]] = {}
        for row in (*rewriting.get(path.split("/", 2)[1], ()), *rewriting.get("", ())):
            public = _public(row, path)
            # Another row may be more exact for that path.
            routes = table.trie.match(public.encode())[0] if public else None
            for method, other in (routes or {}).items():
                if other is row:
                    found.setdefault(public, {})[method] = row
        yield from found.items()

    return routed


def _public(row: RouteRow, path: str) -> str:
    """The path for which `row` sends `path`, whose variables may have other names; "" if there is none."""
    wanted = row.rewrite[1:].split("/")
    given = path[1:].split("/")
    rest: list[str] = []
    if wanted[-1] == "**":
        wanted.pop()
        rest = given[len(wanted) :]
        given = given[: len(wanted)]
        if not wanted and rest == [""]:
            rest = []
    if len(given) != len(wanted):
        return ""
    values: dict[str, str] = {}
    for there, here in zip(wanted, given, strict=True):
        if not _VARIABLE.fullmatch(there):
            if there != here:
                return ""
        elif values.setdefault(there, here) != here:
            return ""
    public: list[str] = []
    for segment in row.pattern[1:].split("/"):
        public += rest if segment == "**" else [values.get(segment, segment)]
    return "/" + "/".join(public)
