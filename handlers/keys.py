"""`/.well-known/jwks.json`: the public keys of identity assertions (RFC 7517). Without IDENTITY_ASSERTION there are none."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from kernel.exchange.exchange import Exchange, Handler
from kernel.openapi.own import Answer, Operation, Operations
from kernel.routing.catalog import RouteRow
from kernel.state import Factories, State

# As long as a key must be published before it signs (docs/assertion.md).
_HEADERS = (
    (b"content-type", b"application/jwk-set+json"),
    (b"cache-control", b"public, max-age=300"),
)


class _KeySet(Struct):
    keys: list[dict[str, Any]]


OPERATIONS: Operations = {
    "GET assertion-keys": Operation(
        "The public keys of identity assertions", "documentation", {200: Answer("A JWK set", _KeySet)}
    )
}


def make(state: State, row: RouteRow) -> Handler:
    """The handler of `assertion-keys`."""
    assertions = state.assertions
    document = msgspec.json.encode({"keys": list(assertions.published) if assertions is not None else []})

    async def handle(x: Exchange) -> None:
        await x.respond(200, list(_HEADERS), document)

    return handle


FACTORIES: Factories = {"assertion-keys": make}
