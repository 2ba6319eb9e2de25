"""One file an endpoint. `FACTORIES` maps the handler names of the catalogue to the factories that make them."""

from __future__ import annotations

from collections.abc import Callable

from handlers import (
    alerts,
    dispatch,
    docs,
    geocode,
    health,
    internal,
    metrics,
    openapi,
    problems,
    proxy,
    tickets,
    websocket,
)
from kernel.exchange.exchange import Handler
from kernel.openapi.own import Operations
from kernel.routing.catalog import RouteRow
from kernel.state import State

Factory = Callable[[State, RouteRow], Handler]

# What the gateway's own endpoints do, for the OpenAPI document.
OPERATIONS: Operations = {
    name: operation
    for module in (alerts, dispatch, docs, geocode, health, internal, metrics, openapi, problems, tickets)
    for name, operation in module.OPERATIONS.items()
}

FACTORIES: dict[str, Factory] = {
    "proxy": proxy.make,
    "websocket": websocket.make,
    "health": lambda state, row: health.make(state.health.overall),
    "services": lambda state, row: health.make(state.health.services),
    "live": lambda state, row: health.make(state.health.live),
    "ready": lambda state, row: health.make(state.health.ready),
    "alert-stream": alerts.stream,
    "alert-dispatch": dispatch.make,
    "alert-ticket": lambda state, row: tickets.make(state),
    "geocode": lambda state, row: geocode.search(state),
    "geocode-reverse": lambda state, row: geocode.reverse(state),
    "read-only": internal.read_only,
    "subscription-changed": internal.subscription_changed,
    "problems": lambda state, row: problems.make(),
    "docs": lambda state, row: docs.page(),
    "docs-file": lambda state, row: docs.file(),
    "openapi": lambda state, row: openapi.make(state, OPERATIONS),
    "metrics": lambda state, row: metrics.make(state.scraper),
}
