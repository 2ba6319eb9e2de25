"""Sockets: the WebSockets of a worker, counted and capped."""

from __future__ import annotations

from collections import defaultdict
from typing import Any


class Sockets:
    """Plain numbers, read at a scrape."""

    __slots__ = ("_closed", "open", "opened", "received", "refused", "sent")

    def __init__(self) -> None:
        self.open = 0
        self.opened = 0
        self.refused = 0
        self.received = 0
        self.sent = 0
        self._closed: defaultdict[str, int] = defaultdict(int)

    def closed(self, code: int) -> None:
        """One has ended; codes of applications count together."""
        self.open -= 1
        known = code < 3000 or code in {4401, 4403}
        self._closed[str(code) if known else "3000-4999"] += 1

    def families(self) -> dict[str, Any]:
        """For the metrics."""
        return {
            "gateway_websocket_connections": self.open,
            "gateway_websocket_opened_total": self.opened,
            "gateway_websocket_refused_total": self.refused,
            "gateway_websocket_closed_total": dict(self._closed),
            "gateway_websocket_messages_total": {"received": self.received, "sent": self.sent},
        }
