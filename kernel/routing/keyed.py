"""What an Idempotency-Key is to a route: `RouteRow.idempotency`."""

from __future__ import annotations

from kernel.routing.catalog import RouteRow
from kernel.routing.rpc import GRPC

# None: it is not heeded, but handed on. While a configuration is read, None is for IDEMPOTENCY to decide, and OFF says no.
OFF = "off"
OPTIONAL = "optional"
REQUIRED = "required"
# Those of which RFC 9110 does not promise that twice is as good as once.
KEYED_METHODS = frozenset({"POST", "PATCH"})


def keyable(row: RouteRow) -> bool:
    """Whether a key can be heeded: a service does something for somebody who is known."""
    proxied = row.handler in {"proxy", GRPC} and row.service is not None and not row.websocket
    return proxied and row.identified and not KEYED_METHODS.isdisjoint(row.answered)
