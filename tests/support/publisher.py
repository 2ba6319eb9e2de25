"""A service that publishes alerts."""

from __future__ import annotations

import json

import redis

from tests.support.tokens import TENANT


class Publisher:
    """A service that publishes numbered alerts."""

    def __init__(self, url: str) -> None:
        self.client = redis.Redis.from_url(url)
        self.count = 0

    def alert(self, tenant: str = TENANT, **changes: object) -> str:
        self.count += 1
        name = f"alert-{self.count}"
        document = {
            "alert_id": name,
            "severity": "high",
            "message": "Stock bajo: Mantequilla 82 % m.g.",
            "timestamp": "2026-01-05T06:00:00Z",
            **changes,
        }
        self.client.publish(f"alerts:tenant:{tenant}", json.dumps(document))
        return name

    def raw(self, data: bytes, tenant: str = TENANT) -> None:
        self.client.publish(f"alerts:tenant:{tenant}", data)
