"""`/openapi.json`: see `kernel.openapi`. Revalidated by its ETag."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any

from kernel.exchange.exchange import Exchange, Handler
from kernel.openapi.own import Answer, Operation, Operations, own_document
from kernel.state import State
from kernel.upstream.client import Answer as ServiceAnswer
from kernel.upstream.client import ServiceClient

if TYPE_CHECKING:
    from kernel.openapi.documents import Documents

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
    documents: Documents | None = None

    def prepare() -> type[Documents]:
        # PERF: 15 ms that no start need wait for.
        from kernel.openapi.documents import Documents  # noqa: PLC0415

        return Documents

    async def close() -> None:
        if documents is not None:
            await documents.close()

    state.closers.append(close)

    async def openapi(x: Exchange) -> None:
        nonlocal documents
        if documents is None:
            made = (await asyncio.to_thread(prepare))(settings.service_catalog, settings.routes, call, own)
            documents = documents or made
        document = await documents.get()
        headers = [(b"etag", document.etag), _REVALIDATED]
        given = b",".join(value for name, value in x.scope["headers"] if name == b"if-none-match")
        known = {tag.strip().removeprefix(b"W/") for tag in given.split(b",")}
        if document.etag in known or b"*" in known:
            await x.send_whole(304, headers, b"")
        else:
            await x.respond(200, [_JSON, *headers], document.body)

    return openapi
