"""Pieces of a document whose final text is known only when all documents are: they are encoded last."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

import msgspec

SECTIONS = (
    "schemas",
    "responses",
    "parameters",
    "examples",
    "requestBodies",
    "headers",
    "securitySchemes",
    "links",
    "callbacks",
)
# SECURITY: references make much of little: a thousand paths that refer to one item of 0.9 MB made 900 MB. What a service's
# document comes to is bounded, and so is what all come to; whoever goes beyond is left out, and that is said.
MAX_MADE = 8 * 1024 * 1024
MAX_ALL = 32 * 1024 * 1024
METHODS = ("get", "put", "post", "delete", "options", "head", "patch")

Json = dict[str, Any]
# A component of one source: section and name.
Key = tuple[str, str]


class Unusable(Exception):
    """A document, or a part of one, that cannot be served; the message says why, for the reader of the result."""


class Ref:
    """A `$ref` to a component of the same source; `rest` is a pointer into it, empty for all of it."""

    __slots__ = ("key", "name", "rest")

    def __init__(self, key: Key, rest: str = "") -> None:
        self.key = key
        self.rest = rest
        # The component's name in the merged document.
        self.name = key[1]

    def text(self) -> str:
        return f"#/components/{self.key[0]}/{self.name}{self.rest}"


class OperationId:
    """An operation's id, shared by the operation and the links to it."""

    __slots__ = ("value",)

    def __init__(self, value: str) -> None:
        self.value = value


class Part:
    """A cleaned path item's operation or a component: its document and what it refers to."""

    __slots__ = ("document", "refs")

    def __init__(self, document: Any, refs: list[Ref]) -> None:
        self.document = document
        self.refs = refs


def text_of(piece: Any) -> str:
    """The hook of msgspec's encoder."""
    if isinstance(piece, Ref):
        return piece.text()
    if isinstance(piece, OperationId):
        return piece.value
    raise TypeError(type(piece).__name__)


_encoder = msgspec.json.Encoder(enc_hook=text_of)


def weight(piece: Any) -> int:
    """The bytes that `piece` takes in a document."""
    return len(_encoder.encode(piece))


def pointer(text: str) -> list[str]:
    """The segments of a JSON pointer in a URI fragment (RFC 6901 section 6), without its leading `#/`."""
    return [unquote(part).replace("~1", "/").replace("~0", "~") for part in text[2:].split("/")]


def escaped(segment: str) -> str:
    return segment.replace("~", "~0").replace("/", "~1")


def shown(text: object) -> str:
    """`text` of a stranger's for a message: short."""
    shortened = str(text)
    return repr(shortened if len(shortened) <= 80 else shortened[:77] + "...")
