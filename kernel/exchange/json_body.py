"""JSON bodies of requests that the gateway answers itself: read whole, decoded into a typed Struct, or refused."""

from __future__ import annotations

import re
from asyncio import timeout
from typing import Any, TypeVar

import msgspec
from msgspec import inspect

from kernel.exchange.exchange import Exchange
from kernel.http.problems import BAD_REQUEST, BODY_INVALID, BODY_TIMEOUT, GatewayError

_Document = TypeVar("_Document")
_PLACE = re.compile(r"(?s)(.*) - at `\$\.?(.*)`")
_PATTERN = re.compile(r" matching regex '.*'", re.DOTALL)
_TOO_SLOW = BODY_TIMEOUT(headers=((b"connection", b"close"),))
_INDEX = re.compile(r"\[(?:\d+|\.\.\.)\]")


async def read_json(x: Exchange, decoder: msgspec.json.Decoder[_Document], seconds: float) -> _Document:
    """The request's body; an absent one counts as an empty object. The row's `max_body` bounds it, `seconds` the wait.

    Raises:
        GatewayError: BODY_TIMEOUT; BAD_REQUEST for what is no JSON; BODY_INVALID, naming the field and what it takes, for
            what `decoder` does not take; and what `Exchange.read` raises.
    """
    parts: list[bytes] = []
    try:
        async with timeout(seconds):
            while part := await x.read():
                parts.append(part)
    except TimeoutError:
        raise GatewayError(_TOO_SLOW) from None
    try:
        return decoder.decode(b"".join(parts) or b"{}")
    except msgspec.ValidationError as error:
        raise GatewayError(BODY_INVALID(explain(str(error), decoder.type))) from None
    # SECURITY: RecursionError is what nesting without end comes to.
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise GatewayError(BAD_REQUEST("The body is not JSON.")) from None


def explain(message: str, kind: Any) -> str:
    """msgspec's `message` about a document of type `kind`, with the field first and the values an enumeration takes.

    "Expected `int`, got `str` - at `$.limits[0].window`" becomes "`limits[0].window`: expected `int`, got `str`."
    """
    found = _PLACE.fullmatch(message)
    place = found[2] if found else ""
    text = found[1] if found else message
    text = _PATTERN.sub(" of the form that /openapi.json gives", text)
    if text.startswith("Invalid enum value"):
        options = _options(
            inspect.type_info(kind), [part for part in _INDEX.sub("", place).split(".") if part]
        )
        if options:
            text += f"; it takes {', '.join(options)}"
    return f"`{place}`: {text[0].lower()}{text[1:]}." if place else f"{text}."


def _options(kind: inspect.Type, path: list[str]) -> tuple[str, ...]:
    """The values of the enumeration at `path` below `kind`, in the order they are declared."""
    if isinstance(kind, inspect.LiteralType):
        return tuple(str(value) for value in kind.values)
    if isinstance(kind, inspect.EnumType):
        return tuple(str(member.value) for member in kind.cls)
    if isinstance(kind, inspect.Metadata):
        return _options(kind.type, path)
    if isinstance(kind, inspect.UnionType):
        return next((found for each in kind.types if (found := _options(each, path))), ())
    if isinstance(kind, (inspect.ListType, inspect.SetType, inspect.FrozenSetType, inspect.VarTupleType)):
        return _options(kind.item_type, path)
    if isinstance(kind, inspect.StructType) and path:
        for field in kind.fields:
            if field.encode_name == path[0]:
                return _options(field.type, path[1:])
    return ()
