"""Sockets: the WebSockets of a worker, counted and capped."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from typing import Any


class Sockets:
    """Plain numbers, read at a scrape, and the wait for the last one at a drain."""

    __slots__ = ("_closed", "_none", "open", "opened", "received", "refused", "sent")

    def __init__(self) -> None:
        self.open = 0
        self.opened = 0
        self.refused = 0
        self.received = 0
        self.sent = 0
        self._closed: defaultdict[str, int] = defaultdict(int)
        self._none = asyncio.Event()

    def closed(self, code: int) -> None:
        """One has ended; codes of applications count together."""
        self.open -= 1
        if not self.open:
            self._none.set()
        known = code < 3000 or code in {4401, 4403}
        self._closed[str(code) if known else "3000-4999"] += 1

    async def gone(self, seconds: float) -> bool:
        """Wait until none is open, at most so long. Returns whether there was any."""
        if not self.open:
            return False
        self._none.clear()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._none.wait(), seconds)
        return True

    def families(self) -> dict[str, Any]:
        """For the metrics."""
        return {
            "gateway_websocket_connections": self.open,
            "gateway_websocket_opened_total": self.opened,
            "gateway_websocket_refused_total": self.refused,
            "gateway_websocket_closed_total": dict(self._closed),
            "gateway_websocket_messages_total": {"received": self.received, "sent": self.sent},
        }
