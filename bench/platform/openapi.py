"""The stub services' own OpenAPI 3.1 documents, made from their routes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from bench.platform.service import Route

_PARAMETER = re.compile(r"\{([a-z_]+)\}")
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
    return {
        "openapi": "3.1.0",
        "info": {"title": f"{service} service", "version": "1.0.0"},
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": _SCHEMAS,
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
                "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
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


_SCHEMAS: dict[str, Any] = {
    "Item": {"type": "object", "properties": {"id": {"type": "string"}}, "additionalProperties": True},
    "Page": {
        "type": "object",
        "required": ["items", "total", "limit", "offset"],
        "properties": {
            "items": {"type": "array", "items": {"$ref": "#/components/schemas/Item"}},
            "total": {"type": "integer"},
            "limit": {"type": "integer"},
            "offset": {"type": "integer"},
            "next": {"type": ["string", "null"]},
        },
    },
    "Problem": {
        "type": "object",
        "required": ["title", "status", "code"],
        "properties": {
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string"},
            "code": {"type": "string"},
        },
    },
}
