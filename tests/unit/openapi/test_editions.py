"""A document for each version, and public paths for what is rewritten."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel.openapi.editions import Edition, editions
from kernel.openapi.maker import Maker
from kernel.openapi.routed import Table, routed_to
from kernel.openapi.together import merged
from kernel.routing.catalog import RouteRow
from kernel.traffic.forwarding import path_of
from tests.support.config import File

OWN = b'{"openapi":"3.1.0","info":{},"paths":{}}'
CONFIG = """
[services.pos]
strip_prefix = "/api/v1"
[services.pos.versions.v1]
deprecated = 2020-01-01
sunset = 2100-01-01
successor = "v2"
[services.pos.versions.v2]
prefix = "/second"
[services.orders.versions.v2]
url = "http://orders-v2"
[services.tenant.versions.v3]
deprecated = 2100-01-01
"""


@pytest.fixture
def found(tmp_path: Path) -> dict[str, Edition]:
    settings = File(tmp_path / "gateway.toml").load(CONFIG)
    return editions(settings.service_catalog, settings.routes)


def described(*paths: str) -> bytes:
    operation = {"operationId": "list", "responses": {"200": {"description": ""}}}
    return msgspec.json.encode(
        {"openapi": "3.1.0", "info": {}, "paths": {path: {"get": operation} for path in paths}}
    )


def document(edition: Edition, **services: bytes) -> dict[str, Any]:
    body, _ = merged(OWN, services, edition.rows, edition.version, edition.index)
    made: dict[str, Any] = msgspec.json.decode(body)
    return made


def test_each_version_has_its_services_by_who_answers_for_them(found: dict[str, Edition]) -> None:
    assert list(found) == ["v1", "v2", "v3"]
    assert {service.name for service in found["v2"].services} == {"pos", "orders"}
    assert found["v2"].upstreams == {"pos": "pos", "orders": "orders.v2"}
    assert {row.version for row in found["v2"].rows} == {"v2"}
    assert {row.version for row in found["v1"].rows} == {"", "v1"}


def test_documents_show_the_paths_that_clients_use(found: dict[str, Edition]) -> None:
    made = document(found["v1"], pos=described("/pos/terminals/{id}", "/second/pos/terminals", "/elsewhere"))
    assert list(made["paths"]) == ["/api/v1/pos/terminals/{id}"]
    made = document(
        found["v2"],
        pos=described("/pos/terminals", "/second/pos/terminals", "/second/tenants/{tenant_id}/pos/terminals"),
        orders=described("/api/v2/orders", "/api/v1/orders"),
    )
    assert list(made["paths"]) == [
        "/api/v2/orders",
        "/api/v2/pos/terminals",
        "/api/v2/tenants/{tenant_id}/pos/terminals",
    ]
    assert made["info"]["title"] == "Bakery Gateway, v2"


def test_what_is_deprecated_says_so_once_it_is(found: dict[str, Edition]) -> None:
    first = document(found["v1"], pos=described("/pos/x"), orders=described("/api/v1/orders"))
    assert first["paths"]["/api/v1/pos/x"]["get"]["deprecated"] is True
    assert "deprecated" not in first["paths"]["/api/v1/orders"]["get"]
    third = document(found["v3"], tenant=described("/api/v3/tenants"))
    assert "deprecated" not in third["paths"]["/api/v3/tenants"]["get"]


def test_every_document_tells_of_all(found: dict[str, Edition]) -> None:
    for edition in found.values():
        index = document(edition)["x-versions"]
        assert [each["document"] for each in index] == [
            f"/openapi.json?version={v}" for v in ("v1", "v2", "v3")
        ]
        told = {"deprecated": "2020-01-01T00:00:00Z", "sunset": "2100-01-01T00:00:00Z", "successor": "v2"}
        assert index[0]["services"]["pos"] == told
        assert index[0]["services"]["sales"] == {}
        assert index[1]["services"] == {"pos": {}, "orders": {}}


def test_without_versions_nothing_is_told_of_them(tmp_path: Path) -> None:
    settings = File(tmp_path / "gateway.toml").load("")
    (only,) = editions(settings.service_catalog, settings.routes).values()
    assert "x-versions" not in document(only)
    assert len(only.rows) == len(settings.routes)


def test_the_process_that_makes_it_makes_the_same(found: dict[str, Edition]) -> None:
    edition = found["v2"]
    given_: dict[str, bytes | str] = {"pos": described("/second/pos/terminals"), "orders": "is down"}
    assert Maker(edition)(OWN, given_) == merged(OWN, given_, edition.rows, edition.version, edition.index)


NAMES = st.sampled_from(["{id}", "{item}", "a", "b"])


@given(st.lists(NAMES, min_size=1, max_size=4, unique=True), st.data(), st.booleans())
def test_a_public_path_is_one_that_is_sent_as_the_documents_path(
    pattern: list[str], data: st.DataObject, rest: bool
) -> None:
    wanted = data.draw(
        st.lists(st.sampled_from([*(s for s in pattern if s[0] == "{"), "v3", "x"]), max_size=4)
    )
    tail = ["**"] if rest else []
    row = RouteRow(
        pattern="/" + "/".join(["api", *pattern, *tail]),
        service="pos",
        rewrite="/" + "/".join([*wanted, *tail]),
    )
    values = {"{id}": "7", "{item}": "8"}
    given_ = [values.get(segment, segment) for segment in wanted]
    path = "/" + "/".join(
        [*given_, *(data.draw(st.lists(st.sampled_from("yz"), max_size=2)) if rest else [])]
    )
    table = Table((row,))
    for public, rows in routed_to(table, "pos")(path):
        assert set(rows.values()) == {row}
        # A variable that is not sent is anything.
        raw = public.replace("{id}", "1").replace("{item}", "2").encode()
        _, params = table.trie.match(raw)
        assert path_of(row.pattern, row.rewrite)(raw, params).decode() == path
        break
    else:
        pytest.fail("no public path was found")
