"""A bakery of services with documents of their own, for GraphQL: inventory (3.1), sales (3.0), forecasting."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl

import msgspec

import kernel.graphql.endpoint  # noqa: F401  # as a worker does before its loop runs
from kernel.exchange.asgi import Message
from tests.support.inprocess import Local, Reply
from tests.support.scripted_upstream import Peer, Scripted, scripted
from tests.support.tokens import access_token

Json = dict[str, Any]


def answer(schema: Json | None, description: str = "It is") -> Json:
    content = {"content": {"application/json": {"schema": schema}}} if schema is not None else {}
    return {"description": description, **content}


def ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


_ID = {"name": "item_id", "in": "path", "required": True, "schema": {"type": "string"}}
INVENTORY: Json = {
    "openapi": "3.1.0",
    "info": {"title": "Inventory", "version": "2.1"},
    "paths": {
        "/api/v1/inventory/items": {
            "get": {
                "operationId": "list_items_api_v1_inventory_items_get",
                "summary": "What is in stock",
                "parameters": [
                    {"name": "limit", "in": "query", "schema": {"type": "integer", "default": 20}},
                    {"name": "low_stock", "in": "query", "schema": {"type": "boolean"}},
                    {
                        "name": "categories",
                        "in": "query",
                        "schema": {"type": "array", "items": ref("Category")},
                    },
                ],
                "responses": {"200": answer({"type": "array", "items": ref("Item")})},
            },
            "post": {
                "operationId": "createItem",
                "requestBody": {
                    "required": True,
                    "content": {"application/json": {"schema": ref("ItemCreate")}},
                },
                "responses": {"201": answer(ref("Item"))},
            },
        },
        "/api/v1/inventory/items/{item_id}": {
            "get": {"operationId": "getItem", "parameters": [_ID], "responses": {"200": answer(ref("Item"))}},
            "delete": {
                "operationId": "deleteItem",
                "parameters": [_ID],
                "responses": {"204": answer(None)},
            },
        },
        "/api/v1/inventory/label": {
            "get": {"responses": {"200": {"description": "", "content": {"application/pdf": {}}}}}
        },
    },
    "components": {
        "schemas": {
            "Category": {"type": "string", "enum": ["flour", "dairy products", "yeast"]},
            "Item": {
                "type": "object",
                "description": "Something that is baked with.",
                "required": ["id", "name", "category"],
                "properties": {
                    "id": {"type": "string"},
                    "name": {"type": "string"},
                    "category": ref("Category"),
                    "unit_cost": {"type": ["number", "null"], "description": "In euros."},
                    "expires_on": {"type": "string", "format": "date"},
                    "updated_at": {"type": "string", "format": "date-time"},
                    "supplier": {"anyOf": [ref("Supplier"), {"type": "null"}]},
                    "tags": {"type": "array", "items": {"type": "string"}},
                    "attributes": {"type": "object", "additionalProperties": {"type": "string"}},
                    "old_code": {"type": "integer", "deprecated": True},
                },
            },
            "Supplier": {
                "type": "object",
                "required": ["name"],
                "properties": {"name": {"type": "string"}, "items": {"type": "array", "items": ref("Item")}},
            },
            "ItemCreate": {
                "type": "object",
                "required": ["name", "category"],
                "properties": {
                    "name": {"type": "string"},
                    "category": ref("Category"),
                    "unit_cost": {"type": "number"},
                },
            },
        }
    },
}
SALES: Json = {
    "openapi": "3.0.3",
    "info": {"title": "Sales", "version": "1"},
    "paths": {
        "/api/v1/sales/orders": {
            "get": {
                "operationId": "getSalesOrders",
                "parameters": [
                    {"name": "day", "in": "query", "schema": {"type": "string", "format": "date"}}
                ],
                "responses": {"200": answer({"type": "array", "items": ref("Order")})},
            }
        },
        "/api/v1/tenants/{tenant_id}/sales/orders": {
            "get": {
                "operationId": "getTenantsTenantIdSalesOrders",
                "parameters": [
                    {"name": "tenant_id", "in": "path", "required": True, "schema": {"type": "string"}},
                    {"name": "day", "in": "query", "schema": {"type": "string", "format": "date"}},
                ],
                "responses": {"200": answer({"type": "array", "items": ref("Order")})},
            }
        },
    },
    "components": {
        "schemas": {
            "Item": {
                "type": "object",
                "required": ["product", "pieces"],
                "properties": {
                    "product": {"type": "string"},
                    "pieces": {"type": "integer"},
                    "note": {"type": "string", "nullable": True},
                },
            },
            "Base": {
                "type": "object",
                "required": ["id"],
                "properties": {
                    "id": {"type": "string", "format": "uuid"},
                    "total_cents": {"type": "integer", "format": "int64"},
                },
            },
            "Order": {
                "allOf": [
                    ref("Base"),
                    {
                        "type": "object",
                        "required": ["lines"],
                        "properties": {
                            "lines": {"type": "array", "items": ref("Item")},
                            "state": {"type": "string", "enum": ["open", "paid"]},
                            "payload": {"oneOf": [{"type": "string"}, {"type": "integer"}]},
                        },
                    },
                ]
            },
        }
    },
}
FORECASTING: Json = {
    "openapi": "3.1.0",
    "info": {"title": "Forecasting", "version": "1"},
    "paths": {
        "/api/v1/forecasting/forecasts": {
            "get": {
                "operationId": "listForecasts",
                "responses": {
                    "200": answer(
                        {
                            "type": "array",
                            "items": {"type": "object", "properties": {"pieces": {"type": "integer"}}},
                        }
                    )
                },
            }
        }
    },
}
DOCUMENTS = {"inventory": INVENTORY, "sales": SALES, "forecasting": FORECASTING}
FLOUR: Json = {
    "id": "flour",
    "name": "Flour W300",
    "category": "flour",
    "unit_cost": 0.92,
    "expires_on": "2027-01-31",
    "updated_at": "2026-12-01T05:30:00Z",
    "supplier": {"name": "Mill", "items": []},
    "tags": ["gluten"],
    "attributes": {"protein": "13"},
    "old_code": 7,
    "secret_margin": 0.4,
}
BUTTER: Json = {"id": "butter", "name": "Butter", "category": "dairy products", "supplier": None}
ORDER: Json = {
    "id": "6f1c9f0e-0000-4000-8000-00000000000a",
    "total_cents": 5_000_000_000,
    "lines": [{"product": "baguette", "pieces": 12, "note": None}],
    "state": "open",
    "payload": 3,
}
DATA: dict[str, Any] = {
    "GET /api/v1/inventory/items": [FLOUR, BUTTER],
    "GET /api/v1/inventory/items/flour": FLOUR,
    "POST /api/v1/inventory/items": {**BUTTER, "id": "new"},
    "DELETE /api/v1/inventory/items/flour": None,
    "GET /api/v1/sales/orders": [ORDER],
    "GET /api/v1/forecasting/forecasts": [{"pieces": 240}],
}

# (status, document) in place of what DATA has, or something to wait for before it.
Change = Callable[["Asked"], Awaitable[tuple[int, Any] | None]]


class Asked:
    """One request that a service got. Header names in lower case."""

    def __init__(self, raw: bytes) -> None:
        head, _, self.body = raw.partition(b"\r\n\r\n")
        line, *lines = head.decode("latin-1").split("\r\n")
        self.method, target, _ = line.split(" ")
        self.path, _, query = target.partition("?")
        self.query = parse_qsl(query)
        self.headers = {name.lower(): value for name, _, value in (each.partition(": ") for each in lines)}

    @property
    def name(self) -> str:
        return f"{self.method} {self.path}"


class Services:
    """They answer with `data`, by "METHOD path"; `changes` come before it; `asked` are all but those for documents."""

    def __init__(self) -> None:
        self.documents: dict[str, Any] = dict(DOCUMENTS)
        self.data: dict[str, Any] = dict(DATA)
        self.changes: dict[str, Change] = {}
        self.asked: list[Asked] = []
        self.env: dict[str, str] = {}
        self.servers: dict[str, Scripted] = {}

    def count(self) -> Counter[str]:
        return Counter(each.name for each in self.asked)

    def script(self, service: str) -> Callable[[Peer], Awaitable[None]]:
        async def serve(peer: Peer) -> None:
            while True:
                asked = Asked(await peer.request())
                status, document = await self._answer(service, asked)
                body = (
                    b""
                    if document is None
                    else document
                    if isinstance(document, bytes)
                    else msgspec.json.encode(document)
                )
                kind = b"content-type: application/%s\r\n" % (b"json" if status < 400 else b"problem+json")
                head = b"HTTP/1.1 %d %b\r\n%b" % (status, HTTPStatus(status).phrase.encode(), kind)
                await peer.send(head + b"content-length: %d\r\n\r\n" % len(body) + body)

        return serve

    async def _answer(self, service: str, asked: Asked) -> tuple[int, Any]:
        if asked.path == "/openapi.json":
            document = self.documents.get(service)
            return (200, document) if document is not None else (404, {"detail": "none"})
        if asked.path == "/health":
            return 200, {"status": "healthy"}
        self.asked.append(asked)
        if asked.name in self.changes:
            changed = await self.changes[asked.name](asked)
            if changed is not None:
                return changed
        if asked.name not in self.data:
            return 404, {"title": "Not found", "code": "item-unknown", "detail": f"Nothing at {asked.path}."}
        found = self.data[asked.name]
        return (204 if found is None else 201 if asked.method == "POST" else 200), found


@asynccontextmanager
async def running_services(*names: str) -> AsyncIterator[Services]:
    """Those of DOCUMENTS, and `names`, each on a port of its own."""
    services = Services()
    async with AsyncExitStack() as stack:
        for name in (*DOCUMENTS, *names):
            server = await stack.enter_async_context(scripted(services.script(name)))
            services.servers[name] = server
            services.env[name.upper().replace("-", "_") + "_SERVICE_URL"] = server.url
        yield services


async def ask(
    gateway: Local,
    query: str,
    token: bytes | None = None,
    *,
    variables: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
    **more: Any,
) -> Reply:
    """POST an operation; the answer may be `application/graphql-response+json`."""
    body = msgspec.json.encode(
        {"query": query, **({"variables": variables} if variables is not None else {}), **more}
    )
    sent = {
        "content-type": "application/json",
        "accept": "application/graphql-response+json",
        **(headers or {}),
    }
    return await gateway.ask("POST", "/api/v1/graphql", token or access_token(), body, headers=sent)


async def lock(gateway: Local, tenant: str) -> None:
    """Make `tenant` read-only, and wait until this worker knows."""
    await gateway.state.store.execute("SET", f"tenant:{tenant}:read_only", "audit")
    token = access_token(tenant_id=tenant)
    async with asyncio.timeout(20):
        while (await gateway.ask("POST", "/api/v1/pos/sales", token)).code != "tenant-read-only":
            await asyncio.sleep(0.01)


async def settled() -> None:
    """Let what was started run."""
    for _ in range(5):
        await asyncio.sleep(0)


class Open:
    """A request whose client stays: `leave()` ends that. What came so far is in `status`, `headers` and `body`."""

    def __init__(self, gateway: Local, query: str, token: bytes, **headers: str) -> None:
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.body = b""
        self.complete = False
        self._body: list[bytes] = [msgspec.json.encode({"query": query})]
        self._left = asyncio.Event()
        self.came = asyncio.Event()
        sent = {
            "host": "gateway.test",
            "authorization": f"Bearer {token.decode()}",
            "content-type": "application/json",
            "content-length": str(len(self._body[0])),
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }
        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "raw_path": b"/api/v1/graphql",
            "query_string": b"",
            "headers": [(name.encode(), value.encode()) for name, value in sent.items()],
            "client": ("192.0.2.1", "4712"),
        }
        self.task = asyncio.create_task(gateway.gateway(scope, self._receive, self._send))

    def leave(self) -> None:
        self._left.set()

    async def until(self, text: bytes, seconds: float = 20.0) -> None:
        """Wait until `text` has come."""
        async with asyncio.timeout(seconds):
            while text not in self.body:
                self.came.clear()
                assert not self.task.done(), self.body
                await self.came.wait()

    def results(self) -> list[Any]:
        """The data of the `next` events."""
        frames = [frame.split(b"\n") for frame in self.body.split(b"\n\n")]
        return [
            msgspec.json.decode(lines[1].removeprefix(b"data: "))
            for lines in frames
            if lines[0] == b"event: next"
        ]

    async def _receive(self) -> Message:
        if self._body:
            return {"type": "http.request", "body": self._body.pop(), "more_body": False}
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = dict(message["headers"])
        else:
            self.body += message["body"]
            self.complete = not message["more_body"]
        self.came.set()
