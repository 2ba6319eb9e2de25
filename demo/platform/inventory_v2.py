"""The second version of the inventory's API, on a port of its own: the rows of the first, answered in an envelope.

GET /api/v1/inventory/items        {"items": [...], "total": 24, "limit": 20, "offset": 0, "next": ...}
GET /api/v2/inventory/items        {"data": [...], "page": {"total": 24, "limit": 20, "offset": 0, "next": ...}}
"""

from __future__ import annotations

from demo.platform.collection import Collection
from demo.platform.messages import Request, Response, reply
from demo.platform.service import Service


def inventory_v2(items: Collection) -> Service:
    """The service, without the helpers."""
    service = Service("inventory", base="/api/v2")

    def enveloped(request: Request) -> Response:
        page = items.page(request)
        return reply({"data": page.pop("items"), "page": page})

    def one(request: Request) -> Response:
        return reply({"data": items.find(request)})

    service.add("GET", "/items", enveloped, "List items", rows="items")
    service.add("GET", "/items/{id}", one, "Read one of items", rows="items")
    return service
