"""`/openapi.json`: see `kernel.openapi`. Revalidated by its ETag."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from kernel.exchange.exchange import Exchange, Handler
from kernel.http.problems import VERSION_UNKNOWN, GatewayError
from kernel.openapi.editions import editions
from kernel.openapi.own import Answer, Operation, Operations, Query, own_document
from kernel.routing.catalog import V1
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
        parameters=(
            Query("version", "Of the services' APIs, such as v2. By default v1, with what has no version."),
        ),
    )
}


def wanted(query: bytes) -> str:
    """The version that a query asks for; the last one counts."""
    return dict(parse_qsl(query.decode("latin-1"), keep_blank_values=True)).get("version", V1)


def make(state: State, operations: Operations) -> Handler:
    """The handler. `operations` are what the gateway's own endpoints do."""
    settings = state.settings
    client = ServiceClient(
        state.upstreams, state.minter.token if state.minter else None, timeout=_SERVICE_SECONDS
    )

    async def call(service: str, path: str) -> ServiceAnswer:
        return await client.call(service, "GET", path)

    found = editions(settings.service_catalog, settings.routes)
    documents: dict[str, Documents] = {}

    def prepare() -> type[Documents]:
        # PERF: 15 ms that no start need wait for.
        from kernel.openapi.documents import Documents  # noqa: PLC0415

        return Documents

    async def close() -> None:
        for each in documents.values():
            await each.close()

    state.closers.append(close)

    async def openapi(x: Exchange) -> None:
        version = wanted(x.query)
        edition = found.get(version)
        if edition is None:
            raise GatewayError(VERSION_UNKNOWN(f"There are documents of: {', '.join(found)}."))
        if version not in documents:
            own = partial(own_document, edition.rows, operations)
            made = (await asyncio.to_thread(prepare))(edition, call, own)
            documents.setdefault(version, made)
        document = await documents[version].get()
        headers = [(b"etag", document.etag), _REVALIDATED]
        given = b",".join(value for name, value in x.scope["headers"] if name == b"if-none-match")
        known = {tag.strip().removeprefix(b"W/") for tag in given.split(b",")}
        if document.etag in known or b"*" in known:
            await x.send_whole(304, headers, b"")
        else:
            await x.respond(200, [_JSON, *headers], document.body)

    return openapi
