"""`gateway unlock`: writes again."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from kernel.cli.lock import named, subject
from kernel.cli.with_store import record, with_store

if TYPE_CHECKING:
    from kernel.config import Settings
    from kernel.store.redis import Store


def add(parser: argparse.ArgumentParser) -> None:
    parser.description = """\
Allow writes again in a tenant, or on the whole platform, whoever locked it. A lock of the platform holds in every tenant,
whatever the tenants' own locks are, and the other way round."""
    parser.epilog = """\
examples:
  gateway unlock 6f1c9f0e-0000-4000-8000-000000000001
  gateway unlock --platform
"""
    subject(parser)


def run(args: argparse.Namespace) -> int:
    key, name = named(args)

    async def work(store: Store, settings: Settings) -> int:
        gone = await store.execute("DEL", key)
        record(settings, "unlock", subject=name)
        sys.stdout.write(f"gateway: {name} {'may be written again' if gone else 'was not locked'}\n")
        return 0

    return with_store(work)
