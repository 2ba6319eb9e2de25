"""`/openapi.json`: see `kernel.openapi`. Revalidated by its ETag."""

from __future__ import annotations

from functools import partial
from typing import Any

from kernel.exchange import Exchange
from kernel.openapi.documents import Documents
from kernel.openapi.own import Answer, Operation, Operations, own_document
from kernel.route import Handler
from kernel.state import State
from kernel.upstream.client import Answer as ServiceAnswer
from kernel.upstream.client import ServiceClient

_JSON = (b"content-type", b"application/json")
_REVALIDATED = (b"cache-control", b"no-cache")
_SERVICE_SECONDS = 3.0

OPERATIONS: Operations = {
    "GET openapi": Operation(
        "This document",
        "documentation",
        {200: Answer("OpenAPI 3.1", dict[str, Any]), 304: Answer("As the ETag in If-None-Match", media="")},
    )
}


def make(state: State, operations: Operations) -> Handler:
    """The handler. `operations` are what the gateway's own endpoints do."""
    settings = state.settings
    client = ServiceClient(
        state.upstreams, state.minter.token if state.minter else None, timeout=_SERVICE_SECONDS
    )

    async def call(service: str, path: str) -> ServiceAnswer:
        return await client.call(service, "GET", path)

    own = partial(own_document, settings.routes, operations)
    documents = Documents(settings.service_catalog, settings.routes, call, own)
    state.closers.append(documents.close)

    async def openapi(x: Exchange) -> None:
        document = await documents.get()
        headers = [(b"etag", document.etag), _REVALIDATED]
        given = b",".join(value for name, value in x.scope["headers"] if name == b"if-none-match")
        known = {tag.strip().removeprefix(b"W/") for tag in given.split(b",")}
        if document.etag in known or b"*" in known:
            await x.send_whole(304, headers, b"")
        else:
            await x.respond(200, [_JSON, *headers], document.body)

    return openapi
