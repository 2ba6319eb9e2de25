"""What a command does with the store, from first to last: find it in the configuration, connect, work, let go."""

from __future__ import annotations

import asyncio
import getpass
import os
import sys
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from kernel.cli.settings import obtain

if TYPE_CHECKING:
    from kernel.config import Settings
    from kernel.store.redis import Store

# For a reply; a person waits longer than a request.
SECONDS = 2.0


def with_store(work: Callable[[Store, Settings], Awaitable[int]]) -> int:
    """The exit code of `work`, given the store that REDIS_URL names; 1 when it is not named, or does not answer."""
    loaded = obtain()
    if loaded is None:
        return 1
    settings = loaded.settings
    if settings.redis_url is None:
        sys.stderr.write(
            "gateway: REDIS_URL is not set. Of a gateway with an embedded store it is the socket that its first line"
            " names: REDIS_URL=unix:///tmp/...\n"
        )
        return 1
    return asyncio.run(_connected(settings.redis_url, settings, work))


def record(settings: Settings, command: str, **subject: str) -> None:
    """Put what was done into AUDIT_LOG_FILE, if there is one here: who locks by hand is as much of interest as who does by
    the API."""
    from kernel.telemetry.audit import ADMIN  # noqa: PLC0415
    from kernel.telemetry.auditfile import AuditFile  # noqa: PLC0415
    from kernel.telemetry.lines import JsonLines, stamp  # noqa: PLC0415

    path = settings.audit_log_file
    if path is None:
        return
    event = {"timestamp": stamp(time.time()), "level": "info", "event": "audit", "kind": ADMIN}
    try:
        file = AuditFile(path)
        try:
            file(JsonLines().event({**event, "command": command, "operator": _operator(), **subject}))
        finally:
            file.close()
    except OSError as error:
        sys.stderr.write(f"gateway: done, but not in the audit log: {error}\n")


def _operator() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user without a name
        return str(os.getuid())


async def _connected(url: str, settings: Settings, work: Callable[[Store, Settings], Awaitable[int]]) -> int:
    from kernel.store.errors import StoreError  # noqa: PLC0415
    from kernel.store.redis import Store  # noqa: PLC0415

    store = Store(url, timeout=SECONDS)
    try:
        await store.start()
        return await work(store, settings)
    except StoreError as error:
        sys.stderr.write(f"gateway: the store does not do it: {error or 'no answer'}\n")
        return 1
    finally:
        await store.close()
