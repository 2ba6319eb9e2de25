"""Schemas of one document -> types. The document has been cleaned (kernel/openapi): it speaks JSON Schema 2020-12, and every
reference leads somewhere.

An object with properties becomes an object, or an input; a text of few values an enum; `allOf` is merged; what may be null,
or is not required, is nullable. What GraphQL cannot say (alternatives, maps, anything) is the scalar JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kernel.graphql.model import ENUM, INPUT, OBJECT, Field, Type
from kernel.graphql.naming import ServiceNames, Unique, enum_value, field_name, is_identifier
from kernel.openapi.parts import Json, Key, Part, Ref

JSON = "JSON"
_FORMATS = {"date-time": "DateTime", "date": "Date", "time": "Time", "uuid": "ID", "uuid4": "ID"}
_LEAVES = {"integer": "Int", "number": "Float", "boolean": "Boolean"}
_INT = 2**31 - 1
_MOST_VALUES = 200
_MOST_TEXT = 2000
# Alternatives that are schemas of their own, whatever stands beside them.
_ALTERNATIVES = ("oneOf", "anyOf")
_MERGED = ("properties", "required", "allOf")


class Types:
    """`made` grows with every type that something refers to. `unique` gives names that no other service's types have."""

    def __init__(self, components: Mapping[Key, Part], names: ServiceNames, unique: Unique) -> None:
        self._components = components
        self._names = names
        self._unique = unique
        self.made: list[Type] = []
        # What a component is as an output, or as an input.
        self._known: dict[tuple[str, bool], tuple[str, bool]] = {}
        self._under_way: set[tuple[str, bool]] = set()

    def output(self, schema: Any, hint: str) -> tuple[str, bool]:
        """The type of `schema`, and whether it may be null. `hint` names what has no name."""
        return self._of(schema, hint, False)

    def input(self, schema: Any, hint: str) -> tuple[str, bool]:
        """The same of what a client sends."""
        return self._of(schema, hint, True)

    def _of(self, schema: Any, hint: str, sent: bool) -> tuple[str, bool]:
        if not isinstance(schema, dict):
            return JSON, True
        schema, nullable = _without_null(schema)
        ref = _reference(schema)
        if ref is not None:
            name, may = self._component(ref, sent)
            return name, nullable or may
        merged = self._merged(schema, set())
        if merged is None:
            return JSON, True
        may, merged = _nullable(merged)
        name = self._shaped(merged, hint, sent)
        return name, nullable or may or name == JSON

    def _component(self, ref: Ref, sent: bool) -> tuple[str, bool]:
        key = ref.key[1], sent
        if ref.rest or ref.key not in self._components:
            return JSON, True
        known = self._known.get(key)
        if known is not None:
            return known
        if key in self._under_way:
            return JSON, True  # it is nothing but itself
        self._under_way.add(key)
        found = self._of(self._components[ref.key].document, ref.key[1], sent)
        self._under_way.discard(key)
        return self._known.setdefault(key, found)

    def _merged(self, schema: Json, passed: set[str]) -> Json | None:
        """`schema` with what it says by `allOf`; None where it cannot be said as one."""
        parts = schema.get("allOf")
        if parts is None:
            return None if any(key in schema for key in _ALTERNATIVES) else schema
        found: Json = {key: value for key, value in schema.items() if key not in _MERGED}
        properties: Json = {}
        required: list[str] = []
        for part in (*parts, {key: schema[key] for key in ("properties", "required") if key in schema}):
            if not isinstance(part, dict):
                return None
            if "$ref" in part:
                ref = part["$ref"]
                name = ref.key[1]
                if ref.rest or name in passed or ref.key not in self._components:
                    return None
                part = self._components[ref.key].document  # noqa: PLW2901
                passed = {*passed, name}
            merged = self._merged(part, passed) if isinstance(part, dict) else None
            if merged is None:
                return None
            properties.update(merged.get("properties", {}))
            required += merged.get("required", ())
            for key, value in merged.items():
                if key not in _MERGED:
                    found.setdefault(key, value)
        return {**found, "properties": properties, "required": required}

    def _shaped(self, schema: Json, hint: str, sent: bool) -> str:
        kind = schema.get("type")
        if isinstance(kind, list):
            if len(kind) != 1:
                return JSON
            kind = kind[0]
        if kind == "array" or (kind is None and "items" in schema):
            name, may = self._of(schema.get("items"), hint + "/item", sent)
            return f"[{name}]" if may else f"[{name}!]"
        if schema.get("properties") and kind in (None, "object"):
            return self._object(schema, hint, sent)
        if kind == "string":
            return self._text(schema, hint)
        if kind == "integer":
            return _integer(schema)
        return _LEAVES.get(str(kind), JSON)

    def _text(self, schema: Json, hint: str) -> str:
        values = schema.get("enum")
        if isinstance(values, list) and 0 < len(values) <= _MOST_VALUES and "const" not in schema:
            named = {enum_value(value): value for value in values if isinstance(value, str)}
            if len(named) == len(values) and all(named):
                return self._enum(schema, hint, named)
        form = _FORMATS.get(str(schema.get("format")))
        return form or ("ID" if is_identifier(hint.rpartition("/")[2]) else "String")

    def _enum(self, schema: Json, hint: str, named: dict[str, str]) -> str:
        name = self._names.type(_path(hint))
        for made in self.made:
            if made.kind == ENUM and made.name == name and made.values == named:
                return name
        name = self._unique(name)
        self.made.append(Type(ENUM, name, described(schema), values=named))
        return name

    def _object(self, schema: Json, hint: str, sent: bool) -> str:
        plain = self._names.type(_path(hint))
        name = self._unique(plain if not sent or plain.endswith("Input") else plain + "Input")
        made = Type(INPUT if sent else OBJECT, name, described(schema))
        self.made.append(made)
        if (hint, sent) in self._under_way:
            # Whatever in it refers to it finds it.
            self._known[hint, sent] = name, _nullable(schema)[0]
        required = set(schema.get("required", ()))
        taken = Unique()
        for wire, given in schema["properties"].items():
            label = field_name(wire)
            each = given if isinstance(given, dict) else {}
            if not label or label.startswith("__") or each.get("readOnly" if sent else "writeOnly") is True:
                continue
            kind, may = self._of(given, f"{hint}/{wire}", sent)
            optional = may or wire not in required or (sent and "default" in each)
            made.fields.append(
                Field(
                    taken(label),
                    wire,
                    kind if optional else kind + "!",
                    described(each),
                    each.get("deprecated") is True and not (sent and not optional),
                )
            )
        if not made.fields:
            self.made.remove(made)
            self._known[hint, sent] = JSON, True
            return JSON
        return name


def described(schema: Json) -> str:
    """What it says of itself."""
    text = schema.get("description")
    return text[:_MOST_TEXT].strip() if isinstance(text, str) else ""


def _path(hint: str) -> str:
    """`Order/lines/item` as one name."""
    first, *rest = hint.split("/")
    return first + "".join(part[:1].upper() + part[1:] for part in map(field_name, rest))


def _reference(schema: Json) -> Ref | None:
    """The component that `schema` is, when it is one and nothing else; `allOf` with one member only adds a description."""
    parts = schema.get("allOf")
    if (
        isinstance(parts, list)
        and len(parts) == 1
        and not schema.get("properties")
        and isinstance(parts[0], dict)
    ):
        schema = parts[0]
    found = schema.get("$ref")
    return found if isinstance(found, Ref) else None


def _without_null(schema: Json) -> tuple[Json, bool]:
    """What is left of alternatives of which one is null, and whether one was."""
    for key in _ALTERNATIVES:
        parts = schema.get(key)
        if not isinstance(parts, list):
            continue
        left = [part for part in parts if not (isinstance(part, dict) and part.get("type") == "null")]
        beside = {name: value for name, value in schema.items() if name != key}
        if len(left) == 1 and isinstance(left[0], dict) and not any(each in beside for each in _ALTERNATIVES):
            inner, nullable = _without_null(left[0])
            return {**beside, **inner}, nullable or len(left) < len(parts)
        return schema, len(left) < len(parts)
    return schema, False


def _nullable(schema: Json) -> tuple[bool, Json]:
    kind = schema.get("type")
    found = False
    if isinstance(kind, list) and "null" in kind:
        found = True
        schema = {**schema, "type": [each for each in kind if each != "null"]}
    values = schema.get("enum")
    if isinstance(values, list) and None in values:
        found = True
        schema = {**schema, "enum": [each for each in values if each is not None]}
    return found or kind == "null" or ("const" in schema and schema["const"] is None), schema


def _integer(schema: Json) -> str:
    """Int has 32 bits: what says that it may be larger is a Long."""
    most = schema.get("maximum", schema.get("exclusiveMaximum"))
    long = schema.get("format") == "int64" and not (isinstance(most, (int, float)) and most <= _INT)
    return "Long" if long or (isinstance(most, (int, float)) and most > _INT) else "Int"
