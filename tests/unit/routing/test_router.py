from __future__ import annotations

from typing import cast

import pytest

from kernel.exchange.exchange import Handler, Route
from kernel.http.problems import Problem
from kernel.routing.catalog import RouteRow
from kernel.routing.router import Router
from kernel.telemetry.metrics import Metrics


def router() -> Router[Route]:
    def compile_route(row: RouteRow) -> Route:
        return Route(row, row.pattern, (), cast("Handler", None), Metrics().route(row.pattern))

    def refuse(template: str, problem: Problem, admin: bool) -> Route:
        return compile_route(RouteRow(pattern=template, admin=admin))

    rows = (
        RouteRow(pattern="/items/{id}", methods=frozenset({"GET"}), service="inventory"),
        RouteRow(pattern="/files/**", service="inventory", allow_encoded_slash=True),
        RouteRow(pattern="/files/admin/**", service="inventory", min_tier="enterprise"),
        RouteRow(pattern="/projects/{id}", service="inventory", allow_encoded_slash=True),
    )
    return Router(rows, compile_route, refuse)


def test_a_path_seen_before_is_matched_as_the_first_time() -> None:
    routes = router()
    for _ in range(2):
        route, params = routes.match("GET", b"/items/7")
        assert (route.template, params) == ("/items/{id}", (b"7",))
        assert routes.match("HEAD", b"/items/7")[0] is route
        refused, params = routes.match("POST", b"/items/7")
        assert refused is not route
        assert (refused.template, params) == ("/items/{id}", ())
        assert routes.match("GET", b"/files/a%2Fb")[0].template == "/files/**"
        assert routes.match("GET", b"/items/a%2Fb")[0].template == "unmatched"


def test_paths_that_pass_by_are_forgotten() -> None:
    routes = router()
    for number in range(10_000):
        assert routes.match("GET", b"/items/%d" % number)[1] == (b"%d" % number,)
        assert routes.match("GET", b"/items/" + b"x" * 200)[1] == (b"x" * 200,)
    assert len(routes._known) <= 4096
    assert all(len(path) <= 128 for path in routes._known)


@pytest.mark.parametrize(
    ("path", "template"),
    [
        (b"/files/a%2Fb", "/files/**"),
        (b"/files/a%2Fadmin/b", "/files/**"),
        (b"/files/admin%2Fx", "unmatched"),
        (b"/files/%61dmin%2Fx", "unmatched"),
        (b"/files/admin;v=1%2Fx", "unmatched"),
        (b"/files%2Fadmin%2Fx", "unmatched"),
        (b"/files/%2Fadmin/x", "unmatched"),
        (b"/files/a%2F%2Fb", "unmatched"),
        (b"/projects/group%2Fname", "/projects/{id}"),
    ],
)
def test_an_encoded_slash_leads_around_no_route(path: bytes, template: str) -> None:
    for _ in range(2):
        assert router().match("GET", path)[0].template == template
