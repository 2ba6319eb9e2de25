"""The stub services' own OpenAPI documents, made from their routes and data.

As in a real platform they agree in little: older services speak 3.0, each has its own `Item`, and `Error` is one of two.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from random import Random
from typing import Any

from demo.platform.collection import Seed
from demo.platform.seeds import COLLECTIONS
from demo.platform.service import Route

_PARAMETER = re.compile(r"\{([a-z_]+)\}")
# Not yet on a framework that writes 3.1.
_OLD = frozenset({"auth", "pos", "suppliers", "notification", "external", "sales"})
_SENDS_BODY = {"POST", "PUT", "PATCH"}


def document(service: str, routes: Sequence[Route]) -> dict[str, Any]:
    """A valid document for `service`: one operation per route and method, schemas named as everywhere."""
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        if route.rows is None:
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
    schemas: dict[str, Any] = {"Error": _OLD_ERROR if old else _ERROR}
    for name, needed, seed in _collections(service):
        row = _name(service, name)
        schemas[row] = _item(needed, seed, old)
        schemas[row + "Page"] = _page(row, old)
    return {
        "openapi": "3.0.3" if old else "3.1.0",
        "info": {"title": f"{service} service", "version": "1.4.2" if old else "2.0.0"},
        "tags": [{"name": service, "description": f"What the {service} service offers."}],
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": schemas,
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
            str(route.status): _answer(service, route),
            "default": {
                "description": "A problem document (RFC 9457)",
                "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Error"}}},
            },
        },
    }
    if method in _SENDS_BODY:
        schema = _rows(service, route)
        operation["requestBody"] = {"content": {"application/json": {"schema": schema}}}
    return operation


def _answer(service: str, route: Route) -> dict[str, Any]:
    answer: dict[str, Any] = {"description": route.summary}
    if route.status != 204:
        schema = _rows(service, route, "Page" if route.summary.startswith("List ") else "")
        answer["content"] = {"application/json": {"schema": schema}}
    return answer


def _rows(service: str, route: Route, suffix: str = "") -> dict[str, Any]:
    """The schema of what a route takes or answers with; any object where no collection stands behind it."""
    if any(name == route.rows for name, _, _ in _collections(service)):
        return {"$ref": f"#/components/schemas/{_name(service, str(route.rows))}{suffix}"}
    return {"type": "object"}


def _collections(service: str) -> list[tuple[str, tuple[str, ...], Seed]]:
    return [(name, needed, seed) for owner, _, name, needed, seed in COLLECTIONS if owner == service]


def _name(service: str, collection: str) -> str:
    """A row's schema: `Item` of a service's first collection, as in every other service."""
    first = _collections(service)[0][0] == collection
    return "Item" if first else "".join(word.capitalize() for word in collection.split("-"))


def _operation_id(method: str, pattern: str) -> str:
    words = re.findall(r"[a-z0-9]+", re.sub(r"/api/v\d+", "", pattern).lower())
    return method.lower() + "".join(word.capitalize() for word in words)


def _item(needed: tuple[str, ...], seed: Seed, old: bool) -> dict[str, Any]:
    """What the rows of a collection have in them."""
    values: dict[str, list[Any]] = {}
    for row in seed(Random(1)):
        for name, value in row.items():
            values.setdefault(name, []).append(value)
    values.pop("slug", None)
    properties = {
        "id": {"type": "string"},
        **{key: _described(key, seen, old) for key, seen in values.items()},
    }
    item = {"type": "object", "properties": properties, "additionalProperties": True}
    return {**item, "required": list(needed)} if needed else item


def _described(name: str, seen: list[Any], old: bool) -> dict[str, Any]:
    """A field by the values it had."""
    known = [value for value in seen if value is not None]
    value = known[0] if known else ""
    if isinstance(value, bool):
        return {"type": "boolean"}
    if isinstance(value, (list, tuple)):
        return {"type": "array", "items": {}}
    if isinstance(value, dict):
        return {"type": "object"}
    schema: dict[str, Any] = {"type": "string"}
    if name.endswith("_eur"):
        schema = {"type": "number", **_above_zero(old)}
    elif isinstance(value, (int, float)):
        schema = {"type": "integer" if all(isinstance(each, int) for each in known) else "number"}
    if len(known) < len(seen):
        schema.update({"nullable": True} if old else {"type": [schema["type"], "null"]})
    return {**schema, **({"example": value} if old else {"examples": [value]})}


def _above_zero(old: bool) -> dict[str, Any]:
    return {"minimum": 0, "exclusiveMinimum": True} if old else {"exclusiveMinimum": 0}


def _page(row: str, old: bool) -> dict[str, Any]:
    return {
        "type": "object",
        "required": ["items", "total", "limit", "offset"],
        "properties": {
            "items": {"type": "array", "items": {"$ref": f"#/components/schemas/{row}"}},
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
