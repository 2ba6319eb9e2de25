"""What GraphQL costs: an operation beside the requests that it stands for, a document, a value, and what is refused.

    python -m bench.graphql

In one process on the gateway's own state, like `bench.micro`: the service answers at once, caches are warm.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Any

import msgspec
import uvloop
from graphql import GraphQLSchema, execute_sync, get_introspection_query, parse
from graphql.execution.values import VariableValues

from bench.micro import SILENT, Bench, concurrent, nanoseconds, on_gateway, send
from bench.report import markdown
from bench.rig import BODY, PATH
from kernel.graphql.documents import Documents, Refused
from kernel.graphql.endpoint import Endpoint
from kernel.graphql.limits import Limits
from kernel.graphql.projecting import Errors, Selections
from kernel.upstream.client import Answer

FIELDS = "items { id name stock unit reorderAt } total"
_ITEM = {"type": "object", "required": ["id"]}
_KINDS = {"id": "string", "name": "string", "stock": "number", "unit": "string", "reorder_at": "integer"}
_PAGE = {
    "type": "object",
    "properties": {
        "items": {
            "type": "array",
            "items": {**_ITEM, "properties": {name: {"type": kind} for name, kind in _KINDS.items()}},
        },
        "total": {"type": "integer"},
    },
}
DOCUMENT: dict[str, Any] = {
    "openapi": "3.1.0",
    "info": {"title": "Inventory", "version": "1"},
    "paths": {
        PATH: {
            "get": {
                "operationId": "listItems",
                "parameters": [{"name": "limit", "in": "query", "schema": {"type": "integer"}}],
                "responses": {"200": {"description": "", "content": {"application/json": {"schema": _PAGE}}}},
            }
        }
    },
}
HOSTILE = {
    "10,000 aliases": "{ " + " ".join(f"a{n}: inventoryItems" for n in range(10_000)) + " }",
    "fragments in a circle": "{ ...f } fragment f on Query { inventoryItems { items { ...f } } }",
    "fragments that double 40 times": "{ ...f0 } "
    + " ".join(f"fragment f{n} on Query {{ ...f{n + 1} ... {{ ...f{n + 1} }} }}" for n in range(40))
    + " fragment f40 on Query { __typename }",
    "lists 5,000 deep": "{ inventoryItems(limit: " + "[" * 5000 + "]" * 5000 + ") { total } }",
    "1 MB of fields": "{ " + "inventoryItems " * 70_000 + "}",
}


def _operation(count: int) -> str:
    return (
        "{ " + " ".join(f"a{n}: inventoryItems(limit: {n + 1}) {{ {FIELDS} }}" for n in range(count)) + " }"
    )


async def measured(bench: Bench) -> list[list[str]]:
    """Rows of the table, in microseconds."""
    state = bench.state

    async def call(service: str, path: str) -> Answer:
        return Answer(200, msgspec.json.encode(DOCUMENT)) if service == "inventory" else Answer(404, b"")

    endpoint = Endpoint(state, call)
    schema = (await endpoint._schemas.get()).schema
    try:
        return [
            *await _requests(bench, endpoint),
            *_documents(schema),
            *_values(schema),
            *_refusals(schema),
        ]
    finally:
        await endpoint.close()


async def _requests(bench: Bench, endpoint: Endpoint) -> list[list[str]]:
    async def plain() -> None:
        await bench.gateway(bench.scope(), _stays, send)

    def asking(count: int) -> Callable[[], Awaitable[None]]:
        body = msgspec.json.encode({"query": _operation(count)})

        async def ask() -> None:
            x = await bench.admitted()
            x.method = "POST"
            x.scope["headers"].append((b"content-type", b"application/json"))
            x.body_done, x.content_length, x.max_body = False, len(body), len(body)
            given = iter((body,))

            async def receive() -> dict[str, Any]:
                for part in given:
                    return {"type": "http.request", "body": part, "more_body": False}
                return await _stays()

            x.receive = receive
            await endpoint.serve(x)

        return ask

    rows = [["a plain GET of the same, as a task", f"{await concurrent(plain) / 1000:,.1f}"]]
    for count in (1, 4, 16):
        took = await concurrent(asking(count))
        name = f"an operation with {count} request{'s' if count > 1 else ''} to services"
        rows.append([name, f"{took / 1000:,.1f}"])
    return rows


async def _stays() -> dict[str, Any]:
    return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]


def _fresh(schema: GraphQLSchema) -> Documents:
    return Documents(schema, Limits(), introspection=True, suggestions=False)


def _documents(schema: GraphQLSchema) -> list[list[str]]:
    text = _operation(4)
    known = _fresh(schema)
    known.prepare(text)
    return [
        [
            "a document of 60 tokens that is new",
            f"{nanoseconds(lambda: _fresh(schema).prepare(text)) / 1000:,.1f}",
        ],
        ["the same, known", f"{nanoseconds(lambda: known.prepare(text)) / 1000:,.1f}"],
        [
            "the introspection query of clients, new",
            f"{nanoseconds(lambda: _fresh(schema).prepare(get_introspection_query())) / 1000:,.1f}",
        ],
    ]


def _values(schema: GraphQLSchema) -> list[list[str]]:
    page = msgspec.json.decode(BODY)
    page["items"] *= 66
    values = len(page["items"]) * 6
    prepared = _fresh(schema).prepare("{ inventoryItems { " + FIELDS + " } }")
    root = schema.query_type
    assert root is not None
    selections = Selections(prepared.fragments, VariableValues({}, {}))
    (nodes,) = selections.fields(prepared.operation(None).selection_set).values()
    complete = selections.complete(root.fields["inventoryItems"].type, nodes)

    def project() -> None:
        errors = Errors()
        complete(page, None, errors)
        assert not errors.found

    document = parse("{ inventoryItems { items { id name stock unit } total } }", no_location=True)

    def theirs() -> None:
        assert not execute_sync(schema, document, {"inventoryItems": page}).errors

    each = nanoseconds(project) / values / 1000
    core = nanoseconds(theirs) / (len(page["items"]) * 5) / 1000
    return [
        ["a value of an answer, selected and checked", f"{each:,.2f}"],
        ["the same by graphql-core's executor", f"{core:,.2f}"],
    ]


def _refusals(schema: GraphQLSchema) -> list[list[str]]:
    rows = []
    for name, text in HOSTILE.items():
        best = float("inf")
        for _ in range(5):
            kept = _fresh(schema)
            began = perf_counter()
            try:
                kept.prepare(text)
            except Refused:
                best = min(best, perf_counter() - began)
        rows.append([f"refused: {name} ({len(text) / 1000:,.0f} KB)", f"{best * 1e6:,.1f}"])
    return rows


def main() -> int:
    """Print the table."""
    argparse.ArgumentParser(prog="python -m bench.graphql", description=__doc__).parse_args()
    # The access log goes to descriptor 1, and nowhere; see bench/micro.py.
    table = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(SILENT, os.O_WRONLY), 1)
    rows = uvloop.run(on_gateway(measured, {"GRAPHQL": "true"}))
    print(markdown(["what", "us"], rows), file=table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
