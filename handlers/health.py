"""`/health`, `/health/live`, `/health/ready`, `/api/v1/health`: see `kernel.health.report` for what they mean."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from msgspec import UNSET, Struct, UnsetType

from kernel.exchange.exchange import Exchange, Handler
from kernel.health.report import Document
from kernel.openapi.own import Answer, Operation, Operations
from kernel.state import Factories, State

_JSON = (b"content-type", b"application/json")
_NO_STORE = (b"cache-control", b"no-store")


class _Said(Struct):
    status: str


class _Service(Struct):
    status: str
    latency_ms: float | None
    last_error: str | None
    checked_at: str | None
    breaker: str
    ejected: int
    reason: str | UnsetType = UNSET


class _Health(Struct):
    """`services` has the status of each: healthy, unhealthy or unknown."""

    status: Literal["healthy", "degraded", "unhealthy"]
    version: str
    services: dict[str, str]
    redis: Literal["connected", "disconnected"]
    timestamp: str


class _Services(Struct):
    """The same with what the last probe of each service found; its `reason` only for the networks of ADMIN_ALLOW."""

    status: Literal["healthy", "degraded", "unhealthy"]
    version: str
    services: dict[str, _Service]
    redis: Literal["connected", "disconnected"]
    timestamp: str


OPERATIONS: Operations = {
    "GET live": Operation("Is the process alive?", "operation", {200: Answer("It is", _Said)}),
    "GET ready": Operation(
        "Are requests welcome?",
        "operation",
        {200: Answer("They are", _Said), 503: Answer("Shutting down, or not started yet", _Said)},
    ),
    "GET health": Operation(
        "Health of the gateway and of all services",
        "operation",
        {200: Answer("The gateway serves", _Health), 503: Answer("It does not", _Health)},
    ),
    "GET services": Operation(
        "Health of all services, in detail",
        "operation",
        {200: Answer("The gateway serves", _Services), 503: Answer("It does not", _Services)},
    ),
}


def make(document: Callable[[], Document]) -> Handler:
    """The handler that answers with `document()`: one of `Health`'s methods."""

    async def health(x: Exchange) -> None:
        status, body = document()
        await x.respond(status, [_JSON, _NO_STORE], body)

    return health


def make_services(state: State) -> Handler:
    """The handler of `/api/v1/health`."""
    everyone = state.settings.environment == "dev"

    async def services(x: Exchange) -> None:
        operator = everyone or x.client_ip in state.admins
        status, body = state.health.services(operator=operator)
        await x.respond(status, [_JSON, _NO_STORE], body)

    return services


FACTORIES: Factories = {
    "health": lambda state, row: make(state.health.overall),
    "services": lambda state, row: make_services(state),
    "live": lambda state, row: make(state.health.live),
    "ready": lambda state, row: make(state.health.ready),
}
