"""`[services.x.canary]` and `[services.x.mirror]`: what they come to, and every flaw told at its field, all at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from kernel.config.errors import ConfigErrors
from kernel.config.loading import load, load_with_warnings
from kernel.config.settings import Settings
from kernel.routing.catalog import Service
from kernel.routing.traffic import Canary, Mirror
from tests.support.grpc_service import DESCRIPTORS

URL = 'url = "http://next:8000"'


def settings(tmp_path: Path, text: str, **environment: str) -> Settings:
    file = tmp_path / "gateway.toml"
    file.write_text(text)
    return load({"GATEWAY_CONFIG": str(file), **environment})


def sales(tmp_path: Path, text: str, **environment: str) -> Service:
    catalog = settings(tmp_path, text, **environment).service_catalog
    return next(service for service in catalog if service.name == "sales")


def errors(tmp_path: Path, text: str, **environment: str) -> list[str]:
    with pytest.raises(ConfigErrors) as caught:
        settings(tmp_path, text, **environment)
    return [str(error).removeprefix("gateway.toml ") for error in caught.value.errors]


def test_by_default_no_service_has_any(tmp_path: Path) -> None:
    service = sales(tmp_path, "[services.sales]\npublic = true")
    assert (service.canary, service.mirror) == (None, None)


def test_a_canary(tmp_path: Path) -> None:
    assert sales(tmp_path, f"[services.sales.canary]\n{URL}\npercent = 5").canary == Canary(
        ("http://next:8000",), 5.0
    )
    text = (
        '[services.sales.canary]\nurl = ["http://next-1:8000", "unix:///run/next"]\npercent = 0.25\n'
        'sticky = "tenant"\nheader = "x-release=beta-2"'
    )
    urls = ("http://next-1:8000", "unix:///run/next")
    assert sales(tmp_path, text).canary == Canary(urls, 0.25, "tenant", "x-release", "beta-2")


def test_a_mirror(tmp_path: Path) -> None:
    found = sales(tmp_path, f"[services.sales.mirror]\n{URL}\npercent = 12.5").mirror
    assert found == Mirror(("http://next:8000",), 12.5, frozenset({"GET", "HEAD"}), 5.0)
    text = f'[services.sales.mirror]\n{URL}\npercent = 100\nmethods = ["GET", "POST"]\ntimeout = 0.5'
    found = sales(tmp_path, text).mirror
    assert found == Mirror(("http://next:8000",), 100.0, frozenset({"GET", "HEAD", "POST"}), 0.5)


def test_a_service_of_the_file_has_them_too(tmp_path: Path) -> None:
    text = (
        f'[services.loyalty]\nurl = "http://loyalty:8000"\n[services.loyalty.canary]\n{URL}\npercent = 1\n'
        f"[services.loyalty.mirror]\n{URL}\npercent = 1"
    )
    service = settings(tmp_path, text).service_catalog[-1]
    assert service.name == "loyalty"
    assert service.canary is not None
    assert service.mirror is not None


CANARY_FLAWS = [
    ("percent = 5", "url: is needed"),
    (URL, "percent: is needed"),
    (f"{URL}\npercent = 101", "percent: expected `float` <= 100.0"),
    (f"{URL}\npercent = -0.1", "percent: expected `float` >= 0.0"),
    (f"{URL}\npercent = nan", "percent: "),
    (f"{URL}\npercent = inf", "percent: "),
    (f"{URL}\npercent = 0.125", "percent: 0.125 has more than two decimals"),
    (f'{URL}\npercent = "5"', "percent: expected `float`, got `str`"),
    ('url = "next:8000"\npercent = 5', "url: the URL must start with http:// or https:// or unix://"),
    ('url = "http://next:8000/v2"\npercent = 5', "url: 'http://next:8000/v2' has more than"),
    ("url = []\npercent = 5", "url: no URL is given"),
    (f'{URL}\npercent = 5\nsticky = "session"', "sticky: 'session' is not one of user, tenant"),
    (f'{URL}\npercent = 5\nheader = "Authorization"', "header: "),
    (f'{URL}\npercent = 5\nheader = "accept"', "header: "),
    (f'{URL}\npercent = 5\nheader = "x-canary: always"', "header: "),
    (f'{URL}\npercent = 5\nheader = "x-canary="', "header: "),
    (f'{URL}\npercent = 5\nheader = "x-user-id"', "header: x-user-id is a header that the gateway itself"),
    (f'{URL}\npercent = 5\nheader = "x-tenant-id=a"', "header: x-tenant-id is a header that the gateway"),
    (f'{URL}\npercent = 5\nheader = "x-mirrored"', "header: x-mirrored is a header that the gateway itself"),
    (f'{URL}\npercent = 5\nheader = "x-forwarded-for"', "header: x-forwarded-for is a header that the"),
    (f"{URL}\npercent = 5\npercnt = 5", "percnt: is unknown; did you mean percent?"),
]


@pytest.mark.parametrize(("text", "expected"), CANARY_FLAWS)
def test_what_is_wrong_with_a_canary(tmp_path: Path, text: str, expected: str) -> None:
    (found,) = errors(tmp_path, f"[services.sales.canary]\n{text}")
    assert found.startswith(f"[services.sales.canary] {expected}")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("percent = 5", "url: is needed"),
        (URL, "percent: is needed"),
        (f"{URL}\npercent = 100.1", "percent: expected `float` <= 100.0"),
        (f"{URL}\npercent = 5\nmethods = []", "methods: expected `array` of length >= 1"),
        (f'{URL}\npercent = 5\nmethods = ["FETCH"]', "methods[0]: 'FETCH' is not one of DELETE, GET,"),
        (f"{URL}\npercent = 5\ntimeout = 0", "timeout: expected `float` > 0.0"),
        (f"{URL}\npercent = 5\ntimeout = 61", "timeout: expected `float` <= 60.0"),
        (
            f"{URL}\npercent = 5\nsticky = true",
            "sticky: is unknown; there are methods, percent, timeout, url",
        ),
    ],
)
def test_what_is_wrong_with_a_mirror(tmp_path: Path, text: str, expected: str) -> None:
    (found,) = errors(tmp_path, f"[services.sales.mirror]\n{text}")
    assert found.startswith(f"[services.sales.mirror] {expected}")


def test_all_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    text = (
        '[services.sales.canary]\npercent = 500\nheader = "x-user-role"\nsticky = 1\n'
        "[services.sales.mirror]\ntimeout = 0\n[services.sales]\npublic = 1"
    )
    assert len(errors(tmp_path, text)) == 8


def test_a_table_that_is_none(tmp_path: Path) -> None:
    assert errors(tmp_path, "[services.sales]\ncanary = 5")[0].startswith(
        "[services.sales] canary: expected `object`, got `int`"
    )


@pytest.mark.parametrize("kind", ["canary", "mirror"])
def test_a_service_does_not_stand_beside_itself(tmp_path: Path, kind: str) -> None:
    text = f'[services.sales.{kind}]\nurl = "http://SALES:80"\npercent = 5'
    expected = f"[services.sales.{kind}] url: http://sales is the service's own"
    (found,) = errors(tmp_path, text, SALES_SERVICE_URL="http://other:8000,http://sales")
    assert found.startswith(expected)
    assert settings(tmp_path, text, SALES_SERVICE_URL="http://other:8000")


@pytest.mark.parametrize("kind", ["canary", "mirror"])
def test_no_service_may_have_its_name(tmp_path: Path, kind: str) -> None:
    text = f'[services.sales.{kind}]\n{URL}\npercent = 5\n[services.sales-{kind}]\nurl = "http://other:8000"'
    (found,) = errors(tmp_path, text)
    assert found == f"[services.sales.{kind}]: is called sales-{kind}, as a service is: rename the service"


@pytest.mark.parametrize("kind", ["canary", "mirror"])
def test_what_speaks_grpc_has_none_and_is_none(tmp_path: Path, kind: str) -> None:
    text = (
        f'[services.ovens]\nprotocol = "grpc"\ndescriptors = "{DESCRIPTORS}"\nurl = "grpc://ovens:50051"\n'
        f"[services.ovens.{kind}]\n{URL}\npercent = 5\n"
    )
    (found,) = errors(tmp_path, text)
    assert found.startswith(f"[services.ovens] {kind}: is for services that speak HTTP")
    (found,) = errors(tmp_path, f'[services.sales.{kind}]\nurl = "grpc://next:50051"\npercent = 5\n')
    assert found.startswith(f"[services.sales.{kind}] url: is a grpc URL")


def test_the_environment_names_other_urls(tmp_path: Path) -> None:
    text = f'[services.sales.canary]\n{URL}\npercent = 5\nheader = "x-canary"\n[services.sales.mirror]\n{URL}\npercent = 1'
    service = sales(
        tmp_path,
        text,
        SALES_SERVICE_URL_CANARY="http://a:1,http://b:1",
        SALES_SERVICE_URL_MIRROR="unix:///run/x",
    )
    assert service.canary == Canary(("http://a:1", "http://b:1"), 5.0, header="x-canary")
    assert service.mirror == Mirror(("unix:///run/x",), 1.0)
    (found,) = errors(tmp_path, text, SALES_SERVICE_URL_CANARY="next:1")
    assert found.startswith("SALES_SERVICE_URL_CANARY: the URL must start with http://")
    (found,) = errors(tmp_path, text, SALES_SERVICE_URL_MIRROR="http://x", SALES_SERVICE_URL="http://x")
    assert found.startswith("SALES_SERVICE_URL_MIRROR: http://x is the service's own")


def test_a_variable_of_what_is_not_there_is_told_of(tmp_path: Path) -> None:
    def told(text: str) -> list[str]:
        file = tmp_path / "gateway.toml"
        file.write_text(text)
        environment = {"GATEWAY_CONFIG": str(file), "SALES_SERVICE_URL_CANARY": "http://next:8000"}
        return [each.problem for each in load_with_warnings(environment).warnings]

    before = told("")
    (found,) = set(before) - set(told(f"[services.sales.canary]\n{URL}\npercent = 5"))
    assert found == "is not read: gateway.toml has no [services.sales.canary]"
