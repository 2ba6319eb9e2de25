"""The inventory's next release, on a port of its own, with the rows of the present one: what a canary and a mirror show.

GET /api/v1/inventory/summary      404 there; here {"items": 24, "movements": 40}
GET /api/v1/inventory/echo         "service": "inventory-next"
"""

from __future__ import annotations

from collections.abc import Mapping

from demo.platform.collection import Collection
from demo.platform.messages import Request, Response, reply
from demo.platform.service import Service, tenant_of


def inventory_next(collections: Mapping[str, Collection]) -> Service:
    """The service, without the helpers. `collections` by the suffix at which they are served."""
    service = Service("inventory-next", "inventory")
    for suffix, collection in collections.items():
        collection.serve(service, suffix)

    def summary(request: Request) -> Response:
        tenant = tenant_of(request)
        return reply({each.name: len(each.rows(tenant)) for each in collections.values()})

    service.add("GET", "/summary", summary, "How many there are of each")
    return service
