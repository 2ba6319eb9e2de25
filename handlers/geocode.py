"""`POST /api/v1/geocode` and `POST /api/v1/geocode/reverse`: see `kernel.geocoding` for the documents."""

from __future__ import annotations

import msgspec

from kernel.exchange.exchange import Exchange, Handler
from kernel.exchange.json_body import read_json
from kernel.geocoding import questions
from kernel.geocoding.places import Places
from kernel.geocoding.questions import Reverse, Search
from kernel.openapi.own import Answer, Operation, Operations
from kernel.state import Factories, State

_JSON = (b"content-type", b"application/json")
_NO_STORE = (b"cache-control", b"no-store")
_search_decoder = msgspec.json.Decoder(Search)
_reverse_decoder = msgspec.json.Decoder(Reverse)


OPERATIONS: Operations = {
    "POST geocode": Operation(
        "Where is this address?", "geocoding", {200: Answer("Places, best first", Places)}, body=Search
    ),
    "POST geocode-reverse": Operation(
        "What address is here?", "geocoding", {200: Answer("The place, or none", Places)}, body=Reverse
    ),
}


def search(state: State) -> Handler:
    """The handler of a search. Raises, when awaited, GatewayError: what `read_json` and `Geocoder.ask` raise."""
    geocoder = state.geocoder
    patience = state.settings.body_timeout_seconds

    async def handle(x: Exchange) -> None:
        question = questions.search(await read_json(x, _search_decoder, patience))
        await x.respond(200, [_JSON, _NO_STORE], await geocoder.ask(question))

    return handle


def reverse(state: State) -> Handler:
    """The handler of a reverse search; it raises the same."""
    geocoder = state.geocoder
    patience = state.settings.body_timeout_seconds

    async def handle(x: Exchange) -> None:
        question = questions.reverse(await read_json(x, _reverse_decoder, patience))
        await x.respond(200, [_JSON, _NO_STORE], await geocoder.ask(question))

    return handle


FACTORIES: Factories = {
    "geocode": lambda state, row: search(state),
    "geocode-reverse": lambda state, row: reverse(state),
}
