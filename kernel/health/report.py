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
from msgspec.structs import replace

from kernel.health.prober import HEALTHY, UNHEALTHY, UNKNOWN, HealthProber, ServiceHealth
from kernel.telemetry.lines import stamp

Document = tuple[int, bytes]
_LEFT_ALONE = "failed repeatedly"


def _nothing() -> Mapping[str, Any]:
    return {}


class Health:
    """Answers from memory: nothing here waits.

    Args:
        prober: what the services' last probes found.
        version: the gateway's.
        redis_connected: whether the store is reachable now.
        not_ready: why no requests should come ("draining", "keys"), "" when they should.
        breakers: state of the circuit breaker by service.
        ejected: number of replicas that get no requests by service.
    """

    def __init__(
        self,
        prober: HealthProber,
        *,
        version: str,
        redis_connected: Callable[[], bool],
        not_ready: Callable[[], str],
        breakers: Callable[[], Mapping[str, str]] = _nothing,
        ejected: Callable[[], Mapping[str, int]] = _nothing,
    ) -> None:
        self._prober = prober
        self._version = version
        self._redis_connected = redis_connected
        self._not_ready = not_ready
        self._breakers = breakers
        self._ejected = ejected

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
        found = self._found(self._breakers())
        return self._document({name: result.status for name, result in found.items()}, found)

    def services(self, *, operator: bool) -> Document:
        """`/api/v1/health`: each service with its latency, last error, breaker and ejected replicas.

        SECURITY: only an `operator` is told what may name hosts: why TLS to a service fails.
        """
        breakers = self._breakers()
        ejected = self._ejected()
        found = self._found(breakers)
        details: dict[str, Any] = {}
        for name, result in found.items():
            details[name] = {
                "status": result.status,
                "latency_ms": result.latency_ms,
                "last_error": result.error or None,
                "checked_at": stamp(result.checked) if result.checked else None,
                "breaker": breakers.get(name, "closed"),
                "ejected": ejected.get(name, 0),
            }
            if operator and result.reason:
                details[name]["reason"] = result.reason
        return self._document(details, found)

    def _found(self, breakers: Mapping[str, str]) -> dict[str, ServiceHealth]:
        """What is known of each service: its last probe, unless its requests have shown since that it is down."""
        return {
            name: replace(result, status=UNHEALTHY, error=result.error or _LEFT_ALONE)
            if breakers.get(name) == "open"
            else result
            for name, result in self._prober.results.items()
        }

    def _document(self, services: Mapping[str, Any], found: Mapping[str, ServiceHealth]) -> Document:
        connected = self._redis_connected()
        status = self._status(connected, {result.status for result in found.values()} - {UNKNOWN})
        document = {
            "status": status,
            "version": self._version,
            "services": services,
            "redis": "connected" if connected else "disconnected",
            "timestamp": datetime.fromtimestamp(int(time()), UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        return 503 if self._not_ready() else 200, orjson.dumps(document)

    def _status(self, connected: bool, found: set[str]) -> str:
        """`found`: the services' states; one not asked yet says nothing about the gateway."""
        if self._not_ready():
            return UNHEALTHY
        if found == {UNHEALTHY}:
            return UNHEALTHY
        return HEALTHY if connected and UNHEALTHY not in found else "degraded"
