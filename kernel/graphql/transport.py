"""GraphQL over HTTP: what a request says, and how it is answered (specification of GraphQL over HTTP, of August 2026).

| what happened                                              | graphql-response+json | json        |
| ---------------------------------------------------------- | --------------------- | ----------- |
| data without errors                                        | 200                   | 200         |
| data with errors                                           | 294                   | 200         |
| the document cannot be parsed                              | 400                   | 200         |
| it is not valid, too complex, or its variables do not fit  | 422                   | 200         |
| no JSON, no object of parameters, a batch                  | a problem: 400, 422   | the same    |
| another Content-Type; a mutation by GET; nothing acceptable| a problem: 415, 405, 406 |          |

SECURITY: a page of a stranger can have a browser send a form or a text without asking first: only JSON is taken, which is
asked for first (CORS). A GET can only read.
"""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import parse_qsl

import msgspec
from msgspec import Struct

from kernel.exchange.exchange import Exchange
from kernel.graphql.documents import Refused
from kernel.http.problems import (
    BAD_REQUEST,
    BODY_INVALID,
    BODY_TIMEOUT,
    GRAPHQL_BATCH,
    GRAPHQL_BY_GET,
    GRAPHQL_MEDIA_TYPE,
    GRAPHQL_NOT_ACCEPTABLE,
    PARAMETER_INVALID,
    GatewayError,
    Problem,
)

RESPONSE, LEGACY, EVENTS = b"application/graphql-response+json", b"application/json", b"text/event-stream"
PARTIAL = 294
_NO_STORE = (b"cache-control", b"no-store")
_VARY = (b"vary", b"Accept")
_NAMES = ("query", "operationName", "variables", "extensions")
_TOO_SLOW = BODY_TIMEOUT(headers=((b"connection", b"close"),))


class Parameters(Struct, frozen=True):
    """Of one request."""

    query: str
    operationName: str | None = None  # noqa: N815
    variables: dict[str, Any] | None = None
    extensions: dict[str, Any] | None = None


_decoder = msgspec.json.Decoder()


def accepted(x: Exchange) -> bytes:
    """The media type to answer with. Raises GatewayError: GRAPHQL_NOT_ACCEPTABLE."""
    given = b",".join(value for name, value in x.scope["headers"] if name == b"accept").lower()
    if not given.strip():
        return LEGACY  # what those take that say nothing (the specification's "watershed")
    best, weight = b"", 0.0
    ranges = dict(_range(part) for part in given.split(b",") if part.strip())
    for offered, wider in ((RESPONSE, b"application/*"), (LEGACY, b"application/*"), (EVENTS, b"text/*")):
        # The most specific range counts (RFC 9110 section 12.5.1); `*/*` alone means what was there first.
        quality = ranges.get(offered, ranges.get(wider, ranges.get(b"*/*", 0.0)))
        specific = offered in ranges
        if quality > weight or (quality == weight and quality and specific and best not in ranges):
            best, weight = offered, quality
    if best == RESPONSE and RESPONSE not in ranges:
        best = LEGACY if ranges.get(LEGACY, 1.0) else RESPONSE
    if not best:
        raise GatewayError(GRAPHQL_NOT_ACCEPTABLE())
    return best


def _range(part: bytes) -> tuple[bytes, float]:
    kind, *parameters = (each.strip() for each in part.split(b";"))
    weight = 1.0
    for each in parameters:
        if each.startswith(b"q="):
            try:
                weight = float(each[2:])
            except ValueError:
                weight = 0.0
        elif each.startswith(b"charset=") and each[8:].strip(b'"') not in {b"utf-8", b"utf8"}:
            weight = 0.0
    return kind, weight


async def parameters(x: Exchange, seconds: float) -> Parameters:
    """What a request asks.

    Raises:
        GatewayError: there is nothing well-formed; BODY_TIMEOUT; and what `Exchange.read` raises.
    """
    if x.method == "POST":
        json_only(x)
        return posted(await _body(x, seconds))
    return asked(x)


def asked(x: Exchange) -> Parameters:
    """What a GET asks. Raises GatewayError: PARAMETER_INVALID."""
    given: dict[str, Any] = {}
    for name, value in parse_qsl(x.query.decode("ascii"), keep_blank_values=True):
        if name in _NAMES:
            if name in given:
                raise GatewayError(PARAMETER_INVALID(f"{name}: it is there twice."))
            given[name] = value
    for name in ("variables", "extensions"):
        if name in given:
            try:
                given[name] = _decoder.decode(given[name]) if given[name] else None
            except (ValueError, RecursionError):
                raise GatewayError(PARAMETER_INVALID(f"{name}: it is no JSON.")) from None
    if "operationName" in given and not given["operationName"]:
        del given["operationName"]
    return _sound(given, PARAMETER_INVALID)


def json_only(x: Exchange) -> None:
    """Raises GatewayError: GRAPHQL_MEDIA_TYPE, the body is no JSON by its own word."""
    kinds = [value for name, value in x.scope["headers"] if name == b"content-type"]
    kind, weight = _range(kinds[0].lower()) if len(kinds) == 1 else (b"", 0.0)
    if kind != LEGACY or not weight:
        raise GatewayError(GRAPHQL_MEDIA_TYPE(headers=((b"accept-post", LEGACY),)))


async def _body(x: Exchange, seconds: float) -> bytes:
    parts: list[bytes] = []
    try:
        async with asyncio.timeout(seconds):
            while part := await x.read():
                parts.append(part)
    except TimeoutError:
        raise GatewayError(_TOO_SLOW) from None
    return b"".join(parts)


def posted(body: bytes) -> Parameters:
    """What a body asks. Raises GatewayError."""
    try:
        document = _decoder.decode(body)
    # SECURITY: RecursionError is what nesting without end comes to.
    except (ValueError, RecursionError):
        raise GatewayError(BAD_REQUEST("The body is not JSON.")) from None
    if isinstance(document, list):
        raise GatewayError(GRAPHQL_BATCH())
    if not isinstance(document, dict):
        raise GatewayError(BODY_INVALID("The body is no JSON object."))
    return _sound(document, BODY_INVALID)


def _sound(given: dict[str, Any], kind: Any) -> Parameters:
    try:
        found = msgspec.convert(given, Parameters)
    except msgspec.ValidationError as error:
        raise GatewayError(kind(_explained(str(error)))) from None
    return found


def _explained(message: str) -> str:
    text, _, place = message.partition(" - at `$.")
    text = text[0].lower() + text[1:]
    return f"{place.rstrip('`')}: {text}." if place else f"{text[0].upper()}{text[1:]}."


async def answer(x: Exchange, media: bytes, status: int, result: dict[str, Any]) -> None:
    """Send `result`; `status` is that for graphql-response+json."""
    body = msgspec.json.encode(result)
    kind = media if media != EVENTS else RESPONSE
    shown = 200 if kind == LEGACY else status
    headers = [(b"content-type", kind + b"; charset=utf-8"), _NO_STORE, _VARY]
    await x.respond(shown, headers, body)


async def answer_refused(x: Exchange, media: bytes, error: Refused) -> None:
    """Send the errors of a request that was not executed."""
    x.problem_code = error.kind.code
    await answer(x, media, error.kind.status, {"errors": error.errors})


def by_get() -> Problem:
    """The problem of a mutation by GET."""
    return GRAPHQL_BY_GET(headers=((b"allow", b"POST"),))
