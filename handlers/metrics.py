"""`/metrics`: the numbers of all workers, in the format that the client accepts."""

from __future__ import annotations

from kernel.exchange.exchange import Exchange, Handler
from kernel.openapi.own import Answer, Operation, Operations
from kernel.state import Factories
from kernel.telemetry.scrape import Scraper

_NO_STORE = (b"cache-control", b"no-store")
_VARY = (b"vary", b"Accept")


OPERATIONS: Operations = {
    "GET metrics": Operation(
        "The numbers of all workers",
        "operation",
        {200: Answer("Prometheus text or OpenMetrics, as the client accepts", media="text/plain")},
    )
}


def make(scraper: Scraper) -> Handler:
    """The handler of a scrape."""

    async def metrics(x: Exchange) -> None:
        accepted = (value for name, value in x.scope["headers"] if name == b"accept")
        content_type, body = await scraper.expose(b",".join(accepted).decode("latin-1"))
        await x.respond(200, [(b"content-type", content_type.encode()), _NO_STORE, _VARY], body)

    return metrics


FACTORIES: Factories = {"metrics": lambda state, row: make(state.scraper)}
