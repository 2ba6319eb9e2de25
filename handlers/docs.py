"""`/docs`: Swagger UI (see kernel/exchange/assets.py)."""

from __future__ import annotations

from kernel.exchange.assets import PNG, SCRIPT, STYLE, Assets
from kernel.exchange.exchange import Handler
from kernel.openapi.own import Answer, Operation, Operations, Query
from kernel.routing.catalog import RouteRow
from kernel.state import Factories, State

_TYPES = {
    "swagger-ui-bundle.js": SCRIPT,
    "swagger-ui.css": STYLE,
    "start.js": SCRIPT,
    "page.css": STYLE,
    "favicon.png": PNG,
}

OPERATIONS: Operations = {
    "GET docs": Operation(
        "Documentation for people", "documentation", {200: Answer("A page", media="text/html")}
    ),
    "GET docs-file": Operation(
        "A file of the documentation page",
        "documentation",
        {200: Answer("The file", media="*/*")},
        parameters=(Query("Accept-Encoding", "With gzip the larger files are sent compressed.", "header"),),
    ),
}


def page(state: State, row: RouteRow) -> Handler:
    """The handler of the page itself."""
    return Assets("kernel.openapi.ui", _TYPES, "/docs").page


def file(state: State, row: RouteRow) -> Handler:
    """The handler of its files."""
    return Assets("kernel.openapi.ui", _TYPES, "/docs").file


FACTORIES: Factories = {"docs": page, "docs-file": file}
