"""The catalogue against the platform's published routes."""

from __future__ import annotations

import pytest

from kernel.routing.catalog import METHODS, TIERS, RouteRow, Service, service_rows
from kernel.routing.platform import INTERNAL_SERVICES, ROUTES, SERVICES
from kernel.routing.trie import Trie

# The table of the platform's documentation, and what the specification adds to it.
PUBLISHED = {
    "/api/v1/sales/": "sales",
    "/api/v1/forecasting/": "forecasting",
    "/api/v1/training/": "training",
    "/api/v1/inventory/": "inventory",
    "/api/v1/production/": "production",
    "/api/v1/recipes/": "recipes",
    "/api/v1/orders/": "orders",
    "/api/v1/suppliers/": "suppliers",
    "/api/v1/procurement/": "procurement",
    "/api/v1/pos/": "pos",
    "/api/v1/external/": "external",
    "/api/v1/notifications/": "notification",
    "/api/v1/ai-insights/": "ai-insights",
    "/api/v1/orchestrator/": "orchestrator",
    "/api/v1/tenants/": "tenant",
    "/api/v1/tenant/": "tenant",
    "/api/v1/demo/": "demo-session",
    "/api/v1/distribution/": "distribution",
    "/api/v1/alerts/": "alert-processor",
    "/api/v1/auth/": "auth",
}
VARIABLES = """AUTH SALES FORECASTING TRAINING INVENTORY PRODUCTION RECIPES ORDERS SUPPLIERS PROCUREMENT POS EXTERNAL
NOTIFICATION AI_INSIGHTS ORCHESTRATOR TENANT DEMO_SESSION ALERT_PROCESSOR DISTRIBUTION"""


@pytest.fixture(scope="module")
def trie() -> Trie[RouteRow]:
    made: Trie[RouteRow] = Trie()
    for row in ROUTES:
        made.add(METHODS if row.methods is None else row.methods, row.pattern, row)
    return made


def find(trie: Trie[RouteRow], path: str, method: str = "GET") -> RouteRow | None:
    routes, _ = trie.match(path.encode())
    return None if routes is None else routes.get(method)


@pytest.mark.parametrize(("prefix", "service"), PUBLISHED.items())
def test_published_prefix_leads_to_its_service_and_needs_a_token(
    trie: Trie[RouteRow], prefix: str, service: str
) -> None:
    for path in (prefix + "some/thing", prefix, prefix.rstrip("/")):
        for method in METHODS:
            row = find(trie, path, method)
            assert row is not None, f"{method} {path}"
            assert row.service == service
            assert not row.public


@pytest.mark.parametrize("service", [s for s in SERVICES if s.tenant_scoped], ids=lambda s: s.name)
def test_service_answers_below_a_tenant_by_prefix_and_by_name(trie: Trie[RouteRow], service: Service) -> None:
    for segment in (*service.prefixes, service.name):
        routes, params = trie.match(f"/api/v1/tenants/t-1/{segment}/items/7".encode())
        assert routes is not None
        assert routes["GET"].service == service.name
        assert params == (b"t-1",)


def test_everything_else_below_a_tenant_is_the_tenant_service_with_the_tenant_captured(
    trie: Trie[RouteRow],
) -> None:
    for path in ("/api/v1/tenants/t-1", "/api/v1/tenants/t-1/", "/api/v1/tenants/t-1/members/3"):
        routes, params = trie.match(path.encode())
        assert routes is not None
        assert {row.service for row in routes.values()} == {"tenant"}
        assert set(routes) == METHODS
        assert params == (b"t-1",)


def test_only_login_register_refresh_and_demo_creation_are_public_beside_health() -> None:
    public = {(row.pattern, row.methods) for row in ROUTES if row.public and row.handler == "proxy"}
    post = frozenset({"POST"})
    assert public == {
        ("/api/v1/auth/login", post),
        ("/api/v1/auth/register", post),
        ("/api/v1/auth/refresh", post),
        ("/api/v1/demo/sessions", post),
    }
    own = {row.pattern for row in ROUTES if row.handler != "proxy"}
    assert own >= {"/health", "/health/live", "/health/ready", "/api/v1/health", "/metrics"}
    admin = {row.pattern for row in ROUTES if row.admin}
    assert "/metrics" in admin
    assert not [row for row in ROUTES if row.admin and row.public]


@pytest.mark.parametrize(
    "path", ["/api/v1/salesforce", "/api/v1/tenantsx", "/api/v1", "/api/v2/sales", "/x", "/metricsx"]
)
def test_neighbouring_paths_are_unknown(trie: Trie[RouteRow], path: str) -> None:
    assert find(trie, path) is None


def test_logout_and_subscription_changes_have_effects(trie: Trie[RouteRow]) -> None:
    def effect(path: str, method: str) -> str | None:
        row = find(trie, path, method)
        assert row is not None
        return row.effect

    assert effect("/api/v1/auth/logout", "POST") == "logout"
    for base in ("/api/v1/tenants/t/subscription", "/api/v1/subscriptions/t"):
        for method in ("POST", "PUT", "PATCH", "DELETE"):
            assert effect(base + "/upgrade", method) == "subscription-changed"
        assert effect(base, "GET") is None
    assert {row.effect for row in ROUTES} == {None, "logout", "subscription-changed", "demo-created"}


def test_deleting_a_tenant_and_changing_its_subscription_are_critical(trie: Trie[RouteRow]) -> None:
    for path in ("/api/v1/tenants/t", "/api/v1/tenants/t/"):
        row = find(trie, path, "DELETE")
        assert row is not None
        assert row.critical
    assert all(row.critical for row in ROUTES if row.effect == "subscription-changed")
    row = find(trie, "/api/v1/tenants/t", "PUT")
    assert row is not None
    assert not row.critical


def test_a_customer_in_arrears_can_log_in_and_pay(trie: Trie[RouteRow]) -> None:
    for path in (
        "/api/v1/auth/login",
        "/api/v1/auth/change-password",
        "/api/v1/tenants/t/billing/invoices",
        "/api/v1/tenants/t/subscription",
        "/api/v1/subscriptions/t/reactivate",
    ):
        row = find(trie, path, "POST")
        assert row is not None
        assert row.always_writable
    row = find(trie, "/api/v1/orders", "POST")
    assert row is not None
    assert not row.always_writable


def test_each_service_has_its_documented_variable() -> None:
    assert {service.env for service in SERVICES} == {f"{name}_SERVICE_URL" for name in VARIABLES.split()}
    assert len(SERVICES) == 19


def test_registry_of_internal_services_is_the_documented_twenty() -> None:
    documented = """gateway, auth, tenant, inventory, production, recipes, suppliers, orders, sales, procurement, pos,
    forecasting, training, ai-insights, orchestrator, notification, alert-processor, demo-session, external,
    distribution"""
    assert frozenset(name.strip() for name in documented.split(",")) == INTERNAL_SERVICES


def test_rows_name_known_services_and_tiers() -> None:
    names = {service.name for service in SERVICES}
    for row in ROUTES:
        assert (row.handler == "proxy") == (row.service is not None)
        assert row.service is None or row.service in names
        assert row.min_tier is None or row.min_tier in TIERS


def test_a_service_of_two_prefixes_gets_a_row_for_each() -> None:
    rows = list(service_rows(Service("loyalty", "LOYALTY_SERVICE_URL", ("loyalty", "points"))))
    assert [row.pattern for row in rows] == [
        "/api/v1/loyalty/**",
        "/api/v1/points/**",
        "/api/v1/tenants/{tenant_id}/loyalty/**",
        "/api/v1/tenants/{tenant_id}/points/**",
    ]
