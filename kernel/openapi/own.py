"""The gateway's own endpoints as an OpenAPI document: from the route table, and from what each handler says of itself."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from kernel.openapi.parts import Json
from kernel.routing.catalog import ALERT_STREAM, RouteRow

_PARAMETER = re.compile(r"\{([a-z_]+)\}")
_COMPONENTS = "#/components/schemas/"
JSON = "application/json"
PROBLEM = "application/problem+json"


class ProblemDocument(Struct):
    """What went wrong and what to do about it (RFC 9457). `type` is a page that explains the `code`."""

    type: str
    title: str
    status: Annotated[int, Meta(ge=300, le=599)]
    detail: str
    instance: str
    code: str
    request_id: str


class Answer(Struct, frozen=True):
    """A response. `type` is that of its JSON document, or None for text of the `media` type ("": no content)."""

    description: str
    type: Any = None
    media: str = JSON
    headers: tuple[tuple[str, str], ...] = ()


class Query(Struct, frozen=True):
    """A parameter in the query, or in a header."""

    name: str
    description: str
    place: str = "query"
    type: Any = str


class Operation(Struct, frozen=True):
    """What a handler does with one method. `body` is the type of its JSON document."""

    summary: str
    tag: str
    answers: Mapping[int, Answer]
    description: str = ""
    body: Any = None
    parameters: tuple[Query, ...] = ()


# "METHOD handler" -> what it does.
Operations = Mapping[str, Operation]


def own_document(rows: Iterable[RouteRow], operations: Operations) -> bytes:
    """The document of all rows that are not proxied. Raises KeyError for one whose handler says nothing of itself."""
    types = {ProblemDocument: None}
    for operation in operations.values():
        for kind in (operation.body, *(answer.type for answer in operation.answers.values())):
            if kind is not None:
                types[kind] = None
    schemas, components = msgspec.json.schema_components(types, ref_template=_COMPONENTS + "{name}")
    described = dict(zip(types, schemas, strict=True))
    paths: dict[str, Json] = {}
    for row in rows:
        if row.service is None:
            item = paths.setdefault(row.pattern, {})
            for method in sorted(row.methods or ()):
                item[method.lower()] = _operation(
                    row, method, operations[f"{method} {row.handler}"], described
                )
    document = {
        "openapi": "3.1.0",
        "info": {"title": "Bakery Gateway", "version": ""},
        "paths": paths,
        "components": {"schemas": components},
    }
    return _public(msgspec.json.encode(document))


def _public(document: bytes) -> bytes:
    """Without the underscore of private classes, and with regular expressions as JSON Schema writes them."""
    text = re.sub(rb'("%b|[{,]")_([A-Z])' % _COMPONENTS.encode(), rb"\1\2", document)
    text = text.replace(rb'"title":"_', rb'"title":"')
    return text.replace(rb'"pattern":"\\A', rb'"pattern":"^').replace(rb'\\Z"', rb'$"')


def _operation(row: RouteRow, method: str, said: Operation, described: Mapping[Any, Json]) -> Json:
    words = [
        word
        for word in re.split(r"[^a-z0-9]+", row.pattern)
        if word and word not in {"api", "v1", "internal"}
    ]
    document: Json = {
        "summary": said.summary,
        "operationId": method.lower() + "".join(word.capitalize() for word in words),
        "tags": [said.tag],
        "responses": {str(status): _answer(status, each, described) for status, each in said.answers.items()},
    }
    document["responses"]["default"] = {
        "description": "A problem document (RFC 9457): see the page that its `type` names.",
        "content": {PROBLEM: {"schema": described[ProblemDocument]}},
    }
    notes = [said.description] if said.description else []
    if row.service_only:
        notes.append("For service tokens only.")
    elif row.admin:
        notes.append("In staging and prod for the networks of ADMIN_ALLOW and for service tokens only.")
    if row.handler == ALERT_STREAM:
        notes.append("Where headers cannot be set: `?ticket=`, from a POST to the ticket endpoint beside it.")
    if notes:
        document["description"] = "\n\n".join(notes)
    parameters: list[Json] = [
        {
            "name": each.name,
            "in": each.place,
            "description": each.description,
            "schema": msgspec.json.schema(each.type),
        }
        for each in said.parameters
    ]
    parameters += [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in _PARAMETER.findall(row.pattern)
    ]
    if parameters:
        document["parameters"] = parameters
    if said.body is not None:
        document["requestBody"] = {
            "required": True,
            "content": {JSON: {"schema": described[said.body]}},
        }
    return document


def _answer(status: int, said: Answer, described: Mapping[Any, Json]) -> Json:
    document: Json = {"description": said.description or HTTPStatus(status).phrase}
    if said.media:
        schema = {"type": "string"} if said.type is None else described[said.type]
        document["content"] = {said.media: {"schema": schema}}
    if said.headers:
        document["headers"] = {
            name: {"description": text, "schema": {"type": "string"}} for name, text in said.headers
        }
    return document
