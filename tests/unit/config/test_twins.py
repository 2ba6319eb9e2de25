"""Routes of gateway.toml that hold at both paths of a resource, and WebSockets."""

from __future__ import annotations

from pathlib import Path

import pytest

from kernel.routing.catalog import Limit, RouteRow
from tests.support.config import File

SCOPE = "/api/v1/tenants/{tenant_id}"


def load(file: File, text: str) -> dict[str, RouteRow]:
    """The row of each pattern."""
    return {row.pattern: row for row in file.load(text).routes}


@pytest.fixture
def file(tmp_path: Path) -> File:
    return File(tmp_path / "gateway.toml")


def test_what_is_demanded_at_one_path_is_demanded_at_the_other(file: File) -> None:
    rows = load(
        file,
        """
        [services.loyalty]
        [[routes]]
        pattern = "/api/v1/loyalty/campaigns/**"
        service = "loyalty"
        min_tier = "professional"
        limit = {requests = 30, window = 60}
        """,
    )
    plain, scoped = rows["/api/v1/loyalty/campaigns/**"], rows[SCOPE + "/loyalty/campaigns/**"]
    assert plain.min_tier == scoped.min_tier == "professional"
    assert plain.limit == scoped.limit == Limit(30, 60)
    # One limit, whichever path is taken.
    assert scoped.limit_key == plain.pattern
    assert not plain.limit_key
    assert scoped.service == "loyalty"


def test_a_built_in_service_has_both_paths_too(file: File) -> None:
    rows = load(
        file,
        """
        [[routes]]
        pattern = "/api/v1/notifications/bulk"
        service = "notification"
        service_only = true
        """,
    )
    assert rows["/api/v1/notifications/bulk"].service_only
    assert rows[SCOPE + "/notifications/bulk"].service_only


def test_a_table_for_the_other_path_has_the_last_word(file: File) -> None:
    rows = load(
        file,
        """
        [[routes]]
        pattern = "/api/v1/sales/export"
        service = "sales"
        min_tier = "enterprise"
        [[routes]]
        pattern = "/api/v1/tenants/{tenant_id}/sales/export"
        service = "sales"
        """,
    )
    assert rows["/api/v1/sales/export"].min_tier == "enterprise"
    assert rows[SCOPE + "/sales/export"].min_tier is None


@pytest.mark.parametrize(
    "text",
    [
        # Open to everybody at one path, and only there.
        '[[routes]]\npattern = "/api/v1/recipes/public/**"\nservice = "recipes"\npublic = true\n',
        # No service of its own answers below a tenant.
        '[[routes]]\npattern = "/api/v1/auth/audit"\nmethods = ["GET"]\nservice = "auth"\nservice_only = true\n',
        '[[routes]]\npattern = "/hooks/**"\nservice = "pos"\n',
        # Those of another service do.
        '[services.other]\nprefixes = ["x"]\ntenant_scoped = false\n[[routes]]\npattern = "/api/v1/x/a"\nservice = "other"\n',
        '[[routes]]\npattern = "/api/v1/sales/of/{tenant_id}"\nservice = "sales"\n',
    ],
)
def test_a_path_without_another_stays_alone(file: File, text: str) -> None:
    before = {row.pattern for row in file.load("").routes}
    added = {row.pattern for row in file.load(text).routes} - before
    assert not any(pattern.startswith(SCOPE) for pattern in added)


def test_a_websocket_is_a_route_for_get(file: File) -> None:
    rows = load(
        file, '[[routes]]\npattern = "/api/v1/inventory/ws"\nservice = "inventory"\nwebsocket = true\n'
    )
    for pattern in ("/api/v1/inventory/ws", SCOPE + "/inventory/ws"):
        assert rows[pattern].websocket
        assert rows[pattern].answered == {"GET", "HEAD"}


@pytest.mark.parametrize("more", ['methods = ["POST"]', 'effect = "logout"'])
def test_what_a_websocket_cannot_have_is_an_error(file: File, more: str) -> None:
    text = f'[[routes]]\npattern = "/api/v1/inventory/ws"\nservice = "inventory"\nwebsocket = true\n{more}\n'
    assert "a WebSocket" in file.problems(text)[0]
