"""Eviction: a store that throws keys away when it is full forgets limits, locks and revocations, and nobody sees it.

What asks is INFO: a managed store often refuses CONFIG.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from kernel.store.errors import StoreDown
from kernel.store.redis import Store

_HARMLESS = "noeviction"


def eviction_policy(memory: bytes) -> str:
    """The maxmemory-policy of a store that may throw keys away, out of its INFO memory; "" of one that cannot."""
    fields = dict(line.partition(":")[::2] for line in memory.decode("utf-8", "replace").split("\r\n"))
    policy = fields.get("maxmemory_policy", _HARMLESS)
    return "" if policy == _HARMLESS or fields.get("maxmemory") == "0" else policy


class EvictionWatch:
    """Calls `warn` with the policy when a store that was connected to may evict, once for each policy."""

    def __init__(self, store: Store, warn: Callable[[str], None]) -> None:
        self._store = store
        self._warn = warn
        self._warned = ""
        store.on_connect(self._ask)
        if store.connected:
            self._ask(False)

    def _ask(self, _after_outage: bool) -> None:
        try:
            reply = self._store.execute("INFO", "memory")
        except StoreDown:
            return
        reply.add_done_callback(self._told)

    def _told(self, reply: asyncio.Future[Any]) -> None:
        if reply.cancelled() or reply.exception() is not None:
            return
        policy = eviction_policy(reply.result())
        if policy and policy != self._warned:
            self._warn(policy)
        self._warned = policy
