"""`gateway limits`: how much clients have left of their limits, and all of it again."""

from __future__ import annotations

import argparse
import json
import re
import sys
from math import ceil
from typing import TYPE_CHECKING, Any, NamedTuple

from kernel.cli.lock import tenant
from kernel.cli.output import Formatter, Style, plural, room, table, wrapped
from kernel.cli.with_store import record, with_store

if TYPE_CHECKING:
    from kernel.config import Settings
    from kernel.store.redis import Store

_PREFIX = "ratelimit:"
# `bucket[:limit's own name]:requests/window`, as store/keys.py and stages/limit.py write it.
_NAME = re.compile(r"(?P<bucket>.*):(?P<requests>\d+)/(?P<window>[0-9.e+]+)")
_MOST = 100_000
_SHOWN = 20
_SECONDS = 30.0


def add(parser: argparse.ArgumentParser) -> None:
    parser.description = """\
What is in the token buckets of the store: of one client, or of those that have least left. A bucket that nobody used lately
is full and not in the store. Gateways without the store keep limits by themselves; that is not seen here."""
    parser.epilog = """\
examples:
  gateway limits show
  gateway limits show --user 81a4f2d3
  gateway limits reset --address 203.0.113.7
"""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True, title="actions")
    show = actions.add_parser("show", help="what is left of limits", formatter_class=Formatter)
    show.description = "What is left: of one client's limits, or of the limits that have least left."
    reset = actions.add_parser("reset", help="fill a client's buckets", formatter_class=Formatter)
    reset.description = """\
Fill all buckets of a client: it may use its limits from the start, in every gateway within a second. Limits themselves are
settings: RATE_LIMIT_REQUESTS and its like, and gateway.toml."""
    for action in (show, reset):
        which = action.add_mutually_exclusive_group(required=action is reset)
        which.add_argument("--user", metavar="ID", help="a user's, by the id that tokens have")
        which.add_argument("--service", metavar="NAME", help="a service's")
        which.add_argument(
            "--address", type=_address, metavar="IP", help="an address's, or of IPv6 its /64's"
        )
        which.add_argument("--tenant", type=tenant, metavar="ID", help="a whole tenant's")
        which.add_argument("--bucket", metavar="NAME", help="by its name in the first column")
    show.add_argument("--json", action="store_true", help="one JSON array")


class Bucket(NamedTuple):
    """One bucket now. `left` counts what is `lent` to workers for requests that may come."""

    name: str
    requests: int
    window: float
    left: int
    lent: int
    full_in: int


def run(args: argparse.Namespace) -> int:
    names = _named(args)

    async def work(store: Store, settings: Settings) -> int:
        keys = await _keys(store, names)
        if args.action == "reset":
            gone = sum([int(await store.execute("DEL", key)) for key in keys])
            record(settings, "limits reset", subject=names[0])
            sys.stdout.write(
                f"gateway: {plural(gone, 'bucket')} filled\n" if gone else "gateway: all were full\n"
            )
            return 0
        buckets = [bucket for key in keys if (bucket := await _bucket(store, key)) is not None]
        buckets.sort(key=lambda bucket: (bucket.left / bucket.requests, bucket.name))
        shown = buckets if names or args.json else buckets[:_SHOWN]
        if args.json:
            sys.stdout.write(json.dumps([bucket._asdict() for bucket in shown], indent=2) + "\n")
            return 0
        _print(shown)
        more = f", {len(shown)} shown" if len(shown) < len(buckets) else ""
        sys.stdout.write(f"{plural(len(buckets), 'bucket')} in use{more}\n")
        return 0

    return with_store(work)


def _named(args: argparse.Namespace) -> tuple[str, ...]:
    """The names that the wanted client's buckets begin with; none: all."""
    if args.user:
        return (f"user:{args.user}",)
    if args.service:
        return (f"service:{args.service}",)
    if args.address:
        return (args.address, *(f"login:{kind}:{args.address}" for kind in ("login", "register", "refresh")))
    if args.tenant:
        return (f"tenant:{args.tenant}",)
    return (args.bucket,) if args.bucket else ()


async def _keys(store: Store, names: tuple[str, ...]) -> list[str]:
    from kernel.store.scan import literal, scan  # noqa: PLC0415

    found: list[str] = []
    for name in names or ("",):
        pattern = f"{_PREFIX}{literal(name)}:*" if name else f"{_PREFIX}*"
        found += await scan(store, pattern, most=_MOST, seconds=_SECONDS)
    return found


async def _bucket(store: Store, key: str) -> Bucket | None:
    """What lease.lua would find there now; None: it has filled up since, or is no bucket."""
    named = _NAME.fullmatch(key.removeprefix(_PREFIX))
    fields: dict[bytes, bytes] = await store.execute("HGETALL", key)
    if named is None or b"tokens" not in fields:
        return None
    seconds, micros = await store.execute("TIME")
    now = int(seconds) * 1_000_000 + int(micros)
    requests, window = int(named["requests"]), float(named["window"])
    lent = 0
    for field, value in fields.items():
        if field not in (b"tokens", b"stamp"):
            _, granted, used, returned, expiry = value.split()
            if int(expiry) > now:
                lent += int(granted) - int(used) - int(returned)
    pace = requests / (window * 1e6)
    passed = max(0, now - int(fields[b"stamp"]))
    tokens = max(0.0, min(float(fields[b"tokens"]) + passed * pace, requests - lent))
    left = int(tokens) + lent
    name = named["bucket"].removesuffix(f":{named['requests']}/{named['window']}")
    return Bucket(name, requests, window, left, lent, ceil((requests - tokens - lent) / pace / 1e6))


def _print(buckets: list[Bucket]) -> None:
    if not buckets:
        return
    rows = [("LEFT", "OF", "IN", "FULL IN", "BUCKET")]
    rows += [
        (str(each.left), str(each.requests), f"{each.window:g} s", f"{each.full_in} s", each.name)
        for each in buckets
    ]
    style = Style(sys.stdout)

    def codes(row: Any) -> tuple[str, ...]:
        return ("31" if row[0] == "0" else "1", "", "2", "2", "36")

    sys.stdout.write("\n".join(table(wrapped(rows, room(sys.stdout)), codes, style)) + "\n\n")


def _address(text: str) -> str:
    from kernel.http.addresses import address_key  # noqa: PLC0415

    key = address_key(text)
    if key == "ip:unknown" or not _is_address(text):
        raise argparse.ArgumentTypeError("is no IP address")
    return key


def _is_address(text: str) -> bool:
    from ipaddress import ip_address  # noqa: PLC0415

    try:
        ip_address(text)
    except ValueError:
        return False
    return True
