"""The objects of an OpenAPI document but schemas: which members each may have, and what must hold between them.

Unknown members go, those of another kind too; `x-` extensions stay as they are.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

from kernel.openapi.parts import Json, OperationId, Ref, Unusable, pointer, shown
from kernel.openapi.schemas import Schemas

_ANY = object


class _Many(NamedTuple):
    """Named objects of one kind."""

    kind: str


_SHARED: dict[str, Any] = {
    "description": str,
    "deprecated": bool,
    "style": str,
    "explode": bool,
    "schema": "schema",
    "content": _Many("media_type"),
    "example": _ANY,
    "examples": _Many("example"),
    "required": bool,
}
# Member -> a type (kept when it fits), another kind, or many of it.
_MEMBERS: dict[str, dict[str, Any]] = {
    "parameter": {**_SHARED, "name": str, "in": str, "allowEmptyValue": bool, "allowReserved": bool},
    "header": _SHARED,
    "media_type": {
        "schema": "schema",
        "example": _ANY,
        "examples": _Many("example"),
        "encoding": _Many("encoding"),
    },
    "encoding": {
        "contentType": str,
        "headers": _Many("header"),
        "style": str,
        "explode": bool,
        "allowReserved": bool,
    },
    "response": {
        "description": str,
        "headers": _Many("header"),
        "content": _Many("media_type"),
        "links": _Many("link"),
    },
    "request_body": {"description": str, "content": _Many("media_type"), "required": bool},
    "example": {"summary": str, "description": str, "value": _ANY, "externalValue": str},
    "link": {
        "operationRef": str,
        "operationId": str,
        "parameters": dict,
        "requestBody": _ANY,
        "description": str,
    },
    "operation": {
        "summary": str,
        "description": str,
        "operationId": str,
        "deprecated": bool,
        "requestBody": "request_body",
        "responses": _Many("response"),
        "callbacks": _Many("callback"),
    },
}
# The section in which components of a kind are.
SECTION = {
    "schema": "schemas",
    "parameter": "parameters",
    "header": "headers",
    "example": "examples",
    "link": "links",
    "response": "responses",
    "request_body": "requestBodies",
    "callback": "callbacks",
}
KIND = {section: kind for kind, section in SECTION.items()}
_STYLES = {
    "path": {"matrix", "label", "simple"},
    "query": {"form", "spaceDelimited", "pipeDelimited", "deepObject"},
    "header": {"simple"},
    "cookie": {"form"},
}
_STATUS = re.compile(r"[1-5](?:[0-9]{2}|XX)|default")
_METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")


class Objects:
    """Cleans the objects of one document. `operations` gives the shared id of an operation that is served, by its id or by
    its pointer."""

    def __init__(
        self,
        schemas: Schemas,
        resolve: Callable[[str, Any], Ref],
        operations: Callable[[str], OperationId | None],
    ) -> None:
        self._schemas = schemas
        self._resolve = resolve
        self._operations = operations

    def clean(self, kind: str, node: Any, name: str = "") -> Any:
        """An object of `kind` as it may stand in the merged document. Raises Unusable."""
        if kind == "schema":
            return self._schemas.clean(node, name)
        if not isinstance(node, dict):
            raise Unusable(f"a {kind.replace('_', ' ')} is {shown(node)}")
        if "$ref" in node and kind in SECTION:
            return {"$ref": self._resolve(SECTION[kind], node["$ref"])}
        if kind == "callback":
            return {key: self._called_back(item) for key, item in node.items() if not key.startswith("x-")}
        members = _MEMBERS[kind]
        found: Json = {}
        for key, value in node.items():
            rule = members.get(key)
            if rule is None:
                if key.startswith("x-"):
                    found[key] = value
            elif isinstance(rule, str):
                found[key] = self.clean(rule, value)
            elif isinstance(rule, _Many):
                found[key] = self._many(rule.kind, value)
            elif isinstance(value, rule):
                found[key] = value
        finish = getattr(self, f"_finish_{kind}", None)
        if finish is not None:
            finish(found)
        return found

    def _many(self, kind: str, value: Any) -> Json:
        if not isinstance(value, dict):
            raise Unusable(f"where {kind.replace('_', ' ')}s by name belong, there is {shown(value)}")
        found: Json = {}
        for name, each in value.items():
            if kind == "link" and not self._leads_somewhere(each):
                continue
            if not name.startswith("x-") or kind == "header":
                found[name] = self.clean(kind, each)
        return found

    def _finish_parameter(self, found: Json) -> None:
        place = found.get("in")
        if not isinstance(found.get("name"), str) or place not in _STYLES:
            raise Unusable("a parameter has no name or no place")
        if place == "path":
            found["required"] = True
        if place != "query":
            found.pop("allowEmptyValue", None)
            found.pop("allowReserved", None)
        self._finish_value(found, _STYLES[place])

    def _finish_header(self, found: Json) -> None:
        self._finish_value(found, {"simple"})

    def _finish_value(self, found: Json, styles: set[str]) -> None:
        """Either a schema or one media type (3.1, section 4.8.12)."""
        if found.get("style") not in styles:
            found.pop("style", None)
        if "content" in found and ("schema" in found or len(found["content"]) != 1):
            del found["content"]
        if "content" in found:
            for key in ("style", "explode", "allowReserved", "example", "examples"):
                found.pop(key, None)
        else:
            found.setdefault("schema", {})
        _one_example(found)

    def _finish_media_type(self, found: Json) -> None:
        _one_example(found)

    def _finish_encoding(self, found: Json) -> None:
        if found.get("style") not in _STYLES["query"]:
            found.pop("style", None)

    def _finish_example(self, found: Json) -> None:
        if "value" in found:
            found.pop("externalValue", None)

    def _finish_response(self, found: Json) -> None:
        found.setdefault("description", "")

    def _finish_request_body(self, found: Json) -> None:
        found.setdefault("content", {})

    def _finish_operation(self, found: Json) -> None:
        responses = {
            status: each for status, each in found.get("responses", {}).items() if _STATUS.fullmatch(status)
        }
        found["responses"] = responses or {"default": {"description": ""}}

    def _leads_somewhere(self, node: Any) -> bool:
        """Whether a link's operation is served here."""
        if not isinstance(node, dict) or "$ref" in node:
            return True
        target = node.get("operationId") or node.get("operationRef")
        return isinstance(target, str) and self._operations(target) is not None

    def _finish_link(self, found: Json) -> None:
        target = found.pop("operationId", None) or found.pop("operationRef", "")
        found.pop("operationRef", None)
        operation = self._operations(target)
        if operation is None:
            raise Unusable(f"a link leads to {shown(target)}, which is not served")
        found["operationId"] = operation

    def _called_back(self, item: Any) -> Json:
        """What the client is to serve; its operations need no id."""
        if not isinstance(item, dict) or "$ref" in item:
            raise Unusable("a callback refers to a path")
        found: Json = {key: item[key] for key in ("summary", "description") if isinstance(item.get(key), str)}
        if "parameters" in item:
            found["parameters"] = self.parameters(item["parameters"])
        for method in _METHODS:
            if method in item:
                found[method] = operation = self.clean("operation", item[method])
                operation.pop("operationId", None)
                if "parameters" in item[method]:
                    operation["parameters"] = self.parameters(item[method]["parameters"])
        return found

    def parameters(self, listed: Any) -> list[Json]:
        """A list of parameters."""
        if not isinstance(listed, list):
            raise Unusable("parameters are no list")
        return [self.clean("parameter", each) for each in listed]


def _one_example(found: Json) -> None:
    if "examples" in found:
        found.pop("example", None)


def operation_pointer(text: str) -> tuple[str, str] | None:
    """(path, method) of a link's `operationRef` into its own document."""
    parts = pointer(text) if text.startswith("#/") else []
    return (parts[1], parts[2]) if len(parts) == 3 and parts[0] == "paths" else None
