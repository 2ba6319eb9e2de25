"""`gateway keys`: API keys by hand, for whoever has the store and the secret of the gateways."""

from __future__ import annotations

import argparse
import sys
import time
from typing import TYPE_CHECKING

import msgspec

from kernel.cli.lock import tenant
from kernel.cli.output import Formatter, Style, plural, room, table, wrapped
from kernel.cli.with_store import record, with_store
from kernel.routing.catalog import TIERS, Limit

if TYPE_CHECKING:
    from kernel.config import Settings
    from kernel.identity.api_key_book import ApiKeyBook, Made
    from kernel.identity.api_key_view import ApiKey
    from kernel.store.redis import Store

_DAY = 86_400
_MOST = 100_000
_SECONDS = 30.0


def add(parser: argparse.ArgumentParser) -> None:
    parser.description = """\
API keys of tenants: for operators what owners have in the API. Whatever is done is in force in all workers of all gateways
on this store within 100 ms. JWT_SECRET_KEY must be that of the gateways: records of keys are marked with it."""
    parser.epilog = """\
examples:
  gateway keys create --tenant t-1 --name "POS Triana" --scope sales:write --limit 60/60 > pos.key
  gateway keys list --tenant t-1
  gateway keys rotate 8Zq1TtBk --overlap 3600 > pos.key
  gateway keys revoke < leaked.txt
"""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True, title="actions")
    create = actions.add_parser("create", help="make a key and print it, alone", formatter_class=Formatter)
    create.description = "Make a key. It is printed alone, this once; what it is stands on the error output."
    create.add_argument("--tenant", type=tenant, metavar="ID", required=True, help="whose key")
    create.add_argument("--name", required=True, help="what it is for: up to 64 characters")
    create.add_argument(
        "--scope", action="append", required=True, metavar="SCOPE", help="such as inventory:read, sales:*, *"
    )
    create.add_argument("--role", default="member", help="x-user-role of its requests (default: member)")
    create.add_argument(
        "--tier", default="starter", choices=TIERS, help="the tenant's, until it changes (default: starter)"
    )
    create.add_argument(
        "--limit", type=_limit, metavar="REQUESTS/SECONDS", help="its own (default: any client's)"
    )
    create.add_argument("--days", type=_days, metavar="N", help="how long it lives (default: without end)")
    listed = actions.add_parser("list", help="the keys there are", formatter_class=Formatter)
    listed.description = "The keys of a tenant, or all. No secret is in the list, for none is kept."
    listed.add_argument("--tenant", type=tenant, metavar="ID", help="whose keys (default: everybody's)")
    listed.add_argument("--json", action="store_true", help="one JSON array")
    rotate = actions.add_parser("rotate", help="give a key a new secret", formatter_class=Formatter)
    rotate.description = (
        "Make a new secret for a key and print it, alone. The secrets there are go on for the overlap."
    )
    rotate.add_argument("key_id", metavar="ID", type=_key_id, help="8 characters: KEY in the list")
    rotate.add_argument(
        "--overlap",
        type=_overlap,
        metavar="SECONDS",
        help="0 ends them at once; up to a week (default: a day)",
    )
    revoke = actions.add_parser("revoke", help="refuse a key from now on", formatter_class=Formatter)
    revoke.description = """\
Refuse a key from now on, with all its secrets. Of one that leaked the key itself will do, on standard input, so that it stays
out of the shell's history."""
    revoke.add_argument(
        "key_id", nargs="?", default="-", metavar="ID", type=_key_id, help="- or nothing: standard input"
    )
    reseal = actions.add_parser(
        "reseal", help="mark all keys with the first secret", formatter_class=Formatter
    )
    reseal.description = """\
Mark the records of all keys with the first secret of JWT_SECRET_KEY. Before an old secret is taken out of it: keys that were
not used since the new one came would be good no longer."""


def run(args: argparse.Namespace) -> int:
    return with_store(lambda store, settings: _work(args, store, settings))


async def _work(args: argparse.Namespace, store: Store, settings: Settings) -> int:
    from kernel.http.problems import GatewayError  # noqa: PLC0415
    from kernel.identity.api_key_book import ApiKeyBook  # noqa: PLC0415
    from kernel.identity.stamp import Stamp  # noqa: PLC0415

    if not settings.jwt_secret_keys:
        return _fail("JWT_SECRET_KEY is not set: keys are marked with it, and only marked ones are believed")
    book = ApiKeyBook(store, Stamp(settings.jwt_secret_keys), settings.api_keys_per_tenant)
    try:
        return await {
            "create": _create,
            "list": _list,
            "rotate": _rotate,
            "revoke": _revoke,
            "reseal": _reseal,
        }[args.action](args, book, settings)
    except GatewayError as error:
        return _fail(f"{error.problem.detail} ({error.problem.kind.code})")


async def _create(args: argparse.Namespace, book: ApiKeyBook, settings: Settings) -> int:
    from kernel.identity.api_key_book import Draft  # noqa: PLC0415
    from kernel.identity.api_key_record import Name, Plan, Role  # noqa: PLC0415
    from kernel.identity.scopes import check  # noqa: PLC0415
    from kernel.stages.authenticate.api_keys import scope_names  # noqa: PLC0415

    try:
        for scope in args.scope:
            check(scope, scope_names(settings))
        name = msgspec.convert(args.name, Name)
        role = msgspec.convert(args.role, Role)
    except ValueError as error:
        return _fail(str(error))
    scopes = tuple(dict.fromkeys(args.scope))
    plan = Plan(time.time(), args.tier, "active")
    lifetime = args.days * _DAY if args.days else None
    made = await book.create(
        Draft(args.tenant, name, scopes, role, plan, "operator", limit=args.limit, lifetime=lifetime)
    )
    record(settings, "keys create", subject=f"key:{made.record.id}", tenant_id=made.record.tenant)
    return _show(made, "made")


async def _list(args: argparse.Namespace, book: ApiKeyBook, settings: Settings) -> int:
    from kernel.identity.api_key_view import shown  # noqa: PLC0415

    entries = await (book.entries(args.tenant) if args.tenant else book.everything(_MOST, _SECONDS))
    keys = [shown(entry) for entry in entries]
    if args.json:
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(keys), indent=2).decode() + "\n")
        return 0
    if keys:
        rows: list[tuple[str, ...]] = [("KEY", "TENANT", "NAME", "SCOPES", "LIMIT", "ENDS", "USED")]
        rows += [_row(key) for key in keys]
        codes = ("1", "", "36", "", "2", "2", "2")
        lines = table(wrapped(rows, room(sys.stdout)), codes, Style(sys.stdout))
        sys.stdout.write("\n".join(lines) + "\n\n")
    sys.stdout.write(f"{plural(len(keys), 'key')}\n")
    return 0


def _row(key: ApiKey) -> tuple[str, ...]:
    limit = key.rate_limit
    return (
        key.key_id,
        key.tenant_id,
        key.name,
        " ".join(key.scopes),
        f"{limit.requests}/{limit.window_seconds:g}" if limit else "",
        (key.expires_at or "")[:10],
        (key.last_used_at or "")[:16],
    )


async def _rotate(args: argparse.Namespace, book: ApiKeyBook, settings: Settings) -> int:
    from kernel.identity.api_key_book import OVERLAP  # noqa: PLC0415

    overlap = OVERLAP if args.overlap is None else args.overlap
    made = await book.rotate(args.key_id, None, overlap, None)
    record(settings, "keys rotate", subject=f"key:{made.record.id}", tenant_id=made.record.tenant)
    return _show(made, f"rotated; its other secrets end within {overlap} s")


async def _revoke(args: argparse.Namespace, book: ApiKeyBook, settings: Settings) -> int:
    from kernel.primitives.api_key import id_of  # noqa: PLC0415

    key_id = args.key_id
    if key_id == "-":
        key_id = id_of(sys.stdin.read().strip().encode("utf-8", "replace"))
        if key_id is None:
            return _fail("what came on standard input is no API key: its form or its checksum is wrong")
    gone = await book.revoke(key_id, None)
    record(settings, "keys revoke", subject=f"key:{gone.id}", tenant_id=gone.tenant)
    sys.stdout.write(f"gateway: key {gone.id} of tenant {gone.tenant} ({gone.name}) is refused\n")
    return 0


async def _reseal(args: argparse.Namespace, book: ApiKeyBook, settings: Settings) -> int:
    changed, all_of_them = await book.reseal(_MOST, _SECONDS)
    record(settings, "keys reseal", subject=f"{changed} keys")
    sys.stdout.write(f"gateway: {plural(all_of_them, 'key')}, {changed} marked anew\n")
    return 0


def _show(made: Made, what: str) -> int:
    sys.stdout.write(made.key + "\n")
    it = made.record
    sys.stderr.write(
        f"gateway: key {it.id} of tenant {it.tenant} ({it.name}) is {what}; it is shown this once\n"
    )
    return 0


def _fail(text: str) -> int:
    sys.stderr.write(f"gateway: {text}\n")
    return 1


def _key_id(text: str) -> str:
    from kernel.primitives.api_key import PREFIX  # noqa: PLC0415

    if text.startswith(PREFIX) and len(text) > len(PREFIX) + 8:
        # SECURITY: not quoted.
        raise argparse.ArgumentTypeError("this is a key, not a key's id: give it on standard input")
    text = text.removeprefix(PREFIX)
    if text != "-" and not (len(text) == 8 and text.isalnum() and text.isascii()):
        raise argparse.ArgumentTypeError("8 letters and digits")
    return text


def _limit(text: str) -> Limit:
    requests, slash, window = text.partition("/")
    if (
        slash
        and requests.isdecimal()
        and window.isdecimal()
        and int(requests) > 0
        and 0 < int(window) <= _DAY
    ):
        return Limit(int(requests), float(window))
    raise argparse.ArgumentTypeError("REQUESTS/SECONDS, such as 60/60")


def _days(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) <= 5 * 366:
        raise argparse.ArgumentTypeError("whole days, 1 to 1830")
    return int(text)


def _overlap(text: str) -> int:
    if not text.isdecimal() or int(text) > 7 * _DAY:
        raise argparse.ArgumentTypeError("whole seconds, 0 to 604800")
    return int(text)
