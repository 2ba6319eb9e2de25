"""`gateway lock`: nobody may write in a tenant, or anywhere."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from kernel.cli.with_store import record, with_store
from kernel.primitives.tenant_id import canonical
from kernel.store.keys import PLATFORM_READ_ONLY, tenant_read_only

if TYPE_CHECKING:
    from kernel.config import Settings
    from kernel.store.redis import Store

_LONGEST_REASON = 200
_LONGEST = 366 * 86_400


def add(parser: argparse.ArgumentParser) -> None:
    parser.description = """\
Refuse every write in a tenant, or on the whole platform: 403 `tenant-read-only` or `platform-read-only` with the reason, in
all workers of all gateways on this store within 100 ms. Reading, logging in and paying go on. The command works on the store
that REDIS_URL names; services do the same by PUT /internal/v1/.../read-only."""
    parser.epilog = """\
examples:
  gateway lock 6f1c9f0e-0000-4000-8000-000000000001 --reason "Migration until 14:00" --seconds 7200
  gateway lock --platform --reason "Maintenance"
  gateway locks && gateway unlock --platform
"""
    subject(parser)
    parser.add_argument("--reason", required=True, type=_reason, help="one line that users are shown")
    parser.add_argument("--seconds", type=_seconds, metavar="N", help="unlock by itself after so long")


def subject(parser: argparse.ArgumentParser) -> None:
    """TENANT or --platform: what is locked and unlocked."""
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("tenant", nargs="?", type=tenant, metavar="TENANT", help="the tenant's id")
    which.add_argument("--platform", action="store_true", help="all tenants")


def named(args: argparse.Namespace) -> tuple[str, str]:
    """The key of what `subject` declares, and its name for people."""
    if args.platform:
        return PLATFORM_READ_ONLY, "the platform"
    return tenant_read_only(args.tenant), f"tenant {args.tenant}"


def tenant(text: str) -> str:
    """The type of arguments that are tenants' ids."""
    try:
        return canonical(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def run(args: argparse.Namespace) -> int:
    key, name = named(args)
    ending = ("EX", args.seconds) if args.seconds else ()

    async def work(store: Store, settings: Settings) -> int:
        before = await store.execute("GET", key)
        await store.execute("SET", key, args.reason, *ending)
        record(settings, "lock", subject=name, reason=args.reason)
        until = f" for {args.seconds} s" if args.seconds else ""
        again = f", which it was already: {before.decode('utf-8', 'replace')!r}" if before is not None else ""
        sys.stdout.write(f"gateway: {name} is read-only{until}{again}\n")
        return 0

    return with_store(work)


def _reason(text: str) -> str:
    if not 0 < len(text) <= _LONGEST_REASON or not text.isprintable():
        raise argparse.ArgumentTypeError(f"one line of 1 to {_LONGEST_REASON} printable characters")
    return text


def _seconds(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) <= _LONGEST:
        raise argparse.ArgumentTypeError(f"whole seconds, 1 to {_LONGEST}")
    return int(text)
