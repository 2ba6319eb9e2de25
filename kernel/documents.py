"""JSON bodies of requests that the gateway answers itself: read whole, decoded into a typed Struct, or refused."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from kernel.exchange import Exchange
from kernel.problems import BAD_REQUEST, BODY_INVALID, GatewayError

_Document = TypeVar("_Document")


async def read_document(x: Exchange, decoder: msgspec.json.Decoder[_Document]) -> _Document:
    """The request's body; an absent one counts as an empty object.

    Raises:
        GatewayError: BAD_REQUEST for what is no JSON, BODY_INVALID, naming the field, for what `decoder` does not take,
            and what `Exchange.read` raises.
    """
    parts: list[bytes] = []
    while part := await x.read():
        parts.append(part)
    try:
        return decoder.decode(b"".join(parts) or b"{}")
    except msgspec.ValidationError as error:
        raise GatewayError(BODY_INVALID(f"{error}.")) from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise GatewayError(BAD_REQUEST("The body is not JSON.")) from None
