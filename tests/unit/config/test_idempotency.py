"""`idempotency` in gateway.toml, and `IDEMPOTENCY` for what it does not name."""

from __future__ import annotations

from pathlib import Path

import pytest

from kernel.config import Settings, load
from kernel.routing.keyed import KEYED_METHODS
from tests.support.config import File


@pytest.fixture
def file(tmp_path: Path) -> File:
    return File(tmp_path / "gateway.toml")


def heeding(settings: Settings) -> dict[tuple[str, str | None], str]:
    """What each row that heeds keys makes of them."""
    return {(row.pattern, row.service): row.idempotency for row in settings.routes if row.idempotency}


def test_by_default_no_route_heeds_keys() -> None:
    assert not heeding(load({}))


def test_all_routes_of_services_for_known_callers_can() -> None:
    settings = load({"IDEMPOTENCY": "true"})
    found = heeding(settings)
    assert set(found.values()) == {"optional"}
    assert ("/api/v1/orders/**", "orders") in found
    assert ("/api/v1/tenants/{tenant_id}/orders/**", "orders") in found
    for row in settings.routes:
        if row.idempotency:
            assert not row.public
            assert row.handler == "proxy"
            assert row.answered & KEYED_METHODS
    patterns = {pattern for pattern, _ in found}
    assert not patterns & {"/api/v1/auth/login", "/api/v1/geocode", "/api/v1/training/ws", "/metrics"}


def test_a_service_and_a_route_have_their_own_words(file: File) -> None:
    text = """
        [services.orders]
        idempotency = "required"
        [services.training]
        idempotency = "optional"
        [services.auth]
        idempotency = "optional"
        [[routes]]
        pattern = "/api/v1/orders/quotes/**"
        service = "orders"
        idempotency = "off"
    """
    found = heeding(file.load(text))
    assert found["/api/v1/orders/**", "orders"] == "required"
    assert found["/api/v1/training/**", "training"] == "optional"
    assert found["/api/v1/auth/logout", "auth"] == "optional"
    assert ("/api/v1/auth/login", "auth") not in found
    assert ("/api/v1/training/ws", "training") not in found
    assert ("/api/v1/orders/quotes/**", "orders") not in found
    assert ("/api/v1/tenants/{tenant_id}/orders/quotes/**", "orders") not in found
    everywhere = heeding(file.load(text, IDEMPOTENCY="true"))
    assert everywhere["/api/v1/orders/**", "orders"] == "required"
    assert everywhere["/api/v1/sales/**", "sales"] == "optional"
    assert ("/api/v1/orders/quotes/**", "orders") not in everywhere


@pytest.mark.parametrize(
    "row",
    [
        'pattern = "/api/v1/auth/login"',
        'pattern = "/api/v1/orders/x"\nservice = "orders"\nmethods = ["GET", "PUT"]',
        'pattern = "/api/v1/training/ws"',
        'pattern = "/metrics"',
        'pattern = "/api/v1/orders/x"\nservice = "orders"\npublic = true',
    ],
)
def test_a_route_that_cannot_is_an_error(file: File, row: str) -> None:
    (problem,) = file.problems(f'[[routes]]\n{row}\nidempotency = "required"\n')
    assert "idempotency is for POST and PATCH of services" in problem


def test_other_words_are_an_error(file: File) -> None:
    (problem,) = file.problems('[services.orders]\nidempotency = "always"\n')
    assert "not one of off, optional, required" in problem
