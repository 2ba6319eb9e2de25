"""Execution: an operation's root fields become sub-requests, and their answers the data.

Queries ask for all at once, equal requests once; mutations one after the other, as the specification demands (section 6.2.2).
A field that fails is null, and an error says why with a problem's code; the others stay. All of it has one deadline.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, NamedTuple

from graphql import (
    DocumentNode,
    FieldNode,
    GraphQLError,
    GraphQLObjectType,
    GraphQLSchema,
    OperationDefinitionNode,
    OperationType,
    SelectionSetNode,
    execute_sync,
)
from graphql.execution.values import VariableValues, get_argument_values, get_variable_values

from kernel.graphql.documents import Plan, Prepared, Refused, formatted, refused
from kernel.graphql.model import Operation
from kernel.graphql.projecting import Complete, Errors, Null, Selections
from kernel.graphql.requests import Failed, Invalid, Sender, SubRequest, sub_request
from kernel.graphql.schema import LOCAL, OPERATION
from kernel.http.problems import (
    GRAPHQL_INVALID,
    GRAPHQL_TIMEOUT,
    GRAPHQL_TOO_COMPLEX,
    PARAMETER_INVALID,
    ClientGone,
)
from kernel.primitives.memo import keep

_META = frozenset({"__schema", "__type"})
_MOST_VARIABLE_ERRORS = 5
# SECURITY: all of a large schema takes 100 ms and some MiB.
_MOST_META = 3
_MOST_INTROSPECTED = 4
# How many there may be of a list whose length nothing says.
_ASSUMED = 20
_SIZES = ("limit", "first", "last", "pageSize", "perPage", "size", "take", "top")
# How long sub-requests have to notice that nobody waits for them.
_LINGER = 1.0

Result = dict[str, Any]


class Bounds(NamedTuple):
    """Of one execution: sub-requests, cost, seconds."""

    requests: int
    cost: int
    seconds: float


class _Step(NamedTuple):
    """A root field. `asked` is None where what it says is known."""

    key: str
    complete: Complete | None
    asked: SubRequest | None
    operation: Operation | None
    known: Any = None


class Execution:
    """Of one operation, once. `tenant` and `idempotency` are the request's own."""

    def __init__(
        self,
        schema: GraphQLSchema,
        prepared: Prepared,
        operation: OperationDefinitionNode,
        variables: dict[str, Any] | None,
        bounds: Bounds,
        answers: dict[tuple[bytes, str], dict[str, Any]],
    ) -> None:
        """`answers` are those to introspection that are known. Raises Refused: the variables do not fit."""
        self._schema = schema
        self._answers = answers
        self._prepared = prepared
        self._operation = operation
        self._bounds = bounds
        found = get_variable_values(
            schema,
            operation.variable_definitions or (),
            variables or {},
            max_errors=_MOST_VARIABLE_ERRORS,
            hide_suggestions=True,
        )
        if not isinstance(found, VariableValues):
            raise Refused(GRAPHQL_INVALID, [formatted(error, GRAPHQL_INVALID.code) for error in found])
        self._variables = found
        self._errors = Errors()
        self._selections = Selections(prepared.fragments, found)
        self._root = schema.get_root_type(operation.operation)
        self._data: dict[str, Any] = {}
        # Sub-requests that were not done in time.
        self._late: set[asyncio.Task[Any]] = set()

    @property
    def writes(self) -> bool:
        """Whether it is a mutation."""
        return self._operation.operation == OperationType.MUTATION

    def root_fields(self) -> dict[str, list[FieldNode]]:
        """By the names they get."""
        return self._selections.fields(self._operation.selection_set)

    def arguments(self, node: FieldNode) -> dict[str, Any]:
        """Of a root field, coerced. Raises GraphQLError."""
        assert isinstance(self._root, GraphQLObjectType)
        return get_argument_values(
            self._root.fields[node.name.value], node, self._variables, hide_suggestions=True
        )

    def project(self, kind: Any, nodes: list[FieldNode]) -> Callable[[Any], Result]:
        """What makes a result of each value of a subscription's field."""
        complete, _ = self._plan(kind, nodes)
        key = nodes[0].alias.value if nodes[0].alias else nodes[0].name.value

        def projected(value: Any) -> Result:
            errors = self._errors
            errors.renew()
            try:
                data = {key: complete(value, (None, key), errors)}
            except Null:
                return {"data": None, "errors": errors.found}
            return {"data": data, "errors": errors.found} if errors.found else {"data": data}

        return projected

    async def run(
        self, sender: Sender, gone: asyncio.Event, tenant: str | None, idempotency: bytes | None
    ) -> Result:
        """The result: `data`, and `errors` if there are any.

        Raises:
            Refused: it costs too much.
            ClientGone: nobody waits for it any more.
        """
        steps = self._steps(tenant, idempotency)
        schemas = sum(nodes[0].name.value in _META for nodes in self.root_fields().values())
        if schemas > _MOST_META:
            raise refused(GRAPHQL_TOO_COMPLEX, f"An operation may ask for the schema {_MOST_META} times.")
        if schemas:
            self._data.update(await self._introspected())
        if self.writes:
            await self._serially(steps, sender, gone)
        else:
            await self._at_once(steps, sender, gone)
        return (
            {"data": self._data, "errors": self._errors.found} if self._errors.found else {"data": self._data}
        )

    # --- what is to be done ---

    def _steps(self, tenant: str | None, idempotency: bytes | None) -> list[_Step]:
        root = self._root
        assert isinstance(root, GraphQLObjectType)
        steps: list[_Step] = []
        cost = 0
        for key, nodes in self.root_fields().items():
            name = nodes[0].name.value
            self._data[key] = None  # in the order in which they were asked for
            if name in _META:
                continue
            if name == "__typename":
                self._data[key] = root.name
                continue
            field = root.fields[name]
            complete, weights = self._plan(field.type, nodes)
            if LOCAL in field.extensions:
                steps.append(_Step(key, complete, None, None, field.extensions[LOCAL]))
                continue
            operation: Operation = field.extensions[OPERATION]
            named = idempotency + b"." + key.encode() if idempotency is not None else None
            try:
                arguments = self.arguments(nodes[0])
                asked = sub_request(operation, arguments, tenant, named)
            except Invalid as why:
                self._failed(key, str(why), {"code": PARAMETER_INVALID.code, "status": 422})
                continue
            except GraphQLError as error:
                self._failed(key, error.message, {"code": GRAPHQL_INVALID.code, "status": 422})
                continue
            steps.append(_Step(key, complete, asked, operation))
            page = _page(arguments)
            cost += 1 + sum(count * page**lists for lists, count in enumerate(weights))
            if cost > self._bounds.cost:
                raise refused(
                    GRAPHQL_TOO_COMPLEX,
                    f"The operation costs more than {self._bounds.cost}: fields, times the length of their lists.",
                )
        requests = (
            len(steps) if self.writes else len({step.asked for step in steps if step.asked is not None})
        )
        if requests > self._bounds.requests:
            raise refused(
                GRAPHQL_TOO_COMPLEX,
                f"The operation needs {requests} requests to services; {self._bounds.requests} are allowed.",
            )
        return steps

    def _plan(self, kind: Any, nodes: list[FieldNode]) -> Plan:
        """For what is selected by `nodes`. PERF: 40 us for six fields, spared where no variable decides what is selected."""
        plans = self._prepared.plans
        key = tuple(map(id, nodes))  # a fragment's field may be merged with others in another operation
        known = plans.get(key) if plans is not None else None
        if known is None:
            known = self._selections.complete(kind, nodes), self._selections.weights(kind, nodes)
            if plans is not None:
                plans[key] = known
        return known

    async def _introspected(self) -> Result:
        """What asks for the schema itself is graphql-core's, and the same each time."""
        name = self._operation.name.value if self._operation.name else ""
        memo, key = self._answers, (self._prepared.key, name)
        found = memo.get(key)
        if found is None:
            selected = [
                node
                for nodes in self.root_fields().values()
                if nodes[0].name.value in _META
                for node in nodes
            ]
            operation = OperationDefinitionNode(
                operation=OperationType.QUERY,
                variable_definitions=self._operation.variable_definitions,
                directives=(),
                selection_set=SelectionSetNode(selections=tuple(selected)),
            )
            document = DocumentNode(definitions=(operation, *self._prepared.fragments.values()))
            variables = dict(self._variables.coerced)
            # PERF: 100 ms for a schema of a thousand types.
            result = await asyncio.to_thread(execute_sync, self._schema, document, variable_values=variables)
            found = result.data or {}
            if not self._operation.variable_definitions:
                keep(memo, key, found, _MOST_INTROSPECTED)
        return found

    # --- doing it ---

    async def _at_once(self, steps: list[_Step], sender: Sender, gone: asyncio.Event) -> None:
        tasks: dict[SubRequest, asyncio.Task[Any]] = {}
        for step in steps:
            if step.asked in tasks:
                sender.spared += 1
            elif step.asked is not None:
                assert step.operation is not None
                tasks[step.asked] = asyncio.create_task(sender.send(step.asked, step.operation.service))
        await self._wait(set(tasks.values()), gone, self._bounds.seconds)
        for step in steps:
            self._settle(step, tasks.get(step.asked) if step.asked is not None else None)

    async def _serially(self, steps: list[_Step], sender: Sender, gone: asyncio.Event) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + self._bounds.seconds
        for step in steps:
            task: asyncio.Task[Any] | None = None
            if step.asked is not None and loop.time() < end:
                assert step.operation is not None
                task = asyncio.create_task(sender.send(step.asked, step.operation.service))
                await self._wait({task}, gone, end - loop.time())
            self._settle(step, task)

    async def _wait(self, tasks: set[asyncio.Task[Any]], gone: asyncio.Event, seconds: float) -> None:
        """Until all are done, or time is up: what is under way then is ended. Raises ClientGone."""
        every: asyncio.Future[Any] = asyncio.gather(*tasks, return_exceptions=True)
        leaving: asyncio.Future[Any] = asyncio.create_task(gone.wait())
        try:
            await asyncio.wait({every, leaving}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            left = gone.is_set()
            if not every.done():
                self._late.update(task for task in tasks if not task.done())
                # Who waits for a service hears of it by the way that clients' leaving takes.
                gone.set()
                await asyncio.wait({every}, timeout=_LINGER)
            if left:
                raise ClientGone
        finally:
            leaving.cancel()
            every.cancel()

    def _settle(self, step: _Step, task: asyncio.Task[Any] | None) -> None:
        """Put what came of `task` into the data."""
        key = step.key
        value = step.known
        if step.asked is not None:
            if task is None or task in self._late or task.cancelled():
                kind = GRAPHQL_TIMEOUT
                self._failed(key, kind.title + ".", {"code": kind.code, "status": kind.status})
                return
            error = task.exception()
            if isinstance(error, Failed):
                self._failed(key, error.message, error.extensions)
                return
            if error is not None:
                raise error
            assert step.operation is not None
            value = True if step.operation.empty else task.result()
        if value is None:
            return
        assert step.complete is not None
        try:
            self._data[key] = step.complete(value, (None, key), self._errors)
        except Null:
            self._data[key] = None

    def _failed(self, key: str, message: str, extensions: dict[str, Any]) -> None:
        self._errors.add(message, (None, key), extensions)


def _page(arguments: dict[str, Any]) -> int:
    """How many there may be in each list, by the arguments of the root field."""
    for name in _SIZES:
        size = arguments.get(name)
        if isinstance(size, int):
            return max(1, min(size, 10_000))
    return _ASSUMED
