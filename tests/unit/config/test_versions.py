"""Versions of gateway.toml: what the tables come to, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from kernel.config import load
from kernel.config.loading import load_with_warnings
from kernel.routing.catalog import Lifecycle, RouteRow, destinations
from tests.support.config import File, problems
from tests.support.grpc_service import DESCRIPTORS

SCOPE = "tenants/{tenant_id}/"


@pytest.fixture
def file(tmp_path: Path) -> File:
    return File(tmp_path / "gateway.toml")


def rows(file: File, text: str) -> dict[str, RouteRow]:
    return {row.pattern: row for row in file.load(text).routes}


def lives(file: File, text: str) -> dict[tuple[str, str], Lifecycle]:
    catalog = file.load(text).service_catalog
    return {(service.name, each.name): each.life for service in catalog for each in service.versions}


def test_without_a_table_nothing_is_other_than_it_was(file: File) -> None:
    assert file.load("") == load({"GATEWAY_CONFIG": str(file.path)})
    assert all(not row.version and row.life is None for row in file.load("").routes)


@pytest.mark.parametrize(
    ("said", "upstream", "sent"),
    [
        ("", "pos", ""),
        ('prefix = "/v2"', "pos", "/v2/pos/**"),
        ('prefix = "/v2/"', "pos", "/v2/pos/**"),
        ('prefix = "/"', "pos", "/pos/**"),
        ('prefix = "/api/v2"', "pos", ""),
        ('url = "http://pos-v2"', "pos.v2", ""),
        ('url = ["http://a", "http://b"]\nprefix = "/api/v1"', "pos.v2", "/api/v1/pos/**"),
    ],
)
def test_where_a_version_is(file: File, said: str, upstream: str, sent: str) -> None:
    found = rows(file, f"[services.pos.versions.v2]\n{said}")
    for scope in ("", SCOPE):
        row = found[f"/api/v2/{scope}pos/**"]
        assert (row.asked, row.service, row.version) == (upstream, "pos", "v2")
        assert row.rewrite == sent.replace("/pos", f"/{scope}pos")
    assert found["/api/v1/pos/**"].asked == "pos"


def test_a_version_with_replicas_of_its_own_is_asked_and_trusted_as_its_service(file: File) -> None:
    text = '[services.pos]\nhealth = "/well"\n[services.pos.versions.v2]\nurl = "http://a"'
    settings = file.load(text)
    assert settings.services["pos.v2"] == ("http://a",)
    (second,) = [each for each in destinations(settings.service_catalog) if each.name == "pos.v2"]
    assert (second.health, second.env) == ("/well", "POS_SERVICE_URL_V2")
    assert file.load(text, POS_SERVICE_URL_V2="http://b,http://c").services["pos.v2"] == (
        "http://b",
        "http://c",
    )
    assert "POS_SERVICE_URL_V2" in problems(
        {"GATEWAY_CONFIG": str(file.path), "POS_SERVICE_URL_V2": "nonsense"}
    )


def test_a_variable_that_would_override_nothing_is_warned_of(file: File) -> None:
    file.path.write_text("[services.pos.versions.v2]")
    given = {"GATEWAY_CONFIG": str(file.path), "POS_SERVICE_URL_V2": "http://b"}
    (warning,) = [w for w in load_with_warnings(given).warnings if w.variable == "POS_SERVICE_URL_V2"]
    assert "[services.pos.versions.v2] has no url" in warning.problem


def test_a_version_has_all_that_is_demanded_at_v1_and_a_row_of_its_own_the_last_word(file: File) -> None:
    found = rows(
        file,
        """
        [services.pos]
        service_only = true
        [services.pos.versions.v2]
        [[routes]]
        pattern = "/api/v2/pos/refunds/**"
        min_tier = "enterprise"
        [[routes]]
        pattern = "/api/v1/pos/refunds/**"
        service = "pos"
        min_tier = "professional"
        limit = {requests = 3, window = 60}
        timeout = 5
        [[routes]]
        pattern = "/api/v2/pos/new/{id}"
        service = "pos"
        """,
    )
    for scope in ("", SCOPE):
        assert found[f"/api/v2/{scope}pos/**"].service_only
        first, second = found[f"/api/v1/{scope}pos/refunds/**"], found[f"/api/v2/{scope}pos/refunds/**"]
        assert (first.min_tier, second.min_tier) == ("professional", "enterprise")
        assert second.timeout == 5
        assert second.limit_key == (first.limit_key or first.pattern) != ""
        assert found[f"/api/v2/{scope}pos/new/{{id}}"].version == "v2"
    limited = [found[f"/api/{v}/{scope}pos/refunds/**"] for v in ("v1", "v2") for scope in ("", SCOPE)]
    assert len({row.limit_key or row.pattern for row in limited}) == 1


def test_login_logout_and_billing_keep_their_rules(file: File) -> None:
    found = rows(file, "[services.auth.versions.v2]\n[services.tenant.versions.v2]")
    login, logout = found["/api/v2/auth/login"], found["/api/v2/auth/logout"]
    assert (login.public, login.attempts, login.always_writable) == (True, "login", True)
    assert logout.effect == "logout"
    by_methods = {
        (row.pattern, row.critical)
        for row in file.load("[services.tenant.versions.v2]").routes
        if row.pattern.startswith("/api/v2/tenants/{tenant_id}")
    }
    assert ("/api/v2/tenants/{tenant_id}", "delete-tenant") in by_methods
    assert ("/api/v2/tenants/{tenant_id}/", "delete-tenant") in by_methods
    assert ("/api/v2/tenants/{tenant_id}/subscription/**", "change-subscription") in by_methods


def test_lives_are_the_services_own_where_it_says_so(file: File) -> None:
    found = lives(
        file,
        """
        [versions.v1]
        deprecated = 2026-01-01
        sunset = 2027-01-01T00:00:00+01:00
        successor = "v2"
        sunset_page = "/ends"
        [services.pos.versions.v1]
        sunset = "2028-01-01"
        [services.pos.versions.v2]
        [services.sales.versions.v1]
        successor = "https://example.com/sales"
        """,
    )
    assert found["pos", "v1"] == Lifecycle(1767225600, 1830297600, "v2", "", "/ends")
    assert found["sales", "v1"].successor == "https://example.com/sales"
    # A service without a v2 has no successor, but ends all the same.
    assert found["orders", "v1"] == Lifecycle(1767225600, 1798758000, "", "", "/ends")
    assert found["pos", "v2"] == Lifecycle()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[services.pos.versions.2]", "a version is v and a number"),
        ("[services.pos.versions.v0]", "a version is v and a number"),
        ("[services.pos.versions.v1000]", "a version is v and a number"),
        ("[versions.two]", "a version is v and a number"),
        ("[versions.v3]", "no service has v3"),
        ('[versions.v1]\nsuccessor = "v2"', "no service has v2"),
        ('[versions.v1]\nurl = "http://x"', "is unknown"),
        ("[services.pos]\nversions = 5", "expected `object`"),
        ("[services.pos.versions]\nv2 = 5", "is not a table"),
        ('[services.pos.versions.v1]\nurl = "http://x"', "v1 is the service itself"),
        ('[services.pos.versions.v1]\nprefix = "/x"', "v1 is the service itself"),
        ('[services.pos.versions.v2]\nurl = "pos"', "must start with http"),
        ('[services.pos.versions.v2]\nprefix = "v2"', "prefix"),
        ('[services.pos.versions.v2]\nprefix = "/a/../b"', "dot segment"),
        ('[services.pos.versions.v2]\nprefix = "/a//b"', "empty segment"),
        ("[services.pos.versions.v1]\ndeprecated = true", "deprecated"),
        ('[services.pos.versions.v1]\ndeprecated = "soon"', "is no date or time"),
        ("[services.pos.versions.v1]\ndeprecated = 2026-01-01T00:00:00", "no offset"),
        ("[services.pos.versions.v1]\ndeprecated = 2027-01-02\nsunset = 2027-01-01", "is before deprecated"),
        ('[services.pos.versions.v1]\nsuccessor = "v2"', "there is no other"),
        ('[services.pos.versions.v2]\nsuccessor = "v3"', "is unknown"),
        ('[services.pos.versions.v2]\nsuccessor = "v2"', "is unknown"),
        ('[services.pos.versions.v2]\nsuccessor = "next"', "is not a version, a URL or a path"),
        (
            '[services.pos.versions.v2]\nsuccessor = "https://x/> ; rel=x"',
            "is not a version, a URL or a path",
        ),
        ('[services.pos.versions.v2]\ndeprecation_page = "/a\\r\\nx: y"', "is not a URL or a path"),
        ("[services.pos.versions.v2]\ncolour = 1", "is unknown"),
    ],
)
def test_what_could_not_be_meant_is_refused(file: File, text: str, problem: str) -> None:
    found = file.problems(text)
    assert any(problem in each for each in found), found


def test_a_sunset_that_has_passed_is_warned_of(file: File) -> None:
    file.path.write_text("[services.pos.versions.v1]\nsunset = 2020-01-01")
    (warning,) = [
        w for w in load_with_warnings({"GATEWAY_CONFIG": str(file.path)}).warnings if "sunset" in w.variable
    ]
    assert "of pos has passed" in warning.problem


def test_a_route_that_was_below_another_version_before_there_were_any_is_left_alone(file: File) -> None:
    found = rows(file, '[[routes]]\npattern = "/api/v2/pos/**"\nservice = "pos"')
    assert (found["/api/v2/pos/**"].version, found["/api/v2/pos/**"].asked) == ("", "pos")


def test_a_grpc_service_has_no_versions_beside_the_first(file: File) -> None:
    said = f'[services.ovens]\nprotocol = "grpc"\ndescriptors = "{DESCRIPTORS}"\nurl = "grpc://ovens:50051"\n'
    found = file.problems(said + "[services.ovens.versions.v2]")
    assert any(
        "[services.ovens.versions.v2]: a gRPC service's paths are those of its descriptors" in each
        for each in found
    )
