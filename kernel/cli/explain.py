"""`gateway explain`."""

from __future__ import annotations

import argparse
import sys
from typing import Any

import msgspec

from kernel.cli.output import Style, room, table, wrapped
from kernel.cli.routes import methods
from kernel.cli.settings import obtain
from kernel.config import Settings
from kernel.config.values import size_text
from kernel.http.paths import flaw, second_look
from kernel.routing.beside import beside
from kernel.routing.catalog import METHODS, VERSION_UNKNOWN, RouteRow
from kernel.routing.rpc import Rule
from kernel.routing.traffic import Canary
from kernel.routing.trie import Trie
from kernel.stages import describe
from kernel.traffic.versions import Versions, in_words


def add(parser: argparse.ArgumentParser) -> None:
    parser.description = """\
Tell what would happen to a request, without sending it: the route that matches, each policy stage in order with what it
demands, timeouts and the service's URLs. Exits 1 when no route takes the request."""
    parser.epilog = """\
examples:
  gateway explain GET /api/v1/inventory/items
  gateway explain DELETE /api/v1/tenants/7 --json
  gateway explain GET '/api/v1/inventory/a%2Fb'      # 400: an encoded slash
"""
    parser.add_argument("method", metavar="METHOD", help="in any case")
    parser.add_argument("path", metavar="PATH", help="as it is sent, percent-encoded; a query is ignored")
    parser.add_argument("--json", action="store_true", help="one JSON object")


def run(args: argparse.Namespace) -> int:
    loaded = obtain()
    if loaded is None:
        return 1
    method = args.method.upper()
    path = args.path.partition("?")[0]
    found = match(loaded.settings, method, path)
    if args.json:
        answer: dict[str, Any] = {"method": method, "path": path}
        answer |= {"refused": found} if isinstance(found, str) else explained(loaded.settings, found, path)
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(answer), indent=2).decode() + "\n")
        return int(isinstance(found, str))
    style = Style(sys.stdout)
    space = room(sys.stdout)
    columns = space and space - 2
    if isinstance(found, str):
        sys.stdout.write(f"{style('1', f'{method} {path}')}\n\n  {style('31', found)}\n")
        return 1
    facts = explained(loaded.settings, found, path)
    stages: dict[str, str] = facts.pop("stages")
    rows = [
        (name.replace("_", " "), _text(value)) for name, value in facts.items() if value not in (None, "", [])
    ]
    sys.stdout.write(f"{style('1', f'{method} {path}')}\n\n")
    sys.stdout.write(
        "\n".join(f"  {line}" for line in table(wrapped(rows, columns), ("2", ""), style)) + "\n\n"
    )
    steps = [(str(number), *pair) for number, pair in enumerate(stages.items(), 1)]
    sys.stdout.write(
        "\n".join(f"  {line}" for line in table(wrapped(steps, columns), ("2", "36", ""), style)) + "\n"
    )
    return 0


def match(settings: Settings, method: str, path: str) -> RouteRow | str:
    """The row of the route that takes the request, or why none does."""
    raw = path.encode()
    wrong, otherwise = flaw(raw)
    if wrong:
        return f"400 bad-path: {wrong}"
    trie: Trie[RouteRow] = Trie()
    for row in settings.routes:
        takes = METHODS if row.methods is None else row.methods
        trie.add(takes | {"HEAD"} if "GET" in takes else takes, row.pattern, row)
    routes, _ = trie.match(raw)
    if routes is None:
        unknown = Versions(settings.service_catalog, settings.routes).unknown(raw)
        if unknown is not None:
            return f"404 {unknown.kind.code}: {unknown.detail}"
        return "404 route-unknown: no pattern matches. `gateway routes` prints them all."
    found = routes.get(method)
    if found is None:
        return f"405 method-not-allowed: {next(iter(routes.values())).pattern} takes {', '.join(sorted(routes))}."
    if otherwise:
        allow = found.allow_encoded_slash
        wrong = second_look(raw, found.pattern, allow, routes, lambda plain: trie.match(plain)[0])
    if not wrong and found.handler == VERSION_UNKNOWN:
        unknown = Versions(settings.service_catalog, settings.routes).unknown(raw)
        return f"404 {VERSION_UNKNOWN}: {unknown.detail if unknown is not None else ''}"
    if not wrong and found.rules and called(found, raw) is None:
        return f"404 route-unknown: {found.pattern} has {', '.join(rule.template for rule in found.rules)}."
    return f"400 bad-path: {wrong}" if wrong else found


def called(row: RouteRow, path: bytes) -> Rule | None:
    """The rule of a gRPC service's row that takes `path`."""
    from kernel.transcoding.template import parse  # noqa: PLC0415

    return next((rule for rule in row.rules if parse(rule.template).pattern().fullmatch(path)), None)


def explained(settings: Settings, row: RouteRow, path: str) -> dict[str, Any]:
    """What holds for a route; `stages` maps their names to what they demand, in order."""
    rule = called(row, path.encode())
    upstream = list(settings.services[row.asked]) if row.service else None
    return {
        "route": f"{methods(row)} {row.pattern}",
        "answered_by": row.upstream or row.service or f"the gateway ({row.handler})",
        "version": ": ".join(filter(None, (row.version, in_words(row.life) if row.life is not None else ""))),
        "upstream": upstream,
        **_variants(settings, row),
        "calls": rule.call if rule is not None else None,
        "sent_as": row.rewrite,
        "sets": [f"{name}: {value}" for name, value in row.set_headers],
        "removes": list(row.remove_headers),
        "answers_with": [
            f"{name}: {value}" if value else f"no {name}" for name, value in row.response_headers
        ],
        "first_byte_within": f"{row.timeout or settings.request_timeout_seconds:g} s"
        if row.service
        else None,
        "pause_at_most": f"{settings.idle_timeout_seconds:g} s" if row.service else None,
        "body_at_most": size_text(row.max_body or settings.max_body_bytes),
        "websocket": "yes" if row.websocket else None,
        "after_a_2xx": row.effect,
        "idempotency_key": row.idempotency,
        "stages": dict(describe(settings, row)),
    }


def _variants(settings: Settings, row: RouteRow) -> dict[str, str]:
    """The canary and the mirror that a request may come to, in words."""
    found: dict[str, str] = {}
    for each in beside(settings.service_catalog):
        if not row.service or row.asked != each.service.name:
            continue
        variant = each.variant
        if isinstance(variant, Canary) or (variant.methods & row.answered and not row.websocket):
            found[each.kind] = f"{variant.text}: {', '.join(variant.urls)}"
    return found


def _text(value: Any) -> str:
    return ", ".join(value) if isinstance(value, list) else str(value)
