"""The endpoint: one request, from what it says to its answer.

1. What can be answered with, and what is asked (transport.py).
2. The document: its limits, then parsed and validated, or what was found the last time (documents.py).
3. The operation and its variables.
4. Execution, while the client waits (execution.py).
"""

from __future__ import annotations

import asyncio
from typing import Any

from graphql import OperationType

from kernel.exchange.disconnect import Disconnect
from kernel.exchange.exchange import Exchange
from kernel.graphql import transport
from kernel.graphql.documents import Documents, Refused
from kernel.graphql.execution import Bounds, Execution
from kernel.graphql.limits import Limits
from kernel.graphql.requests import Sender
from kernel.graphql.schema import Built
from kernel.graphql.schemas import Schemas
from kernel.http.problems import GatewayError
from kernel.openapi.fetching import Call
from kernel.state import State


class Endpoint:
    """One a worker."""

    def __init__(self, state: State, call: Call) -> None:
        settings = state.settings
        self._state = state
        self._schemas = Schemas(settings.service_catalog, settings.routes, call, state.log)
        self._schemas.start()
        self._limits = Limits()
        self._bounds = Bounds(30, 5000, 30.0)
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
            prepared = self._prepared(built).prepare(asked.query)
            operation = prepared.operation(asked.operationName)
            if operation.operation == OperationType.MUTATION and x.method != "POST":
                raise GatewayError(transport.by_get())
            execution = Execution(built.schema, prepared, operation, asked.variables, self._bounds)
            result = await self._executed(x, execution)
        except Refused as error:
            await transport.answer_refused(x, media, error)
            return
        await transport.answer(x, media, transport.PARTIAL if "errors" in result else 200, result)

    def _prepared(self, built: Built) -> Documents:
        """The documents of the schema that is in use now."""
        if self._documents is None or self._built is not built:
            self._built = built
            self._documents = Documents(built.schema, self._limits, introspection=True, suggestions=True)
        return self._documents

    async def _executed(self, x: Exchange, execution: Execution) -> dict[str, Any]:
        gone = asyncio.Event()
        enter = self._state.enter
        assert enter is not None
        sender = Sender(enter, x, gone)
        key = next((value for name, value in x.scope["headers"] if name == b"idempotency-key"), None)
        departure = Disconnect(x.receive, gone.set)
        try:
            return await execution.run(sender, gone, x.tenant, key)
        finally:
            departure.cancel()
