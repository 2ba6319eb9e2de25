"""The model: what the services' documents come to, as plain data that goes from the process that makes it to the workers.

Types are written as GraphQL writes them: "[InventoryItem!]!".
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

# Where an argument goes.
PATH, QUERY, HEADER, BODY = "path", "query", "header", "body"
OBJECT, INPUT, ENUM = "object", "input", "enum"


class Field(Struct, array_like=True):
    """Of an object or an input. `wire` is its name in JSON."""

    name: str
    wire: str
    type: str
    description: str = ""
    deprecated: bool = False


class Type(Struct, array_like=True):
    """An object, an input or an enum, whose `values` are those of the JSON by their names here."""

    kind: str
    name: str
    description: str = ""
    fields: list[Field] = []
    values: dict[str, str] = {}


class Argument(Struct, array_like=True):
    """`wire` is the parameter's name; `style` how its values are written (OpenAPI 3.1, section 4.8.12.3)."""

    name: str
    wire: str
    place: str
    type: str
    description: str = ""
    style: str = "form"
    explode: bool = True
    deprecated: bool = False
    # Only a number, a text or a boolean.
    default: Any = None


class Operation(Struct, array_like=True):
    """A field of Query, or of Mutation. `path` is a template; with `scoped`, that of the same below a tenant."""

    name: str
    service: str
    method: str
    path: str
    type: str
    arguments: list[Argument] = []
    description: str = ""
    deprecated: bool = False
    # The answer has no content: it is `true`.
    empty: bool = False
    scoped: str = ""

    @property
    def writes(self) -> bool:
        return self.method != "GET"


class ServicePart(Struct, array_like=True):
    """What became of one service's document."""

    name: str
    # Why it is left out; "" when it is not.
    reason: str = ""
    title: str = ""
    version: str = ""
    operations: list[Operation] = []
    types: list[Type] = []
    left_out: list[str] = []


class Model(Struct, array_like=True):
    """All services, in the order of the catalogue."""

    services: list[ServicePart]


encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder(Model).decode
