"""GraphQL operations, counted. SECURITY: names are the clients' own: a hundred make series, the rest is `other`."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

_MOST_NAMES = 100
_MOST_CODES = 100
OTHER = "other"


class Operations:
    """One a worker. `service` is who executes them: the gateway, or a service that speaks GraphQL itself."""

    def __init__(self) -> None:
        self.operations: defaultdict[tuple[str, str, str], int] = defaultdict(int)
        self.errors: defaultdict[tuple[str, str], int] = defaultdict(int)
        self.requests = self.spared = 0
        self._names: set[tuple[str, str]] = set()

    def operation(self, service: str, kind: str, name: str) -> None:
        """One of `kind` (query, mutation, subscription) that was admitted; "" has no name."""
        name = name or "unnamed"
        if (service, name) not in self._names:
            if len(self._names) >= _MOST_NAMES:
                name = OTHER
            else:
                self._names.add((service, name))
        self.operations[service, kind, name] += 1

    def error(self, service: str, code: str) -> None:
        """One error with a problem's code, or a service's."""
        if (service, code) not in self.errors and len(self.errors) >= _MOST_CODES:
            code = OTHER
        self.errors[service, code] += 1

    def families(self) -> dict[str, Any]:
        """For the metrics."""
        return {
            "gateway_graphql_operations_total": dict(self.operations),
            "gateway_graphql_errors_total": dict(self.errors),
            "gateway_graphql_requests_total": self.requests,
            "gateway_graphql_spared_total": self.spared,
        }
