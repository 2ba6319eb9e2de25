"""gateway.toml with many rows, with several errors in one row, and with rows that take methods away."""

from __future__ import annotations

from pathlib import Path
from time import process_time

import pytest
from msgspec.structs import replace

from kernel.cli.settings import usable_keys, usable_routes
from kernel.config import ConfigErrors, load_with_warnings
from kernel.routing.catalog import Limit, RouteRow
from kernel.routing.platform import ROUTES
from tests.support.config import File


@pytest.fixture
def file(tmp_path: Path) -> File:
    return File(tmp_path / "gateway.toml")


def doubts(file: File, text: str) -> list[str]:
    file.path.write_text(text)
    loaded = load_with_warnings({"GATEWAY_CONFIG": str(file.path)}, None, (usable_routes,))
    return [f"{warning.variable}: {warning.problem}" for warning in loaded.warnings]


def test_thousands_of_rows_and_hundreds_of_services_are_read_in_linear_time(file: File) -> None:
    services = "".join(
        f'[services.svc{n}]\nmin_tier = "professional"\nprefixes = ["s{n}"]\n' for n in range(500)
    )
    rows = "".join(
        f'[[routes]]\npattern = "/api/v1/s{n % 500}/r{n}"\nservice = "svc{n % 500}"\n'
        "limit = {requests = 5, window = 60}\n"
        for n in range(5000)
    )
    file.path.write_text(services + rows)
    began = process_time()
    loaded = load_with_warnings({"GATEWAY_CONFIG": str(file.path)}, None, (usable_keys, usable_routes))
    # 0.4 s here; half a minute when each row made a new table of all.
    assert process_time() - began < 5
    # A service has its prefix, the same and its name below a tenant; each row has a twin there.
    assert len(loaded.settings.routes) == len(ROUTES) + 500 * 3 + 5000 * 2


def test_as_many_errors_are_told_in_linear_time(file: File) -> None:
    file.path.write_text("".join(f'[[routes]]\npattern = "/x/{n}"\nservice = "no{n}"\n' for n in range(3000)))
    began = process_time()
    with pytest.raises(ConfigErrors) as raised:
        load_with_warnings({"GATEWAY_CONFIG": str(file.path)}, None, (usable_routes,))
    assert process_time() - began < 10
    assert len(raised.value.errors) == 3000


def test_everything_that_is_wrong_with_a_row_is_told_at_once(file: File) -> None:
    text = """
        [[routes]]
        pattern = "api/v1/{Bad}/**/x"
        service = "inventori"
        methods = ["HEAD"]
        max_body = "much"

        [[routes]]
        pattern = "/api/v1/{Bad}"
        service = "inventori"
        public = true
        min_tier = "professional"

        [[routes]]
        pattern = "/api/v1/inventory/../x"
        service = "nobody"
        timeout = "long"
        colour = "red"

        [[routes]]
        pattern = ["/x"]
        service = "nobody"
        methods = ["HEAD"]

        [[routes]]
        timeout = "long"
        max_body = "much"
    """
    expected = [
        "#1 (api/v1/{Bad}/**/x): a pattern starts with '/'",
        "#1 (api/v1/{Bad}/**/x) service: is unknown; did you mean inventory?",
        "#1 (api/v1/{Bad}/**/x) methods: HEAD goes with GET",
        "#1 (api/v1/{Bad}/**/x) max_body: 'much' is not a size in bytes, KiB, MiB or GiB",
        "#2 (/api/v1/{Bad}): '{Bad}' is not a literal, a {name} or a trailing '**'",
        "#2 (/api/v1/{Bad}) service: is unknown; did you mean inventory?",
        "#2 (/api/v1/{Bad}): a public route knows no identity: min_tier cannot be checked",
        "#3 timeout: expected `float`, got `str`",
        "#3 colour: is unknown",
        "#3 (/api/v1/inventory/../x): no request can match it: ",
        "#3 (/api/v1/inventory/../x) service: is unknown",
        "#4 pattern: expected `str`, got `array`",
        "#4 service: is unknown",
        "#4 methods: HEAD goes with GET",
        "#5 timeout: expected `float`, got `str`",
        "#5 pattern: is needed",
        "#5 max_body: 'much' is not a size",
    ]
    found = file.problems(text)
    assert len(found) == len(expected)
    for told, start in zip(found, expected, strict=True):
        assert told.startswith(f"gateway.toml [[routes]] {start}")


def test_a_row_that_takes_methods_from_a_wider_pattern_is_warned_about(file: File) -> None:
    limited = """
        [[routes]]
        pattern = "/api/v1/inventory/items"
        service = "inventory"
        methods = ["GET"]
        limit = {requests = 5, window = 60}
    """
    assert doubts(file, limited) == [
        "gateway.toml [[routes]] #1 (/api/v1/inventory/items) methods: DELETE, OPTIONS, PATCH, POST, PUT: answered 405 "
        "here, since this pattern is chosen before /api/v1/inventory/**, which takes them. Leave methods out, or add a "
        "table for the other methods"
    ]
    rest = """
        [[routes]]
        pattern = "/api/v1/inventory/items"
        service = "inventory"
        methods = ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
    """
    assert doubts(file, limited + rest) == []


@pytest.mark.parametrize(
    "row",
    [
        # All methods; the pattern itself, whose other methods go on; a WebSocket; all but OPTIONS; nothing was there.
        'pattern = "/api/v1/inventory/items"\nservice = "inventory"',
        'pattern = "/api/v1/inventory/**"\nmethods = ["GET"]\ntimeout = 5',
        'pattern = "/api/v1/auth/login"\nlimit = {requests = 10, window = 60}',
        'pattern = "/api/v1/inventory/live"\nservice = "inventory"\nwebsocket = true',
        'pattern = "/api/v1/inventory/items"\nservice = "inventory"\nmethods = ["GET", "POST", "PUT", "PATCH", "DELETE"]',
        'pattern = "/elsewhere"\nservice = "inventory"\nmethods = ["GET"]',
    ],
)
def test_a_row_that_takes_nothing_away_is_not(row: str, file: File) -> None:
    assert doubts(file, f"[[routes]]\n{row}\n") == []


def test_of_many_such_rows_the_first_are_named_and_the_others_counted(file: File) -> None:
    row = '[[routes]]\npattern = "/api/v1/inventory/x{}"\nservice = "inventory"\nmethods = ["GET"]\n'
    found = doubts(file, "".join(row.format(number) for number in range(30)))
    assert len(found) == 21
    assert found[-1] == "gateway.toml [[routes]]: 10 more rows take methods away like that"


def test_a_table_of_a_service_may_take_methods_away(file: File) -> None:
    assert doubts(file, '[services.inventory]\nmethods = ["GET"]\n') == []


def test_a_service_with_a_name_that_cannot_be_has_its_fields_looked_at_too(file: File) -> None:
    assert len(file.problems('[services.Bad]\ntimeout = "long"\ncolour = 1\n')) == 3


def test_a_new_row_demands_what_its_services_table_does(file: File) -> None:
    demands = """
        [services.sales]
        ip_allow = ["10.0.0.0/8"]
        ip_deny = ["10.1.0.0/16"]
        service_only = true
        min_tier = "professional"
        limit = {requests = 5, window = 60}
        timeout = 7
        idempotency = "required"
        strip_prefix = "/api/v1"
        set_headers = {x-channel = "gateway"}
        [services.sales.versions.v2]
    """
    table = '[[routes]]\npattern = "/api/v1/sales/exports/{id}"\nservice = "sales"\n'
    by_pattern = {row.pattern: row for row in file.load(f"{demands}\n{table}capture = false\n").routes}
    for scope in ("/api/v1", "/api/v2", "/api/v1/tenants/{tenant_id}", "/api/v2/tenants/{tenant_id}"):
        general, new = (by_pattern[f"{scope}/sales/{rest}"] for rest in ("**", "exports/{id}"))
        assert new.capture is False
        assert new.rewrite == (
            "" if "v2" in scope else f"{scope}/sales/exports/{{id}}".removeprefix("/api/v1")
        )
        assert replace(new, pattern=general.pattern, capture=None, rewrite=general.rewrite) == general


def test_a_new_row_has_its_own_words_where_it_says_so(file: File) -> None:
    service = """
        [services.sales]
        ip_allow = ["10.0.0.0/8"]
        service_only = true
        min_tier = "professional"
        limit = {requests = 5, window = 60}
        graphql = true
        allow_encoded_slash = true
        response_headers = {server = ""}
        rewrite = "/all"
    """
    text = (
        service
        + """
        [[routes]]
        pattern = "/api/v1/sales/open"
        service = "sales"
        public = true
        graphql = false
        ip_allow = []
        limit = {requests = 9, window = 60}
        [[routes]]
        pattern = "/api/v1/sales/ws"
        service = "sales"
        websocket = true
    """
    )
    by_pattern = {row.pattern: row for row in file.load(text).routes}
    assert by_pattern["/api/v1/sales/open"] == RouteRow(
        pattern="/api/v1/sales/open",
        service="sales",
        public=True,
        limit=Limit(9, 60),
        response_headers=(("server", ""),),
    )
    assert by_pattern["/api/v1/sales/ws"] == RouteRow(
        pattern="/api/v1/sales/ws",
        methods=frozenset({"GET", "HEAD"}),
        service="sales",
        websocket=True,
        service_only=True,
        min_tier="professional",
        limit=Limit(5, 60),
        limit_key="sales",
        ip_allow=("10.0.0.0/8",),
    )


def test_a_new_row_of_a_service_that_says_it_is_public_needs_a_token_until_it_says_so_too(file: File) -> None:
    text = '[services.sales]\npublic = true\n[[routes]]\npattern = "/api/v1/sales/x"\nservice = "sales"\n'
    by_pattern = {row.pattern: row for row in file.load(text).routes}
    assert by_pattern["/api/v1/sales/**"].public
    assert not by_pattern["/api/v1/sales/x"].public


def test_a_row_that_takes_a_path_from_one_that_demands_more_is_told(file: File) -> None:
    scope = "/api/v1/tenants/{tenant_id}/subscription"
    text = f"""
        [[routes]]
        pattern = "{scope}/upgrade"
        service = "tenant"
        [[routes]]
        pattern = "{scope}/downgrade"
        service = "tenant"
        critical = ""
        [[routes]]
        pattern = "/api/v1/sales/exports/**"
        service = "sales"
        min_tier = "professional"
        [[routes]]
        pattern = "/api/v1/sales/exports/a/b"
        service = "sales"
        [[routes]]
        pattern = "/api/v1/sales/exports/open"
        service = "sales"
        public = true
    """
    told = [doubt for doubt in doubts(file, text) if "is chosen before" in doubt and "of which" in doubt]
    end = "of which it has not: {}. Say it here too, or that there is none"
    exports = "/api/v1/sales/exports"
    assert told == [
        f"gateway.toml [[routes]] ({scope}/upgrade): is chosen before {scope}/**, {end.format('critical, effect')}",
        f"gateway.toml [[routes]] ({exports}/a/b): is chosen before {exports}/**, {end.format('min_tier')}",
    ]
