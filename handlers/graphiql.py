"""`/graphiql`, in dev with GRAPHQL alone: GraphiQL (see kernel/exchange/assets.py)."""

from __future__ import annotations

from kernel.exchange.assets import SCRIPT, STYLE, Assets
from kernel.exchange.exchange import Handler
from kernel.openapi.own import Answer, Operation, Operations, Query
from kernel.routing.catalog import RouteRow
from kernel.state import Factories, State

_TYPES = {
    "react.production.min.js": SCRIPT,
    "react-dom.production.min.js": SCRIPT,
    "graphiql.min.js": SCRIPT,
    "graphiql.min.css": STYLE,
    "start.js": SCRIPT,
    "page.css": STYLE,
}

OPERATIONS: Operations = {
    "GET graphiql": Operation("GraphQL for people", "graphql", {200: Answer("A page", media="text/html")}),
    "GET graphiql-file": Operation(
        "A file of that page",
        "graphql",
        {200: Answer("The file", media="*/*")},
        parameters=(Query("Accept-Encoding", "With gzip the larger files are sent compressed.", "header"),),
    ),
}


def page(state: State, row: RouteRow) -> Handler:
    """The handler of the page itself."""
    return Assets("kernel.graphql.ui", _TYPES, "/graphiql").page


def file(state: State, row: RouteRow) -> Handler:
    """The handler of its files."""
    return Assets("kernel.graphql.ui", _TYPES, "/graphiql").file


FACTORIES: Factories = {"graphiql": page, "graphiql-file": file}
