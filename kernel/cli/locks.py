"""`gateway locks`: who may not write, and why."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from kernel.cli.output import Style, plural, room, table, wrapped
from kernel.cli.with_store import with_store
from kernel.store.keys import PLATFORM_READ_ONLY, tenant_read_only

if TYPE_CHECKING:
    from kernel.config import Settings
    from kernel.store.redis import Store

_MOST = 10_000
_SECONDS = 30.0


def add(parser: argparse.ArgumentParser) -> None:
    parser.description = """\
List what is read-only: the platform, and tenants by their ids, each with its reason and how long it will be."""
    parser.epilog = """\
examples:
  gateway locks
  gateway locks --json | jq -r '.[].tenant_id'
"""
    parser.add_argument("--json", action="store_true", help="one JSON array")


def run(args: argparse.Namespace) -> int:
    async def work(store: Store, settings: Settings) -> int:
        found = await _locks(store)
        if args.json:
            sys.stdout.write(json.dumps(found, indent=2) + "\n")
            return 0
        if not found:
            sys.stdout.write("gateway: nothing is locked\n")
            return 0
        rows = [
            (lock["tenant_id"] or "the platform", _ending(lock["seconds_left"]), lock["reason"])
            for lock in found
        ]
        style = Style(sys.stdout)
        lines = table(wrapped([("WHO", "UNTIL", "REASON"), *rows], room(sys.stdout)), ("1", "2", ""), style)
        sys.stdout.write("\n".join(lines) + f"\n\n{plural(len(rows), 'lock')}\n")
        return 0

    return with_store(work)


async def _locks(store: Store) -> list[dict[str, Any]]:
    from kernel.store.scan import scan  # noqa: PLC0415

    before, _, after = tenant_read_only("*").partition("*")
    keys = await scan(store, f"{before}*{after}", most=_MOST, seconds=_SECONDS)
    locks: list[dict[str, Any]] = []
    for key in [PLATFORM_READ_ONLY, *keys]:
        value, left = await store.execute("GET", key), await store.execute("PTTL", key)
        if value is not None:  # it may have gone since
            locks.append(
                {
                    "tenant_id": None if key == PLATFORM_READ_ONLY else key[len(before) : -len(after)],
                    "reason": value.decode("utf-8", "replace"),
                    "seconds_left": round(left / 1000) if left >= 0 else None,
                }
            )
    return locks


def _ending(seconds: int | None) -> str:
    return "unlocked" if seconds is None else f"{seconds} s from now"
