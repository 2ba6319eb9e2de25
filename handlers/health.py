"""`/health`, `/health/live`, `/health/ready`, `/api/v1/health`: see `kernel.telemetry.health` for what they mean."""

from __future__ import annotations

from collections.abc import Callable

from kernel.exchange import Exchange
from kernel.route import Handler
from kernel.telemetry.health import Document

_JSON = (b"content-type", b"application/json")
_NO_STORE = (b"cache-control", b"no-store")


def make(document: Callable[[], Document]) -> Handler:
    """The handler that answers with `document()`: one of `Health`'s methods."""

    async def health(x: Exchange) -> None:
        status, body = document()
        await x.respond(status, [_JSON, _NO_STORE], body)

    return health
