"""`POST /api/v1/alerts/ticket`: `{"ticket", "expires_in"}`, a one-time credential for EventSource and WebSocket."""

from __future__ import annotations

import msgspec
from msgspec import Struct

from kernel.bodies import read_json
from kernel.exchange import Exchange
from kernel.route import Handler
from kernel.state import State

_JSON = (b"content-type", b"application/json")
_NO_STORE = (b"cache-control", b"no-store")


class _Nothing(Struct, forbid_unknown_fields=True):
    """No field is known: who asks, and for which tenant, the headers say."""


_decoder = msgspec.json.Decoder(_Nothing)


def make(state: State) -> Handler:
    """The handler. Raises, when awaited, GatewayError: STORE_UNAVAILABLE, and what `read_json` raises."""
    tickets = state.tickets

    async def ticket(x: Exchange) -> None:
        await read_json(x, _decoder)
        made, seconds = await tickets.issue(x.identity, x.tenant)
        await x.respond(200, [_JSON, _NO_STORE], msgspec.json.encode({"ticket": made, "expires_in": seconds}))

    return ticket
