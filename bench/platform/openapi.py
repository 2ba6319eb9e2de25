"""The stub services' own OpenAPI documents, made from their routes and data.

As in a real platform they agree in little: older services speak 3.0, each has its own `Item`, and `Error` is one of two.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import islice
from random import Random
from typing import Any

from bench.platform.seeds import COLLECTIONS
from bench.platform.service import Route

_PARAMETER = re.compile(r"\{([a-z_]+)\}")
# Not yet on a framework that writes 3.1.
_OLD = frozenset({"auth", "pos", "suppliers", "notification", "external", "sales"})
_SENDS_BODY = {"POST", "PUT", "PATCH"}


def document(service: str, routes: Sequence[Route]) -> dict[str, Any]:
    """A valid document for `service`: one operation per route and method, schemas named as everywhere."""
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        if route.pattern.endswith("**"):
            continue
        item = paths.setdefault(route.pattern, {})
        names = _PARAMETER.findall(route.pattern)
        if names:
            item["parameters"] = [
                {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names
            ]
        for method in route.methods or ("GET", "POST"):
            item.setdefault(method.lower(), _operation(service, route, method))
    old = service in _OLD
    return {
        "openapi": "3.0.3" if old else "3.1.0",
        "info": {"title": f"{service} service", "version": "1.4.2" if old else "2.0.0"},
        "tags": [{"name": service, "description": f"What the {service} service offers."}],
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": {
                "Item": _item(service, old),
                "Page": _page(old),
                "Error": _OLD_ERROR if old else _ERROR,
            },
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"bearer": []}],
    }


def _operation(service: str, route: Route, method: str) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "summary": route.summary,
        "operationId": _operation_id(method, route.pattern),
        "tags": [service],
        "responses": {
            str(route.status): _answer(route),
            "default": {
                "description": "A problem document (RFC 9457)",
                "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Error"}}},
            },
        },
    }
    if method in _SENDS_BODY:
        schema = {"$ref": "#/components/schemas/Item"}
        operation["requestBody"] = {"content": {"application/json": {"schema": schema}}}
    return operation


def _answer(route: Route) -> dict[str, Any]:
    answer: dict[str, Any] = {"description": route.summary}
    if route.status != 204:
        name = "Page" if route.summary.startswith("List ") else "Item"
        schema = {"$ref": f"#/components/schemas/{name}"}
        answer["content"] = {"application/json": {"schema": schema}}
    return answer


def _operation_id(method: str, pattern: str) -> str:
    words = re.findall(r"[a-z0-9]+", pattern.removeprefix("/api/v1").lower())
    return method.lower() + "".join(word.capitalize() for word in words)


def _item(service: str, old: bool) -> dict[str, Any]:
    """What a row of the service's first collection has in it."""
    properties: dict[str, Any] = {"id": {"type": "string"}}
    required: list[str] = []
    for name, _, _, needed, seed in COLLECTIONS:
        if name == service:
            required = required or list(needed)
            for row in islice(seed(Random(1)), 1):
                properties.update({key: _described(key, value, old) for key, value in row.items()})
    item = {"type": "object", "properties": properties, "additionalProperties": True}
    return {**item, "required": required} if required else item


def _described(name: str, value: Any, old: bool) -> dict[str, Any]:
    if isinstance(value, bool):
        return {"type": "boolean"}
    if isinstance(value, (int, float)):
        schema: dict[str, Any] = {"type": "integer" if isinstance(value, int) else "number"}
        if name.endswith("_eur"):
            schema = {"type": "number", **_above_zero(old)}
    elif isinstance(value, list):
        return {"type": "array", "items": {}}
    elif isinstance(value, dict):
        return {"type": "object"}
    elif old:
        schema = {"type": "string", "nullable": value is None}
    else:
        schema = {"type": ["string", "null"] if value is None else "string"}
    return {**schema, "example": value} if old else {**schema, "examples": [value]}


def _above_zero(old: bool) -> dict[str, Any]:
    return {"minimum": 0, "exclusiveMinimum": True} if old else {"exclusiveMinimum": 0}


def _page(old: bool) -> dict[str, Any]:
    return {
        "type": "object",
        "required": ["items", "total", "limit", "offset"],
        "properties": {
            "items": {"type": "array", "items": {"$ref": "#/components/schemas/Item"}},
            "total": {"type": "integer"},
            "limit": {"type": "integer"},
            "offset": {"type": "integer"},
            "next": {"type": "string", "nullable": True} if old else {"type": ["string", "null"]},
        },
    }


_OLD_ERROR: dict[str, Any] = {
    "type": "object",
    "required": ["detail"],
    "properties": {"detail": {"type": "string", "nullable": True}, "code": {"type": "string"}},
}
_ERROR: dict[str, Any] = {
    "type": "object",
    "required": ["title", "status", "code"],
    "properties": {
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "code": {"type": "string"},
    },
}
