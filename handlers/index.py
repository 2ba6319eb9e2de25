"""`/`: where somebody finds out what this is. What strangers may not see is not on it."""

from __future__ import annotations

import msgspec
from msgspec import Struct

from kernel.exchange.exchange import Exchange, Handler
from kernel.http.pages import HEADERS, links, page, wants_html
from kernel.openapi.own import Answer, Operation, Operations
from kernel.routing.catalog import RouteRow
from kernel.state import Factories, State

_VARY = (b"vary", b"Accept")
_JSON = (b"content-type", b"application/json")
_ABOUT = {
    "/docs": "The API of all services, to read and to try",
    "/graphiql": "GraphQL over the services, to try",
    "/openapi.json": "The same for programs",
    "/problems": "What errors mean and what to do about them",
    "/health": "Is it well",
    "/api/v1/health": "Are the services well",
    "/metrics": "Numbers, for Prometheus",
    "/.well-known/jwks.json": "Keys of identity assertions, for services",
}


class _Index(Struct):
    name: str
    links: dict[str, str]


OPERATIONS: Operations = {
    "GET index": Operation(
        "What is here", "documentation", {200: Answer("A page for browsers, JSON for others", _Index)}
    )
}


def make(state: State, row: RouteRow) -> Handler:
    """The handler of `index`. In staging and prod the admins' pages are not on it."""
    settings = state.settings
    rows = {each.pattern: each for each in settings.routes}
    shown = {
        address: about
        for address, about in _ABOUT.items()
        if address in rows and (settings.environment == "dev" or not rows[address].admin)
    }
    document = msgspec.json.encode(_Index("Bakery Gateway", shown))
    body = (
        "<p>The API gateway of the bakery platform. Services are at <code>/api/v1/</code> and "
        "<code>/api/v1/tenants/{tenant_id}/</code>.\n"
        + links([(address, address, about) for address, about in shown.items()])
    )
    html = page("Bakery Gateway", body)

    async def handle(x: Exchange) -> None:
        if wants_html(x.scope["headers"]):
            await x.respond(200, [*HEADERS, _VARY], html)
        else:
            await x.respond(200, [_JSON, _VARY], document)

    return handle


FACTORIES: Factories = {"index": make}
