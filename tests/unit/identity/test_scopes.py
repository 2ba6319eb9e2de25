"""Scopes: what is one, and what it is enough for."""

from __future__ import annotations

import pytest

from kernel.identity.scopes import accepted, check
from kernel.routing.catalog import METHODS, WRITES
from kernel.routing.platform import ROUTES

NAMES = frozenset({"inventory", "sales"})


@pytest.mark.parametrize("scope", ["*", "*:read", "*:write", "inventory:read", "inventory:write", "sales:*"])
def test_scopes(scope: str) -> None:
    check(scope, NAMES)


@pytest.mark.parametrize(
    "scope",
    [
        "",
        "*:*",
        "inventory",
        "inventory:",
        ":read",
        "inventory:admin",
        "stock:read",
        "Inventory:read",
        "inventory:read ",
        "**",
    ],
)
def test_what_is_none_is_told_so(scope: str) -> None:
    with pytest.raises(ValueError, match="scope"):
        check(scope, NAMES)


def test_four_scopes_are_enough_for_each_need() -> None:
    assert accepted("inventory:read") == {"inventory:read", "inventory:*", "*:read", "*"}


def test_every_route_says_what_it_needs_or_takes_no_keys() -> None:
    for row in ROUTES:
        for method in row.methods or METHODS:
            needed = row.key_scope(method)
            if row.public or row.service_only or row.admin or row.critical or row.service == "auth":
                assert needed == "", row
            elif row.service:
                writes = row.websocket or (method in WRITES and not row.safe)
                assert needed == f"{row.service}:{'write' if writes else 'read'}"
    own = {row.pattern: row.key_scope("POST") for row in ROUTES if row.service is None}
    assert own["/api/v1/geocode"] == "geocode:read"
    assert own["/api/v1/alerts/ticket"] == own["/api/v1/tenants/{tenant_id}/api-keys"] == ""
