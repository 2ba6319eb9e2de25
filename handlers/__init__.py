"""One file an endpoint. `FACTORIES` maps the handler names of the catalogue to what makes them for a row.

A file declares `FACTORIES`, and in `OPERATIONS` what it does for the OpenAPI document.
"""

from __future__ import annotations

from handlers import (
    alerts,
    api_keys,
    dispatch,
    docs,
    geocode,
    graphiql,
    graphql,
    grpc,
    health,
    index,
    internal,
    keys,
    metrics,
    openapi,
    problems,
    proxy,
    tickets,
    versions,
    websocket,
)
from kernel.openapi.own import Operations
from kernel.state import Factories

MODULES = (
    alerts,
    api_keys,
    dispatch,
    docs,
    geocode,
    graphiql,
    graphql,
    health,
    index,
    internal,
    keys,
    metrics,
    problems,
    tickets,
    versions,
)

OPERATIONS: Operations = {
    name: operation for module in (*MODULES, openapi) for name, operation in module.OPERATIONS.items()
}

FACTORIES: Factories = {
    "proxy": proxy.make,
    "websocket": websocket.make,
    **grpc.FACTORIES,
    # The one that tells of all the others.
    "openapi": lambda state, row: openapi.make(state, OPERATIONS),
    **{name: factory for module in MODULES for name, factory in module.FACTORIES.items()},
}
