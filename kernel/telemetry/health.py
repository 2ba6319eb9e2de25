"""The gateway's own state as documents: the brief's `/health`, and what orchestrators ask.

| endpoint         | 200                                             | 503                                 |
|------------------|-------------------------------------------------|-------------------------------------|
| `/health/live`   | the event loop turns                            | never                               |
| `/health/ready`  | requests are welcome                            | draining, or keys not loaded        |
| `/health`        | the gateway serves, whatever state services are in | as ready: status "unhealthy"     |
| `/api/v1/health` | as `/health`, with details for each service     | as `/health`                        |

A load balancer must not take the gateway out because a service behind it is down: requests to the others are still
served. So that is 200 with status "degraded", or "unhealthy" when no service is left.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from time import time
from typing import Any

import orjson

from kernel.telemetry.lines import stamp
from kernel.telemetry.prober import HEALTHY, UNHEALTHY, UNKNOWN, HealthProber

Document = tuple[int, bytes]


def _nothing() -> Mapping[str, str]:
    return {}


class Health:
    """Answers from memory: nothing here waits.

    Args:
        prober: what the services' last probes found.
        version: the gateway's.
        redis_connected: whether the store is reachable now.
        not_ready: why no requests should come ("draining", "keys"), "" when they should.
        breakers: state of the circuit breaker by service.
    """

    def __init__(
        self,
        prober: HealthProber,
        *,
        version: str,
        redis_connected: Callable[[], bool],
        not_ready: Callable[[], str],
        breakers: Callable[[], Mapping[str, str]] = _nothing,
    ) -> None:
        self._prober = prober
        self._version = version
        self._redis_connected = redis_connected
        self._not_ready = not_ready
        self._breakers = breakers

    def live(self) -> Document:
        """`/health/live`."""
        return 200, b'{"status":"alive"}'

    def ready(self) -> Document:
        """`/health/ready`."""
        reason = self._not_ready()
        if reason:
            return 503, orjson.dumps({"status": "not ready", "reason": reason})
        return 200, b'{"status":"ready"}'

    def overall(self) -> Document:
        """`/health`, member for member as in the brief."""
        return self._document({name: result.status for name, result in self._prober.results.items()})

    def services(self) -> Document:
        """`/api/v1/health`: each service with its latency, last error and breaker."""
        breakers = self._breakers()
        details: dict[str, Any] = {}
        for name, result in self._prober.results.items():
            details[name] = {
                "status": result.status,
                "latency_ms": result.latency_ms,
                "last_error": result.error or None,
                "checked_at": stamp(result.checked) if result.checked else None,
                "breaker": breakers.get(name, "closed"),
            }
        return self._document(details)

    def _document(self, services: Mapping[str, Any]) -> Document:
        connected = self._redis_connected()
        status = self._status(connected)
        document = {
            "status": status,
            "version": self._version,
            "services": services,
            "redis": "connected" if connected else "disconnected",
            "timestamp": datetime.fromtimestamp(int(time()), UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        return 503 if self._not_ready() else 200, orjson.dumps(document)

    def _status(self, connected: bool) -> str:
        if self._not_ready():
            return UNHEALTHY
        # A service not asked yet says nothing about the gateway.
        found = {result.status for result in self._prober.results.values()} - {UNKNOWN}
        if found == {UNHEALTHY}:
            return UNHEALTHY
        return HEALTHY if connected and UNHEALTHY not in found else "degraded"
