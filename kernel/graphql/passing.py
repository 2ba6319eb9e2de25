"""Passing on: a service that speaks GraphQL itself gets what it is asked as it came, judged by the same limits before.

What is in its schema is its own affair: documents are parsed and measured, not validated. Batches, bodies that are no JSON,
mutations by GET and documents that are only named (persisted ones) are refused: what cannot be read cannot be judged.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable

from graphql import OperationType
from msgspec.structs import replace

from kernel.exchange.exchange import Exchange, Handler
from kernel.exchange.peek import peek
from kernel.graphql import transport
from kernel.graphql.documents import Documents, Refused, refused
from kernel.graphql.limits import Limits
from kernel.http.problems import (
    BODY_TOO_LARGE,
    GRAPHQL_INVALID,
    METHOD_NOT_ALLOWED,
    GatewayError,
    Problem,
)
from kernel.routing.catalog import RouteRow
from kernel.stages import readonly
from kernel.state import State

_MOST_BODY = 1024 * 1024
_ASKED_BY = frozenset({"GET", "HEAD", "POST"})
_ALLOW = ((b"allow", b"GET, HEAD, POST"),)
_SCHEMA = re.compile(r"\b__(?:schema|type)\b")


def judged(state: State, row: RouteRow, handler: Handler) -> Handler:
    """`handler`, which sends on to the service, for requests that are within the limits.

    It raises, when awaited, GatewayError: what is no GraphQL request; a lock, where a mutation is asked for.
    """
    settings = state.settings
    service = row.service or ""
    limits = Limits(depth=settings.graphql_max_depth, aliases=settings.graphql_max_aliases)
    documents = Documents(None, limits, introspection=True, suggestions=False)
    counters = state.operations
    state.metrics.register_source("graphql", counters.families)
    patience = settings.body_timeout_seconds
    # Queries go by POST, too: only what changes something is refused while there is a lock.
    locked = readonly.make(state, replace(row, safe=False))

    async def parameters(x: Exchange) -> transport.Parameters:
        if x.method != "POST":
            return transport.asked(x)
        transport.json_only(x)
        most = min(x.max_body, _MOST_BODY)
        body = await peek(x, most, patience)
        if body is None:
            raise GatewayError(BODY_TOO_LARGE(f"The body may have at most {most} bytes."))
        return transport.posted(body)

    def read(x: Exchange, asked: transport.Parameters) -> bool:
        """Whether something is changed. Raises Refused."""
        if not settings.graphql_introspection and _SCHEMA.search(asked.query):
            raise refused(GRAPHQL_INVALID, "Introspection is not served here.")
        operation = documents.prepare(asked.query).operation(asked.operationName)
        counters.operation(service, operation.operation.value, operation.name.value if operation.name else "")
        writes = operation.operation == OperationType.MUTATION
        if writes and x.method != "POST":
            raise GatewayError(transport.by_get())
        return writes

    async def judge(x: Exchange) -> None:
        x.lane = None  # its body is waited for
        if x.method not in _ASKED_BY:
            raise GatewayError(METHOD_NOT_ALLOWED(headers=_ALLOW))
        asked = await parameters(x)
        try:
            writes = read(x, asked)
        except Refused as error:
            counters.error(service, error.kind.code)
            await transport.answer_refused(x, _media(x), error)
            return
        outcome = locked(x) if writes and locked is not None else None
        problem = await outcome if isinstance(outcome, Awaitable) else outcome
        if isinstance(problem, Problem):
            raise GatewayError(problem)
        rest = handler(x)
        assert rest is not None
        await rest

    return judge


def _media(x: Exchange) -> bytes:
    """What errors are written as: services are more lenient than we are."""
    try:
        return transport.accepted(x)
    except GatewayError:
        return transport.LEGACY
