"""`gateway routes`."""

from __future__ import annotations

import argparse
import io
import sys
import textwrap
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from kernel.cli.output import Style, plural, room, table, wrapped
from kernel.cli.settings import obtain
from kernel.config.values import size_text
from kernel.routing.beside import beside
from kernel.routing.catalog import METHODS, RouteRow, Service

_HEAD = ("METHODS", "PATTERN", "ANSWERED BY", "CALLERS", "ALSO")
_BESIDE = ("BESIDE", "SERVICE", "GETS", "AT")
_CODES = ("36", "", "32", "33", "2")
_LEAST_PATTERN = 20


def add(parser: argparse.ArgumentParser) -> None:
    parser.description = """\
Print the route table with what gateway.toml adds and changes: methods, pattern, who answers, who may call, and
what else holds for the route; then the canaries and mirrors beside services. A literal segment beats a {parameter},
which beats a trailing **, in any order."""
    parser.epilog = """\
examples:
  gateway routes
  gateway routes | grep public
  gateway routes --json | jq '.[] | select(.critical)'
"""
    parser.add_argument(
        "--json", action="store_true", help="one JSON array of all routes with all their fields"
    )


def run(args: argparse.Namespace) -> int:
    loaded = obtain()
    if loaded is None:
        return 1
    rows = sorted(loaded.settings.routes, key=_key)
    catalog = loaded.settings.service_catalog
    if args.json:
        listed = msgspec.json.encode(list(_with_variants(rows, catalog)), order="deterministic")
        sys.stdout.write(msgspec.json.format(listed, indent=2).decode() + "\n")
        return 0
    style = Style(sys.stdout)
    lines = fitted(rows, room(sys.stdout), style)
    sys.stdout.write("\n".join([style("1", lines[0]), *lines[1:]]) + "\n\n")
    variants = [
        (each.name, each.service.name, each.variant.text, " ".join(each.variant.urls))
        for each in beside(catalog)
    ]
    if variants:
        cells = wrapped([_BESIDE, *variants], room(sys.stdout))
        first, *rest = table(cells, ("32", "32", "", "2"), style)
        sys.stdout.write("\n".join([style("1", first), *rest]) + "\n\n")
    services = {row.service for row in rows if row.service}
    sys.stdout.write(f"{plural(len(rows), 'route')} to {plural(len(services), 'service')}\n")
    return 0


def _with_variants(rows: Iterable[RouteRow], catalog: Iterable[Service]) -> Iterator[dict[str, Any]]:
    """Each row with the canary and the mirror of who is asked."""
    services = {service.name: service for service in catalog}
    for row in rows:
        found: dict[str, Any] = msgspec.to_builtins(row)
        service = services.get(row.asked) if row.service else None
        if service is not None:
            both = {"canary": service.canary, "mirror": service.mirror}
            found |= {name: variant for name, variant in both.items() if variant is not None}
        yield found


def fitted(rows: Iterable[RouteRow], width: int | None, style: Style) -> list[str]:
    """The table in lines of `width` (None: as long as it takes).

    When it is too wide, a pattern that leaves no room for who answers has a line of its own, and so has what else holds.
    """
    listed = list(map(cells, rows))
    lines = table([_HEAD, *listed], _CODES, style)
    if width is None or max(map(len, table([_HEAD, *listed], _CODES, Style(io.StringIO())))) <= width:
        return lines
    methods_, pattern, service, callers_, _ = (
        max(map(len, column)) for column in zip(_HEAD, *listed, strict=True)
    )
    gap = "  "
    pattern = min(pattern, max(_LEAST_PATTERN, width - methods_ - service - callers_ - 3 * len(gap)))
    rest = width - methods_ - pattern - service - callers_ - 4 * len(gap)
    head = [
        name.ljust(size) for name, size in zip(_HEAD, (methods_, pattern, service, callers_), strict=False)
    ]
    lines = [gap.join((*head, "ALSO")) if rest >= len("ALSO") else gap.join(head).rstrip()]
    for row in listed:
        dressed = [style(code, cell) for code, cell in zip(_CODES, row, strict=True)]
        start = dressed[0] + " " * (methods_ - len(row[0])) + gap + dressed[1]
        space = pattern - len(row[1])
        if space < 0:
            lines.append(start)
            start, space = "", methods_ + len(gap) + pattern
        line = start + " " * space + gap + dressed[2] + " " * (service - len(row[2])) + gap + dressed[3]
        if row[4] and len(row[4]) <= rest:
            line += " " * (callers_ - len(row[3])) + gap + dressed[4]
        lines.append(line)
        if len(row[4]) > rest:
            indent = " " * (methods_ + 2 * len(gap))
            wrapped = textwrap.wrap(row[4], max(20, width - len(indent)), break_long_words=False)
            lines += [indent + style(_CODES[4], part) for part in wrapped]
    return lines


def _key(row: RouteRow) -> tuple[str, str]:
    return row.pattern, methods(row)


def cells(row: RouteRow) -> tuple[str, str, str, str, str]:
    """A row of the table."""
    return (
        methods(row),
        row.pattern,
        row.upstream or row.service or "gateway",
        callers(row),
        ", ".join(extras(row)),
    )


def methods(row: RouteRow) -> str:
    """`any`, or the methods; all but a few are told by what is missing."""
    if row.methods is None or row.methods == METHODS:
        return "any"
    order = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
    missing = [method for method in order if method not in row.methods]
    if len(missing) <= 2:
        return f"any but {' '.join(missing)}"
    return " ".join(method for method in order if method in row.methods)


def callers(row: RouteRow) -> str:
    """Who may call."""
    if row.public:
        return "public"
    if row.service_only:
        return "service token"
    return "admin" if row.admin else "token"


def extras(row: RouteRow) -> Iterator[str]:
    """What else holds for a route, in words."""
    if row.rules:
        yield f"calls {' or '.join(dict.fromkeys(rule.name for rule in row.rules))}"
    if row.min_tier:
        yield f"{row.min_tier} tier"
    if row.limit:
        yield f"{row.limit.requests} per {row.limit.window:g} s"
    if row.timeout:
        yield f"timeout {row.timeout:g} s"
    if row.max_body is not None:
        yield f"body {size_text(row.max_body)}"
    if row.allow_encoded_slash:
        yield "%2F allowed"
    if row.websocket:
        yield "websocket"
    if row.critical:
        yield f"verified as {row.critical}"
    if row.effect:
        yield row.effect
    if row.idempotency:
        yield f"idempotency keys {row.idempotency}"
    if row.always_writable:
        yield "always writable"
    if row.rewrite:
        yield f"sent as {row.rewrite}"
    if row.set_headers:
        yield f"sets {' '.join(name for name, _ in row.set_headers)}"
    if row.remove_headers:
        yield f"removes {' '.join(row.remove_headers)}"
    if row.response_headers:
        yield f"answers with other {' '.join(name for name, _ in row.response_headers)}"
    if row.life is not None and row.life.deprecated is not None:
        yield "deprecated"
