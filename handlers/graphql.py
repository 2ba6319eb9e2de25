"""`POST` and `GET /api/v1/graphql`: see `kernel.graphql`, of which nothing is imported before it is wanted."""

from __future__ import annotations

from typing import Any

from kernel.exchange.exchange import Handler
from kernel.openapi.own import Answer, Operation, Operations, Query
from kernel.routing.catalog import RouteRow
from kernel.state import Factories, State
from kernel.upstream.client import Answer as ServiceAnswer
from kernel.upstream.client import ServiceClient

_SERVICE_SECONDS = 3.0
_RESULT = Answer("The result: `data` and `errors`", dict[str, Any], media="application/graphql-response+json")

OPERATIONS: Operations = {
    "POST graphql": Operation(
        "A GraphQL operation over the services",
        "graphql",
        {200: _RESULT, 294: _RESULT},
        description="The schema is what `gateway graphql schema` prints.",
        body=dict[str, Any],
    ),
    "GET graphql": Operation(
        "A GraphQL query over the services",
        "graphql",
        {200: _RESULT, 294: _RESULT},
        parameters=(
            Query("query", "The document."),
            Query("operationName", "Which of its operations."),
            Query("variables", "As JSON."),
        ),
    ),
}


def make(state: State, row: RouteRow) -> Handler:
    """The handler."""
    client = ServiceClient(
        state.upstreams, state.minter.token if state.minter else None, timeout=_SERVICE_SECONDS
    )

    async def call(service: str, path: str) -> ServiceAnswer:
        return await client.call(service, "GET", path)

    # PERF: 6 MiB and 100 ms, which a worker has spent before its loop runs (see kernel/server/worker.py).
    from kernel.graphql.endpoint import Endpoint  # noqa: PLC0415

    endpoint = Endpoint(state, call)
    state.closers.append(endpoint.close)
    return endpoint.serve


FACTORIES: Factories = {"graphql": make}
