"""`POST /api/v1/alerts/ticket`: `{"ticket", "expires_in"}`, a one-time credential for EventSource and WebSocket."""

from __future__ import annotations

import msgspec
from msgspec import Struct

from kernel.exchange.exchange import Exchange, Handler
from kernel.exchange.json_body import read_json
from kernel.openapi.own import Answer, Operation, Operations
from kernel.state import Factories, State

_JSON = (b"content-type", b"application/json")
_NO_STORE = (b"cache-control", b"no-store")


class _Nothing(Struct, forbid_unknown_fields=True):
    """No field is known: who asks, and for which tenant, the headers say."""


class _Ticket(Struct):
    """Opens one stream or socket, as `?ticket=`, within `expires_in` seconds."""

    ticket: str
    expires_in: int


_decoder = msgspec.json.Decoder(_Nothing)


OPERATIONS: Operations = {
    "POST alert-ticket": Operation(
        "A one-time ticket for EventSource and WebSocket",
        "alerts",
        {200: Answer("The ticket", _Ticket)},
    )
}


def make(state: State) -> Handler:
    """The handler. Raises, when awaited, GatewayError: STORE_UNAVAILABLE, and what `read_json` raises."""
    tickets = state.tickets
    patience = state.settings.body_timeout_seconds

    async def ticket(x: Exchange) -> None:
        await read_json(x, _decoder, patience)
        made, seconds = await tickets.issue(x.caller, x.tenant)
        await x.respond(200, [_JSON, _NO_STORE], msgspec.json.encode(_Ticket(made, seconds)))

    return ticket


FACTORIES: Factories = {"alert-ticket": lambda state, row: make(state)}
