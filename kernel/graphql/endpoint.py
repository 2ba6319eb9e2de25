"""The endpoint: one request, from what it says to its answer.

1. What can be answered with, and what is asked (transport.py).
2. The document: its limits, then parsed and validated, or what was found the last time (documents.py).
3. The operation and its variables.
4. Execution, while the client waits (execution.py).
"""

from __future__ import annotations

import asyncio
from typing import Any

from graphql import GraphQLError, OperationType

from kernel.exchange.disconnect import Disconnect
from kernel.exchange.exchange import CLIENT, Exchange
from kernel.graphql import transport
from kernel.graphql.documents import Documents, Refused, refused
from kernel.graphql.execution import Bounds, Execution
from kernel.graphql.limits import Limits
from kernel.graphql.requests import Sender
from kernel.graphql.schema import Built
from kernel.graphql.schemas import Schemas
from kernel.graphql.subscription import COMPLETE, HEADERS, next_frame, subscribe
from kernel.http import idempotency_key
from kernel.http.problems import GRAPHQL_INVALID, GRAPHQL_NOT_ACCEPTABLE, GatewayError
from kernel.openapi.editions import Edition, editions
from kernel.openapi.fetching import Call
from kernel.routing.catalog import V1
from kernel.state import State

# Who executes operations here, in the metrics.
_GATEWAY = "gateway"


class Endpoint:
    """One a worker."""

    def __init__(self, state: State, call: Call) -> None:
        settings = state.settings
        self._state = state
        # Versions of one operation would be called alike: those beside the first have /openapi.json.
        first = editions(settings.service_catalog, settings.routes).get(V1, Edition())
        self._schemas = Schemas(
            first.services,
            first.rows,
            lambda name, path: call(first.upstreams.get(name, name), path),
            state.log,
            tell=settings.graphql_introspection,
        )
        self._schemas.start()
        self._limits = Limits(depth=settings.graphql_max_depth, aliases=settings.graphql_max_aliases)
        self._bounds = Bounds(
            settings.graphql_max_requests, settings.graphql_max_cost, settings.graphql_timeout_seconds
        )
        self._open = settings.graphql_introspection
        self._counters = state.operations
        state.metrics.register_source("graphql", self._counters.families)
        state.metrics.register_source("graphql-schemas", self._schemas.families)
        self._built: Built | None = None
        self._documents: Documents | None = None

    async def close(self) -> None:
        """End what is under way."""
        await self._schemas.close()

    async def serve(self, x: Exchange) -> None:
        """Answer. Raises GatewayError: what is no GraphQL request, and what became of the connection."""
        media = transport.accepted(x)
        asked = await transport.parameters(x, self._state.settings.body_timeout_seconds)
        built = await self._schemas.get()
        try:
            documents = self._prepared(built)
            prepared = documents.prepare(asked.query)
            operation = prepared.operation(asked.operationName)
            if operation.operation == OperationType.MUTATION and x.method != "POST":
                raise GatewayError(transport.by_get())
            self._counters.operation(
                _GATEWAY, operation.operation.value, operation.name.value if operation.name else ""
            )
            execution = Execution(
                built.schema, prepared, operation, asked.variables, self._bounds, documents.answers
            )
            if operation.operation == OperationType.SUBSCRIPTION:
                await self._subscribed(x, media, built, execution)
                return
            result = await self._executed(x, execution)
        except Refused as error:
            self._counters.error(_GATEWAY, error.kind.code)
            await transport.answer_refused(x, media, error)
            return
        if media == transport.EVENTS:
            await x.respond(200, [*HEADERS], next_frame(result) + COMPLETE)
        else:
            await transport.answer(x, media, transport.PARTIAL if "errors" in result else 200, result)

    def _prepared(self, built: Built) -> Documents:
        """The documents of the schema that is in use now."""
        if self._documents is None or self._built is not built:
            self._built = built
            self._documents = Documents(
                built.schema, self._limits, introspection=self._open, suggestions=self._open
            )
        return self._documents

    def _sender(self, x: Exchange, gone: asyncio.Event) -> Sender:
        enter = self._state.enter
        assert enter is not None
        return Sender(enter, x, gone)

    async def _executed(self, x: Exchange, execution: Execution) -> dict[str, Any]:
        gone = asyncio.Event()
        sender = self._sender(x, gone)
        keys = idempotency_key.given(x.scope["headers"])
        key = idempotency_key.parse(keys) if keys else None
        departure = Disconnect(x.receive, gone.set)
        counters = self._counters
        try:
            result = await execution.run(sender, gone, x.tenant, key)
        finally:
            departure.cancel()
            counters.requests += sender.sent
            counters.spared += sender.spared
        for error in result.get("errors", ()):
            counters.error(_GATEWAY, error["extensions"]["code"])
        return result

    async def _subscribed(self, x: Exchange, media: bytes, built: Built, execution: Execution) -> None:
        if media != transport.EVENTS:
            raise GatewayError(GRAPHQL_NOT_ACCEPTABLE("A subscription is answered as text/event-stream."))
        root = built.schema.subscription_type
        assert root is not None
        nodes = next(iter(execution.root_fields().values()), None)
        if nodes is None:
            raise refused(GRAPHQL_INVALID, "The subscription selects nothing.")
        try:
            arguments = execution.arguments(nodes[0])
        except GraphQLError as error:
            raise refused(GRAPHQL_INVALID, error.message) from None
        project = execution.project(root.fields[nodes[0].name.value].type, nodes)
        metrics = self._state.metrics
        open_ = False

        def opened() -> None:
            # An open stream is no request in flight: it must not count towards the limit that sheds load.
            nonlocal open_
            open_ = True
            metrics.in_flight -= 1

        gone = asyncio.Event()
        departure = Disconnect(x.receive, gone.set)
        try:
            await subscribe(x, self._sender(x, gone), arguments, project, opened)
        finally:
            departure.cancel()
            metrics.in_flight += open_
        if gone.is_set():
            x.ended_by = CLIENT
