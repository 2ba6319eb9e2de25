"""Where a version beside v1 would answer for another service, or for the gateway: 404, and which versions there are."""

from __future__ import annotations

from kernel.exchange.exchange import Exchange, Handler
from kernel.http.problems import ROUTE_UNKNOWN, GatewayError
from kernel.openapi.own import Operations
from kernel.routing.catalog import VERSION_UNKNOWN
from kernel.state import Factories, State

OPERATIONS: Operations = {}


def make(state: State) -> Handler:
    """The handler."""
    versions = state.versions

    async def unknown(x: Exchange) -> None:
        raise GatewayError(versions.unknown(x.raw_path) or ROUTE_UNKNOWN())

    return unknown


FACTORIES: Factories = {VERSION_UNKNOWN: lambda state, row: make(state)}
