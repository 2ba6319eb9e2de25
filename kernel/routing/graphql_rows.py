"""The rows that GRAPHQL adds. What a field asks for is judged by its own route: here only whose request it is."""

from __future__ import annotations

from kernel.routing.catalog import RouteRow

GRAPHQL_ROUTES = (
    RouteRow(
        pattern="/api/v1/graphql",
        methods=frozenset({"GET", "POST"}),
        handler="graphql",
        always_writable=True,
        safe=True,
        max_body=128 * 1024,
        scope="graphql",
    ),
)
# In dev, beside them.
GRAPHIQL_ROUTES = (
    RouteRow(pattern="/graphiql", methods=frozenset({"GET"}), handler="graphiql", admin=True),
    RouteRow(
        pattern="/graphiql/{version}/{file}", methods=frozenset({"GET"}), handler="graphiql-file", admin=True
    ),
)
