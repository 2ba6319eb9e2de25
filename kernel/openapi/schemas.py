"""Schemas: cleaned, references taken out, and brought from OpenAPI 3.0's dialect to JSON Schema 2020-12 (OpenAPI 3.1).

Data (`default`, `example`, `enum`, ...) is left alone: a "$ref" in there is somebody's text.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kernel.openapi.parts import Json, Ref, Unusable, shown

_MAPS = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})
_LISTS = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
_ONES = frozenset(
    {
        "items", "additionalProperties", "not", "if", "then", "else", "contains", "propertyNames", "unevaluatedItems",
        "unevaluatedProperties", "additionalItems", "contentSchema",
    }
)  # fmt: skip
# These make a schema a resource of its own, with references that mean something else in another document.
_RESOURCES = frozenset(
    {"$id", "$anchor", "$dynamicRef", "$dynamicAnchor", "$recursiveRef", "$recursiveAnchor"}
)
_TYPES = frozenset({"string", "number", "integer", "boolean", "array", "object", "null"})
# Deeper ones are somebody's mistake, and more than tools bear.
_DEEPEST = 100
_NUMBER = (int, float)
_COUNT = (int,)
_LEAVES: dict[str, tuple[type, ...]] = {
    "title": (str,),
    "description": (str,),
    "format": (str,),
    "pattern": (str,),
    "$comment": (str,),
    "contentMediaType": (str,),
    "contentEncoding": (str,),
    "enum": (list,),
    "examples": (list,),
    "multipleOf": _NUMBER,
    "maximum": _NUMBER,
    "minimum": _NUMBER,
    "exclusiveMaximum": _NUMBER,
    "exclusiveMinimum": _NUMBER,
    "maxLength": _COUNT,
    "minLength": _COUNT,
    "maxItems": _COUNT,
    "minItems": _COUNT,
    "maxProperties": _COUNT,
    "minProperties": _COUNT,
    "maxContains": _COUNT,
    "minContains": _COUNT,
    "uniqueItems": (bool,),
    "deprecated": (bool,),
    "readOnly": (bool,),
    "writeOnly": (bool,),
    "xml": (dict,),
    "externalDocs": (dict,),
    "dependentRequired": (dict,),
}

Resolve = Callable[[str, Any], Ref]


class Schemas:
    """Cleans the schemas of one document. `resolve(section, text)` makes a `Ref` or raises Unusable; `children` are the
    schemas that extend another one by `allOf`; `legacy`: the document is OpenAPI 3.0."""

    def __init__(self, resolve: Resolve, children: dict[str, list[str]], legacy: bool) -> None:
        self._resolve = resolve
        self._children = children
        self._legacy = legacy
        self._depth = 0

    def clean(self, node: Any, name: str = "") -> Any:
        """A schema as it may stand in the merged document; `name` is its component's. Raises Unusable."""
        self._depth += 1
        try:
            if self._depth > _DEEPEST:
                raise Unusable("a schema is nested too deeply")
            return self._clean(node, name)
        finally:
            self._depth -= 1

    def _clean(self, node: Any, name: str) -> Any:
        if isinstance(node, bool):
            return node
        if not isinstance(node, dict):
            raise Unusable(f"a schema is {shown(node)}")
        for key in _RESOURCES:
            if key in node:
                raise Unusable(f"a schema has {key}")
        found: Json = {}
        if "$ref" in node:
            found["$ref"] = self._resolve("schemas", node["$ref"])
            if self._legacy:  # what stood beside it never counted
                return found
        for key, value in node.items():
            if key in _MAPS:
                if isinstance(value, dict):
                    found[key] = {each: self.clean(schema) for each, schema in value.items()}
            elif key in _LISTS:
                if isinstance(value, list) and value:
                    found[key] = [self.clean(schema) for schema in value]
            elif key in _ONES:
                if key == "items" and isinstance(value, list):
                    if value:
                        found["prefixItems"] = [self.clean(schema) for schema in value]
                else:
                    found[key] = self.clean(value)
            elif key == "discriminator":
                self._discriminator(found, value, node, name)
            elif key not in {"$ref", "$schema", "$vocabulary"}:
                found[key] = value
        if self._legacy:
            found = _modern(found)
        _drop_wrong(found)
        return found

    def _discriminator(self, found: Json, value: Any, node: Json, name: str) -> None:
        """Its values name schemas, which may get other names: all are written down, also those that go without saying."""
        if not isinstance(value, dict) or not isinstance(value.get("propertyName"), str):
            raise Unusable("a discriminator has no propertyName")
        mapping: dict[str, Ref] = {}
        given = value.get("mapping")
        for label, target in (given if isinstance(given, dict) else {}).items():
            text = str(target)
            mapping[label] = self._resolve(
                "schemas",
                text if "/" in text or "#" in text or "." in text else f"#/components/schemas/{text}",
            )
        named = {ref.key[1] for ref in mapping.values()}
        options = [
            self._resolve("schemas", option["$ref"]).key[1]
            for kind in ("oneOf", "anyOf")
            if isinstance(node.get(kind), list)
            for option in node[kind]
            if isinstance(option, dict) and "$ref" in option
        ]
        for option in (*options, *self._children.get(name, ())):
            if option not in named and option not in mapping:
                mapping[option] = self._resolve("schemas", f"#/components/schemas/{option}")
        found["discriminator"] = {"propertyName": value["propertyName"]}
        if mapping:
            found["discriminator"]["mapping"] = mapping


def _modern(schema: Json) -> Json:
    """An OpenAPI 3.0 schema in the words of 3.1."""
    for inclusive, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        if schema.get(exclusive) is True and inclusive in schema:
            schema[exclusive] = schema.pop(inclusive)
        elif isinstance(schema.get(exclusive), bool):
            del schema[exclusive]
    if "example" in schema:
        example = schema.pop("example")
        schema.setdefault("examples", [example])
    if schema.get("type") == "string":
        if schema.get("format") == "byte":
            del schema["format"]
            schema["contentEncoding"] = "base64"
        elif schema.get("format") == "binary":
            del schema["format"]
            schema["contentMediaType"] = "application/octet-stream"
    if schema.pop("nullable", False) is True:
        if isinstance(schema.get("type"), str):
            schema["type"] = [schema["type"], "null"]
        elif any(key in schema for key in ("allOf", "anyOf", "oneOf")):
            return {"anyOf": [schema, {"type": "null"}]}
    return schema


def _drop_wrong(schema: Json) -> None:
    """Take out what no validator of schemas would let pass. Raises Unusable for a `type` that is none."""
    kind = schema.get("type")
    if "type" in schema:
        kinds = kind if isinstance(kind, list) else [kind]
        if not kinds or not all(isinstance(each, str) and each in _TYPES for each in kinds):
            raise Unusable(f"a schema has the type {shown(kind)}")
        if isinstance(kind, list):
            schema["type"] = list(dict.fromkeys(kind))
    for key, types in _LEAVES.items():
        if key in schema:
            value = schema[key]
            fits = isinstance(value, types) and (
                (types is not _NUMBER and types is not _COUNT) or not isinstance(value, bool)
            )
            if not fits or (types is _COUNT and value < 0) or (key == "multipleOf" and value <= 0):
                del schema[key]
    required = schema.get("required")
    if "required" in schema:
        if isinstance(required, list) and all(isinstance(each, str) for each in required):
            schema["required"] = list(dict.fromkeys(required))
        else:
            del schema["required"]
