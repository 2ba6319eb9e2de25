"""gateway.toml: what it adds, what it changes, and how its errors are told."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from kernel.config import ConfigErrors, Settings, load, tables
from kernel.routing.catalog import LOGOUT, METHODS, SUBSCRIPTION_CHANGED, TIERS, Limit, RouteRow
from kernel.routing.platform import ROUTES
from tests.support.config import File


@pytest.fixture
def file(tmp_path: Path) -> File:
    return File(tmp_path / "gateway.toml")


def rows(settings: Settings, pattern: str) -> dict[str, RouteRow]:
    """The row of each method of `pattern`."""
    found: dict[str, RouteRow] = {}
    for row in settings.routes:
        if row.pattern == pattern:
            for method in METHODS if row.methods is None else row.methods:
                assert method not in found, f"{method} {pattern} twice"
                found[method] = row
    return found


def test_an_empty_file_changes_nothing(file: File) -> None:
    settings = file.load("# nothing yet\n")
    assert settings.routes == ROUTES
    assert settings.services == Settings().services


def test_one_table_adds_a_service(file: File) -> None:
    settings = file.load("[services.loyalty]\n")
    assert settings.services["loyalty"] == ("http://loyalty-service:8000",)
    service = settings.service_catalog[-1]
    assert (service.name, service.env, service.health) == ("loyalty", "LOYALTY_SERVICE_URL", "/health")
    for pattern in ("/api/v1/loyalty/**", "/api/v1/tenants/{tenant_id}/loyalty/**"):
        assert rows(settings, pattern)["GET"] == RouteRow(pattern=pattern, service="loyalty")
    assert settings.routes[: len(ROUTES)] == ROUTES


def test_a_services_table_says_everything_about_its_routes(file: File) -> None:
    settings = file.load(
        """
        [services.gift-cards]
        url = ["http://a:1", "http://b:2"]
        prefixes = ["gifts"]
        health = "/healthz"
        openapi = "/docs/openapi.json"
        tenant_scoped = false
        methods = ["GET", "POST"]
        min_tier = "professional"
        limit = {requests = 30, window = 10}
        timeout = 5
        max_body = "50MiB"
        allow_encoded_slash = true
        """
    )
    service = settings.service_catalog[-1]
    assert (service.env, service.health, service.openapi) == (
        "GIFT_CARDS_SERVICE_URL",
        "/healthz",
        "/docs/openapi.json",
    )
    assert settings.services["gift-cards"] == ("http://a:1", "http://b:2")
    assert settings.routes[len(ROUTES) :] == (
        RouteRow(
            pattern="/api/v1/gifts/**",
            methods=frozenset({"GET", "HEAD", "POST"}),
            service="gift-cards",
            min_tier="professional",
            limit=Limit(30, 10),
            limit_key="gift-cards",
            timeout=5,
            max_body=50 * 1024**2,
            allow_encoded_slash=True,
        ),
    )


def test_the_variable_of_a_new_service_overrides_its_url(file: File) -> None:
    text = '[services.loyalty]\nurl = "http://from-file"\n'
    assert file.load(text).services["loyalty"] == ("http://from-file",)
    settings = file.load(text, LOYALTY_SERVICE_URL="http://from-env")
    assert settings.services["loyalty"] == ("http://from-env",)


def test_changes_to_a_known_service_reach_all_its_routes_and_no_other(file: File) -> None:
    settings = file.load('[services.sales]\ntimeout = 90\nprefixes = ["revenue"]\nurl = "http://sales:1"\n')
    assert settings.services["sales"] == ("http://sales:1",)
    assert {row.timeout for row in settings.routes if row.service == "sales"} == {90}
    assert {row.timeout for row in settings.routes if row.service != "sales"} == {None}
    assert rows(settings, "/api/v1/revenue/**")["GET"].service == "sales"
    assert rows(settings, "/api/v1/sales/**")["GET"].service == "sales"
    assert len(settings.service_catalog) == 19


def test_a_route_is_changed_where_it_stands_and_keeps_the_rest(file: File) -> None:
    settings = file.load('[[routes]]\npattern = "/api/v1/auth/login"\nlimit = {requests = 10, window = 60}\n')
    (login,) = set(rows(settings, "/api/v1/auth/login").values())
    assert login.limit == Limit(10, 60)
    assert login.public
    assert login.service == "auth"
    assert login.always_writable
    assert login.methods == frozenset({"POST"})


def test_changing_some_methods_splits_a_route(file: File) -> None:
    settings = file.load('[[routes]]\npattern = "/api/v1/sales/**"\nmethods = ["GET"]\ntimeout = 120\n')
    found = rows(settings, "/api/v1/sales/**")
    assert set(found) == METHODS
    assert {method for method, row in found.items() if row.timeout == 120} == {"GET", "HEAD"}
    assert {row.service for row in found.values()} == {"sales"}


def test_a_route_may_be_given_to_another_service(file: File) -> None:
    settings = file.load('[[routes]]\npattern = "/api/v1/sales/**"\nservice = "pos"\n')
    assert {row.service for row in rows(settings, "/api/v1/sales/**").values()} == {"pos"}


def test_a_new_pattern_is_a_new_route(file: File) -> None:
    settings = file.load(
        """
        [[routes]]
        pattern = "/api/v1/tenants/{tenant_id}/exports/**"
        service = "sales"
        methods = ["GET", "POST"]
        service_only = true
        critical = "export-data"
        always_writable = true
        effect = "logout"
        """
    )
    assert settings.routes[-1] == RouteRow(
        pattern="/api/v1/tenants/{tenant_id}/exports/**",
        methods=frozenset({"GET", "HEAD", "POST"}),
        service="sales",
        service_only=True,
        critical="export-data",
        always_writable=True,
        effect=LOGOUT,
    )


def test_more_methods_for_a_known_pattern_are_a_route_beside_it(file: File) -> None:
    settings = file.load(
        '[[routes]]\npattern = "/api/v1/auth/login"\nmethods = ["GET"]\nservice = "auth"\npublic = true\n'
    )
    found = rows(settings, "/api/v1/auth/login")
    assert set(found) == {"GET", "HEAD", "POST"}
    assert not found["GET"].always_writable


def test_later_routes_change_earlier_ones_and_new_services(file: File) -> None:
    settings = file.load(
        """
        [[routes]]
        pattern = "/api/v1/loyalty/**"
        timeout = 3
        [[routes]]
        pattern = "/api/v1/loyalty/**"
        methods = ["POST"]
        timeout = 9
        [services.loyalty]
        """
    )
    found = rows(settings, "/api/v1/loyalty/**")
    assert found["GET"].timeout == 3
    assert found["POST"].timeout == 9


def test_limits_of_tiers_and_tenants(file: File) -> None:
    settings = file.load(
        """
        [limits.tiers.enterprise]
        requests = 6000
        window = 60
        [limits.tenants.6f1c9f0e-0000-4000-8000-000000000001]
        requests = 5
        window = 1.5
        """
    )
    assert settings.tier_limits == {"enterprise": Limit(6000, 60)}
    assert settings.tenant_limits == {"6f1c9f0e-0000-4000-8000-000000000001": Limit(5, 1.5)}


def test_all_errors_are_collected_each_with_its_place(file: File) -> None:
    assert file.problems(
        """
        [services.sales]
        timout = 3
        timeout = "fast"
        health = "health"
        url = "sales:8000"
        limit = {requests = 0, window = 60}
        [services.Sales]
        [[routes]]
        pattern = "/api/v1/x/**"
        service = "salse"
        [[routes]]
        service = "sales"
        [[routes]]
        pattern = "/api/v1/y/**"
        methods = ["GET", "FETCH"]
        min_tier = "gold"
        max_body = "huge"
        [[routes]]
        pattern = "/api/v1/z/**"
        [[routes]]
        pattern = "/api/v1/pos/**"
        methods = ["HEAD"]
        [limits.tiers.pro]
        requests = 1
        window = 1
        [limits.tiers.starter]
        requests = 1
        [limits.tenants."a b"]
        requests = 1
        window = 1
        [limit]
        """
    ) == [
        "gateway.toml limit: is unknown; did you mean limits?",
        "gateway.toml [services.sales] timout: is unknown; did you mean timeout?",
        "gateway.toml [services.sales] timeout: expected `float`, got `str`",
        "gateway.toml [services.sales] health: expected `str` matching regex '^/[A-Za-z0-9._~/-]*$'",
        "gateway.toml [services.sales] limit.requests: expected `int` >= 1",
        "gateway.toml [services.sales] url: the URL must start with http:// or https:// or unix:// or grpc://",
        "gateway.toml [services.Sales]: a service's name has lower-case letters, digits and single '-'",
        "gateway.toml [[routes]] #1 (/api/v1/x/**) service: is unknown; did you mean sales?",
        "gateway.toml [[routes]] #2 pattern: is needed",
        "gateway.toml [[routes]] #3 methods[1]: 'FETCH' is not one of DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT",
        "gateway.toml [[routes]] #3 min_tier: 'gold' is not one of starter, professional, enterprise",
        "gateway.toml [[routes]] #3 (/api/v1/y/**) max_body: 'huge' is not a size in bytes, KiB, MiB or GiB",
        "gateway.toml [[routes]] #4 (/api/v1/z/**): no route has this pattern and these methods: a new one needs a "
        "service",
        "gateway.toml [[routes]] #5 (/api/v1/pos/**) methods: HEAD goes with GET",
        "gateway.toml [limits.tiers.pro]: is unknown; there are enterprise, professional, starter",
        "gateway.toml [limits.tiers.starter]: object missing required field `window`",
        "gateway.toml [limits.tenants.a b]: a tenant id has 1 to 64 letters, digits, '-' and '_'",
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("x = ", "is not TOML: Invalid value"),
        ("x = " + "[" * 5000, "is not TOML: maximum recursion depth"),
        ("services = 3", "services: is not a table"),
        ("routes = 3", "routes: is not a list of tables"),
        ("routes = [3]", "[[routes]] #1: is not a table"),
        ("limits = []", "limits: is not a table"),
        ("[limits]\ntier = {}", "[limits] tier: is unknown; did you mean tiers?"),
        ("[services]\nsales = 3", "[services.sales]: is not a table"),
        ("[limits.tiers]\nstarter = 3", "[limits.tiers.starter]: expected `object`, got `int`"),
    ],
)
def test_malformed_files_are_told_as_such(file: File, text: str, problem: str) -> None:
    (found,) = file.problems(text)
    assert problem in found


def test_a_missing_file_is_an_error_of_its_variable(tmp_path: Path) -> None:
    with pytest.raises(ConfigErrors, match="GATEWAY_CONFIG: .*none.toml cannot be read: No such file"):
        load({"GATEWAY_CONFIG": str(tmp_path / "none.toml")})


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('pattern = "/api/v1/sales/**"\npublic = true\nmin_tier = "starter"', "min_tier cannot be checked"),
        ('pattern = "/api/v1/auth/login"\nservice_only = true', "service_only cannot be checked"),
        ('pattern = "/health"\nservice = "sales"', "the gateway answers this route itself"),
        ('pattern = "/metrics"\npublic = true', "an admin route cannot be public"),
    ],
)
def test_contradictions_are_errors_not_silence(file: File, text: str, problem: str) -> None:
    (found,) = file.problems(f"[[routes]]\n{text}\n")
    assert problem in found


def test_two_tables_for_the_same_requests_conflict(file: File) -> None:
    table = '[[routes]]\npattern = "/api/v1/loyalty/{id}"\nmethods = [%s]\nservice = "%s"\n'
    (found,) = file.problems(
        table % ('"GET"', "sales") + table % ('"POST"', "sales") + table % ('"GET"', "pos")
    )
    assert "#3" in found
    assert "conflicts with [[routes]] #1" in found


@pytest.mark.parametrize(
    "pattern", ["/api/v1/../x", "/api/%2e%2e/{id}", "/api/v1/a%5cb/**", "/api/v1/%c0%ae", "/api/v1/{id}/."]
)
def test_a_pattern_that_no_request_can_match_is_an_error(file: File, pattern: str) -> None:
    (found,) = file.problems(f'[[routes]]\npattern = "{pattern}"\nservice = "sales"\n')
    assert "no request can match it" in found


def test_a_prefix_of_another_service_is_not_taken_over_silently(file: File) -> None:
    found = file.problems('[services.loyalty]\nprefixes = ["sales"]\ntenant_scoped = false\n')
    assert found == [
        "gateway.toml [services.loyalty]: /api/v1/sales/** belongs to the service sales: move it with [[routes]]"
    ]


def test_types_of_fields_agree_with_the_catalogue() -> None:
    assert set(get_args(tables.Method)) == METHODS
    assert get_args(tables.Tier) == TIERS
    assert set(get_args(tables.Effect)) == {LOGOUT, SUBSCRIPTION_CHANGED}


def test_a_critical_route_can_be_made_an_ordinary_one(file: File) -> None:
    settings = file.load(
        """
        [[routes]]
        pattern = "/api/v1/tenants/{tenant_id}/**"
        methods = ["DELETE"]
        critical = ""
        """
    )
    [row] = [
        row
        for row in settings.routes
        if row.pattern == "/api/v1/tenants/{tenant_id}/**" and "DELETE" in (row.methods or ())
    ]
    assert row.critical is None


def test_a_tenants_limit_is_the_tenants_however_it_is_spelled(file: File) -> None:
    tenant = "6f1c9f0e-ab12-4cde-8f00-00000000000a"
    text = f"""
        [limits.tenants.{tenant.upper()}]
        requests = 1
        window = 1
        """
    assert list(file.load(text).tenant_limits) == [tenant]
    text += f"""
        [limits.tenants.{tenant}]
        requests = 2
        window = 1
        """
    assert file.problems(text) == [
        f"gateway.toml [limits.tenants.{tenant}]: is the same tenant as another table's: a UUID is one in any case"
    ]
