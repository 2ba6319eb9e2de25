"""The OpenAPI document of a gRPC service, made of its descriptors: what the rules bind, with the .proto files' comments."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgspec
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor, MethodDescriptor

from kernel.routing.rpc import Rule
from kernel.transcoding.descriptors import HTTP_BODY, Descriptors
from kernel.transcoding.template import ONE, REST, Template, parse

Json = dict[str, Any]

# Parameters of nested messages, so deep: what a client would write by hand.
_DEEPEST = 4
_MOST_PARAMETERS = 200
_PLAIN = re.compile(r"[^A-Za-z0-9_]+")
_INTEGER: Json = {"type": "integer", "format": "int32"}
_LONG: Json = {"type": "string", "format": "int64"}
_KINDS: dict[int, Json] = {
    FieldDescriptor.TYPE_DOUBLE: {"type": "number", "format": "double"},
    FieldDescriptor.TYPE_FLOAT: {"type": "number", "format": "float"},
    FieldDescriptor.TYPE_INT64: _LONG,
    FieldDescriptor.TYPE_SINT64: _LONG,
    FieldDescriptor.TYPE_SFIXED64: _LONG,
    FieldDescriptor.TYPE_UINT64: {"type": "string", "format": "uint64"},
    FieldDescriptor.TYPE_FIXED64: {"type": "string", "format": "uint64"},
    FieldDescriptor.TYPE_INT32: _INTEGER,
    FieldDescriptor.TYPE_SINT32: _INTEGER,
    FieldDescriptor.TYPE_SFIXED32: _INTEGER,
    FieldDescriptor.TYPE_UINT32: {"type": "integer", "format": "int64", "minimum": 0},
    FieldDescriptor.TYPE_FIXED32: {"type": "integer", "format": "int64", "minimum": 0},
    FieldDescriptor.TYPE_BOOL: {"type": "boolean"},
    FieldDescriptor.TYPE_STRING: {"type": "string"},
    FieldDescriptor.TYPE_BYTES: {"type": "string", "contentEncoding": "base64"},
}
_OBJECT: Json = {"type": "object", "additionalProperties": True}
_OWN_FORMS: dict[str, Json] = {
    "google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
    "google.protobuf.Duration": {"type": "string", "pattern": r"^-?[0-9]+(\.[0-9]{1,9})?s$"},
    "google.protobuf.FieldMask": {
        "type": "string",
        "description": "Names of fields in camelCase, separated by commas.",
    },
    "google.protobuf.Struct": _OBJECT,
    "google.protobuf.Value": {},
    "google.protobuf.ListValue": {"type": "array", "items": {}},
    "google.protobuf.Empty": {"type": "object", "maxProperties": 0},
    "google.protobuf.Any": {
        "type": "object",
        "required": ["@type"],
        "properties": {"@type": {"type": "string"}},
        "additionalProperties": True,
    },
}
_WRAPPER = re.compile(r"google\.protobuf\.(?:Bool|Bytes|Double|Float|U?Int(?:32|64)|String)Value")
_PROBLEM: Json = {
    "description": "A problem document (RFC 9457): `grpc_status` and `details` are the service's.",
    "content": {
        "application/problem+json": {
            "schema": {
                "type": "object",
                "required": ["type", "title", "status", "code"],
                "properties": {
                    "type": {"type": "string"},
                    "title": {"type": "string"},
                    "status": {"type": "integer"},
                    "detail": {"type": "string"},
                    "code": {"type": "string"},
                    "request_id": {"type": "string"},
                    "grpc_status": {"type": "string"},
                    "details": {"type": "array", "items": _OBJECT},
                },
            }
        }
    },
}


def document(descriptors: Descriptors, title: str) -> bytes:
    """OpenAPI 3.1, as JSON."""
    return msgspec.json.encode(_Maker(descriptors).document(title))


class _Maker:
    def __init__(self, descriptors: Descriptors) -> None:
        self._descriptors = descriptors
        self._comments = dict(_comments(descriptors))
        self._schemas: Json = {}
        # Full name -> that of its component.
        self._names: dict[str, str] = {}

    def document(self, title: str) -> Json:
        paths: Json = {}
        spelled: dict[str, str] = {}
        ids: dict[str, int] = {}
        tags: dict[str, Json] = {}
        for served in self._descriptors.served():
            if served.rule is None:
                continue
            method = self._descriptors.method(served.rule.call)
            path, places = _path(parse(served.rule.template))
            # One path has one spelling, whatever rules call what varies in it.
            path = spelled.setdefault(re.sub(r"\{[^}]*\}", "{}", path), path)
            ids[method.name] = ids.get(method.name, 0) + 1
            operation = self._operation(
                method, served.rule, list(zip(re.findall(r"\{([^}]*)\}", path), places, strict=True))
            )
            operation["operationId"] = method.name + (str(ids[method.name]) if ids[method.name] > 1 else "")
            service = method.containing_service
            tags.setdefault(
                service.name, {"name": service.name, **_described(self._comments.get(service.full_name, ""))}
            )
            for verb in served.rule.methods:
                if verb != "HEAD" or "GET" not in served.rule.methods:
                    paths.setdefault(path, {})[verb.lower()] = operation
        return {
            "openapi": "3.1.0",
            "info": {"title": title, "version": ""},
            "tags": list(tags.values()),
            "paths": paths,
            "components": {"schemas": self._schemas, "responses": {"GrpcProblem": _PROBLEM}},
        }

    def _operation(
        self, method: MethodDescriptor, rule: Rule, places: list[tuple[str, tuple[str, bool]]]
    ) -> Json:
        summary, _, more = self._comments.get(method.full_name, "").partition("\n\n")
        operation: Json = {"tags": [method.containing_service.name]}
        if summary:
            operation["summary"] = " ".join(summary.split())
        if more.strip():
            operation["description"] = more.strip()
        if method.GetOptions().deprecated:
            operation["deprecated"] = True
        bound = {variable.path for variable in parse(rule.template).variables}
        parameters: list[Json] = []
        for name, (field, several) in places:
            schema = self._at(method.input_type, field) or {"type": "string"}
            about = self._about(method.input_type, field)
            note = f"{about} One or more segments." if several else about
            parameters.append(
                {"name": name, "in": "path", "required": True, "schema": schema, **_described(note.strip())}
            )
        if rule.body != "*":
            taken = bound | {rule.body}
            parameters += list(self._query(method.input_type, "", "", taken, ()))[:_MOST_PARAMETERS]
        if parameters:
            operation["parameters"] = parameters
        if rule.body:
            operation["requestBody"] = {"required": True, "content": self._body(method, rule)}
        operation["responses"] = {
            "200": self._answer(method, rule),
            "default": {"$ref": "#/components/responses/GrpcProblem"},
        }
        return operation

    def _body(self, method: MethodDescriptor, rule: Rule) -> Json:
        kind = method.input_type
        if rule.body != "*":
            return self._content(
                self._field(kind.fields_by_name[rule.body]), kind.fields_by_name[rule.body].message_type
            )
        return self._content(self._message(kind), kind)

    def _answer(self, method: MethodDescriptor, rule: Rule) -> Json:
        kind = method.output_type
        if rule.response_body:
            field = kind.fields_by_name[rule.response_body]
            content = self._content(self._field(field), None if field.is_repeated else field.message_type)
        else:
            content = self._content(self._message(kind), kind)
        if rule.streaming and "*/*" not in content:
            schema = next(iter(content.values()))["schema"]
            return {
                "description": "One message a line, or an event each.",
                "content": {
                    "application/x-ndjson": {"schema": schema},
                    "text/event-stream": {"schema": {"type": "string"}},
                },
            }
        return {
            "description": self._comments.get(kind.full_name, "").partition("\n")[0] or "OK",
            "content": content,
        }

    def _content(self, schema: Json, kind: Descriptor | None) -> Json:
        if kind is not None and kind.full_name == HTTP_BODY:
            return {"*/*": {"schema": {"type": "string", "format": "binary"}}}
        return {"application/json": {"schema": schema}}

    def _query(
        self, kind: Descriptor, prefix: str, path: str, taken: set[str], above: tuple[str, ...]
    ) -> Iterator[Json]:
        fields = self._descriptors.reader.fields(kind)
        for each in kind.fields:
            known = fields[each.name]
            here = f"{path}{each.name}"
            if here in taken:
                continue
            name = f"{prefix}{each.json_name}"
            if known.text is not None:
                yield {
                    "name": name,
                    "in": "query",
                    "schema": self._field(each),
                    **_described(self._comments.get(each.full_name, "")),
                }
            elif (
                (inner := known.message) is not None
                and not (known.repeated or known.key or known.own_form)
                and inner.full_name not in above
                and len(above) < _DEEPEST
            ):
                yield from self._query(inner, f"{name}.", f"{here}.", taken, (*above, inner.full_name))

    # --- schemas ---

    def _field(self, field: FieldDescriptor) -> Json:
        known = self._descriptors.reader.fields(field.containing_type)[field.name]
        if known.key is not None:
            return {
                "type": "object",
                "additionalProperties": self._single(field.message_type.fields_by_name["value"]),
            }
        single = self._single(field)
        return {"type": "array", "items": single} if known.repeated else single

    def _single(self, field: FieldDescriptor) -> Json:
        if field.message_type is not None:
            return self._message(field.message_type)
        if field.enum_type is not None:
            return self._enum(field.enum_type)
        return _KINDS.get(field.type, {})

    def _message(self, kind: Descriptor) -> Json:
        name = kind.full_name
        if name in _OWN_FORMS:
            return _OWN_FORMS[name]
        if _WRAPPER.fullmatch(name):
            inner = _KINDS[kind.fields_by_name["value"].type]
            return {**inner, "type": [inner["type"], "null"]}
        if name not in self._names:
            component = self._component(kind)
            self._schemas[component] = {}  # it may be in itself
            properties: Json = {}
            for field in kind.fields:
                schema = self._field(field)
                about = self._comments.get(field.full_name, "")
                properties[field.json_name] = (
                    {**schema, **_described(about)} if "description" not in schema else schema
                )
            self._schemas[component] = {
                "type": "object",
                **_described(self._comments.get(name, "")),
                "properties": properties,
            }
        return {"$ref": f"#/components/schemas/{self._names[name]}"}

    def _enum(self, kind: EnumDescriptor) -> Json:
        if kind.full_name == "google.protobuf.NullValue":
            return {"type": "null"}
        if kind.full_name not in self._names:
            scope = kind.full_name.rpartition(".")[0]
            told = [
                f"- `{value.name}`: {' '.join(said.split())}"
                for value in kind.values
                if (said := self._comments.get(f"{scope}.{value.name}", ""))
            ]
            about = "\n".join([self._comments.get(kind.full_name, ""), *told]).strip()
            self._schemas[self._component(kind)] = {
                "type": "string",
                "enum": [value.name for value in kind.values],
                **_described(about),
            }
        return {"$ref": f"#/components/schemas/{self._names[kind.full_name]}"}

    def _component(self, kind: Descriptor | EnumDescriptor) -> str:
        """Its name in its package; with the package, where another has that."""
        package = kind.file.package
        short = kind.full_name.removeprefix(f"{package}.") if package else kind.full_name
        name = _PLAIN.sub("_", short)
        if name in self._schemas:
            name = _PLAIN.sub("_", kind.full_name)
        self._names[kind.full_name] = name
        return name

    def _at(self, kind: Descriptor | None, path: str) -> Json | None:
        field = self._found(kind, path)
        return self._field(field) if field is not None else None

    def _about(self, kind: Descriptor | None, path: str) -> str:
        field = self._found(kind, path)
        return " ".join(self._comments.get(field.full_name, "").split()) if field is not None else ""

    @staticmethod
    def _found(kind: Descriptor | None, path: str) -> FieldDescriptor | None:
        field: FieldDescriptor | None = None
        for name in path.split("."):
            field = kind.fields_by_name.get(name) if kind is not None else None
            kind = field.message_type if field is not None else None
        return field


def _path(template: Template) -> tuple[str, list[tuple[str, bool]]]:
    """The path as OpenAPI spells it; of each parameter in it the field ("" for none), and whether it is several segments."""
    segments = [*template.segments]
    places: list[tuple[str, bool]] = []
    named = {at: v for v in template.variables for at in range(v.start, v.start + len(v.segments))}
    used: dict[str, int] = {}
    for at, segment in enumerate(segments):
        if segment not in (ONE, REST):
            continue
        variable = named.get(at)
        # What stands for a part of a field has no schema of its own.
        whole = variable is not None and variable.segments in ((ONE,), (REST,))
        name = _PLAIN.sub("_", variable.path) if variable is not None else "segment"
        used[name] = used.get(name, 0) + 1
        places.append((variable.path if variable is not None and whole else "", segment == REST))
        segments[at] = f"{{{name}{'' if used[name] == 1 else f'_{used[name]}'}}}"
    return "/" + "/".join(segments) + (f":{template.verb}" if template.verb else ""), places


def _described(text: str) -> Json:
    return {"description": text} if text else {}


def _comments(descriptors: Descriptors) -> Iterator[tuple[str, str]]:
    """Full name -> the comment before it, where the files have their source information."""
    for file in descriptors.files.values():
        told = {
            tuple(at.path): at.leading_comments
            for at in file.source_code_info.location
            if at.leading_comments
        }
        prefix = f"{file.package}." if file.package else ""
        for place, name in _places(file, prefix):
            if place in told:
                yield name, _unindented(told[place])


def _places(file: Any, prefix: str) -> Iterator[tuple[tuple[int, ...], str]]:
    """The path (descriptor.proto, SourceCodeInfo) and the full name of each message, field, enum, value, service, method."""
    for at, message in enumerate(file.message_type):
        yield from _within((4, at), message, prefix)
    for at, enum in enumerate(file.enum_type):
        yield from _values((5, at), enum, prefix)
    for at, service in enumerate(file.service):
        yield (6, at), prefix + service.name
        for number, method in enumerate(service.method):
            yield (6, at, 2, number), f"{prefix}{service.name}.{method.name}"


def _within(place: tuple[int, ...], message: Any, prefix: str) -> Iterator[tuple[tuple[int, ...], str]]:
    name = prefix + message.name
    yield place, name
    for at, field in enumerate(message.field):
        yield (*place, 2, at), f"{name}.{field.name}"
    for at, nested in enumerate(message.nested_type):
        yield from _within((*place, 3, at), nested, f"{name}.")
    for at, enum in enumerate(message.enum_type):
        yield from _values((*place, 4, at), enum, f"{name}.")


def _values(place: tuple[int, ...], enum: Any, prefix: str) -> Iterator[tuple[tuple[int, ...], str]]:
    yield place, prefix + enum.name
    for at, value in enumerate(enum.value):
        yield (*place, 2, at), prefix + value.name  # values are their enum's siblings


def _unindented(text: str) -> str:
    return "\n".join(line.removeprefix(" ").rstrip() for line in text.strip("\n").split("\n")).strip()
