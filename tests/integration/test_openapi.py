"""`/openapi.json` of a real gateway before the stub platform: complete, honest about what is missing, and kept."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from demo.platform.messages import Request, Response
from demo.platform.platform import Platform, running_platform
from kernel.server.embedded_store import EmbeddedStore
from tests.support.inprocess import Local, local_gateway
from tests.support.store import until
from tests.support.tokens import access_token, service_token

ADMIN = {"ENVIRONMENT": "prod", "HTTPS_ONLY": "false", "ADMIN_ALLOW": "198.51.100.0/24"}


@pytest.fixture
async def platform() -> AsyncIterator[Platform]:
    async with running_platform() as platform:
        yield platform


def urls(platform: Platform) -> dict[str, str]:
    return {platform.services[name].variable: url for name, url in platform.urls.items()}


def replace(platform: Platform, service: str, body: bytes | None) -> None:
    """Have `service` answer with `body` instead of its document; None: not at all."""
    dispatch = platform.services[service].server.dispatch

    def answer(request: Request) -> Any:
        if request.path != "/openapi.json":
            return dispatch(request)
        return Response(200, body) if body is not None else asyncio.Event().wait()

    platform.services[service].server.dispatch = answer


async def document(gateway: Local) -> dict[str, Any]:
    reply = await gateway.ask("GET", "/openapi.json")
    assert reply.status == 200
    return reply.document


async def test_all_services_are_in_it_and_it_is_valid(
    platform: Platform, store_server: EmbeddedStore, tmp_path: Path
) -> None:
    replace(platform, "inventory", b"<html>")
    await platform.stop_service("orders")
    replace(platform, "recipes", b'{"openapi":"3.1.0","paths":{},"x":"' + b"x" * 1_100_000 + b'"}')
    async with local_gateway(store_server.url, tmp_path, (), None, **urls(platform)) as gateway:
        first = await document(gateway)
        assert list(OpenAPIV31SpecValidator(small(first)).iter_errors()) == []
        states = first["x-services"]
        assert {name for name, state in states.items() if not state["included"]} == {
            "inventory",
            "orders",
            "recipes",
        }
        for name in ("inventory", "orders", "recipes"):
            assert states[name]["reason"]
            assert name in first["info"]["description"]
        assert states["orders"]["reason"] == "service unreachable"
        assert "/api/v1/geocode" in first["paths"]
        assert "/api/v1/orders/customers" not in first["paths"]
        item = first["components"]["schemas"]["PosItem"]
        assert item["properties"]["name"] == {"type": "string", "examples": ["Caja 1"]}


def small(whole: dict[str, Any]) -> dict[str, Any]:
    """The document with fewer paths: the validator takes seconds for all."""
    kept = {path: item for path, item in whole["paths"].items() if "tenant_id" not in path}
    return {**whole, "paths": kept}


async def test_a_service_that_hangs_holds_nobody_up_for_long_and_is_asked_again(
    platform: Platform, store_server: EmbeddedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("handlers.openapi._SERVICE_SECONDS", 0.3)
    monkeypatch.setattr("kernel.openapi.documents._INCOMPLETE_SECONDS", 0.0)
    dispatch = platform.services["sales"].server.dispatch
    replace(platform, "sales", None)
    async with local_gateway(store_server.url, tmp_path, (), None, **urls(platform)) as gateway:
        # Nobody asks twice for the same: the services see one request each.
        answers = await asyncio.gather(*(gateway.ask("GET", "/openapi.json") for _ in range(5)))
        assert len({reply.body for reply in answers}) == 1
        assert platform.services["pos"].server.counters.requests <= 2  # the other is a health probe
        assert answers[0].document["x-services"]["sales"] == {
            "included": False,
            "reason": "service did not answer in time",
        }
        platform.services["sales"].server.dispatch = dispatch
        latest = answers[0].document

        def complete() -> bool:
            return bool(latest["x-services"]["sales"]["included"])

        for _ in range(100):
            latest = await document(gateway)
            if complete():
                break
            await asyncio.sleep(0.05)
        await until(complete)
        assert "Not in here" not in latest["info"]["description"]


async def test_it_is_revalidated_by_its_etag(
    platform: Platform, store_server: EmbeddedStore, tmp_path: Path
) -> None:
    async with local_gateway(store_server.url, tmp_path, (), None, **urls(platform)) as gateway:
        first = await gateway.ask("GET", "/openapi.json")
        etag = first.header("etag")
        assert etag
        assert first.header("cache-control") == "no-cache"
        assert first.header("content-type") == "application/json"
        for given in (etag, f"W/{etag}", f'"x", {etag}', "*"):
            again = await gateway.ask("GET", "/openapi.json", headers={"if-none-match": given})
            assert (again.status, again.body, again.header("etag")) == (304, b"", etag)
        other = await gateway.ask("GET", "/openapi.json", headers={"if-none-match": '"x"'})
        assert other.body == first.body
        head = await gateway.ask("HEAD", "/openapi.json")
        assert (head.status, head.body, head.header("content-length")) == (200, b"", str(len(first.body)))


async def test_outside_development_it_is_for_admins_only(
    platform: Platform, store_server: EmbeddedStore, tmp_path: Path
) -> None:
    env = {**urls(platform), **ADMIN, "REDIS_URL": store_server.url}
    async with local_gateway(store_server.url, tmp_path, (), None, **env) as gateway:
        stranger = "203.0.113.9"
        for target in ("/openapi.json",):
            assert (await gateway.ask("GET", target, client=stranger)).status == 404
            assert (await gateway.ask("GET", target, access_token(), client=stranger)).status == 404
            assert (await gateway.ask("GET", target, service_token(), client=stranger)).status == 200
            assert (await gateway.ask("GET", target, client="198.51.100.7")).status == 200


async def test_each_version_has_a_document_of_its_own(
    platform: Platform, store_server: EmbeddedStore, tmp_path: Path
) -> None:
    config = Path(__file__).parents[2] / "demo" / "gateway.toml"
    variables = {**urls(platform), **platform.beside_urls, "GATEWAY_CONFIG": str(config)}
    async with local_gateway(store_server.url, tmp_path, (), None, **variables) as gateway:
        first = await document(gateway)
        assert (await gateway.ask("GET", "/openapi.json?version=v1")).document == first
        assert first["paths"]["/api/v1/inventory/items"]["get"]["deprecated"] is True
        assert "deprecated" not in first["paths"]["/api/v1/sales/records"]["get"]
        assert not [path for path in first["paths"] if path.startswith("/api/v2/")]
        second = (await gateway.ask("GET", "/openapi.json?version=v2")).document
        assert list(OpenAPIV31SpecValidator(second).iter_errors()) == []
        assert set(second["paths"]) == {
            f"/api/v2/{scope}inventory/items{one}"
            for scope in ("", "tenants/{tenant_id}/")
            for one in ("", "/{id}")
        }
        assert [each["version"] for each in second["x-versions"]] == ["v1", "v2"]
        unknown = await gateway.ask("GET", "/openapi.json?version=v3")
        assert (unknown.status, unknown.code) == (404, "version-unknown")
        assert unknown.document["detail"] == "There are documents of: v1, v2."
