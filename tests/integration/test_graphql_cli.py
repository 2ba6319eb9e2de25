"""`gateway graphql schema`, and what becomes of a service's document that is missing, broken or changed."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest
from graphql import build_schema

from kernel.cli import main
from kernel.graphql.schema import text
from kernel.server.embedded_store import EmbeddedStore
from tests.support.gateway import service_env
from tests.support.graphql_services import INVENTORY, ask, running_services
from tests.support.inprocess import local_gateway
from tests.support.scripted_upstream import eventually


async def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = await asyncio.to_thread(main, ["graphql", "schema", *arguments])
    out, err = capsys.readouterr()
    return code, out, err


async def test_the_schema_is_printed_always_alike(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    async with running_services() as services:
        for name, value in {**service_env("http://127.0.0.1:9"), **services.env}.items():
            monkeypatch.setenv(name, value)
        code, first, err = await printed(capsys)
        assert code == 0
        assert (
            "inventoryItems(categories: [InventoryCategory!], limit: Int = 20, lowStock: Boolean): [InventoryItem!]"
            in first
        )
        assert "deleteInventoryItem(itemId: ID!): Boolean" in first
        assert "orders: left out" in err
        assert "GET /api/v1/inventory/label: it answers with application/pdf, not JSON" in err
        assert text(build_schema(first)) == first
        # Whatever the order of what is in the documents.
        for name, document in services.documents.items():
            turned = {**document, "paths": dict(reversed(document["paths"].items()))}
            components = document.get("components", {})
            if components:
                schemas = dict(reversed(components["schemas"].items()))
                turned["components"] = {"schemas": schemas}
            services.documents[name] = turned
        assert (await printed(capsys))[1] == first
        # One service's names do not depend on the others.
        code, alone, _ = await printed(capsys, "--service", "sales")
        assert code == 0
        assert "InventoryItem" not in alone
        for line in alone.splitlines():
            assert line in first
        assert (await printed(capsys, "--service", "sals"))[0] == 2
        assert (await printed(capsys, "--service", "orders"))[0] == 1


async def test_a_document_that_changes_is_taken_over_and_a_broken_one_is_not(
    store_server: EmbeddedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kernel.graphql import schemas

    monkeypatch.setattr(schemas, "_FRESH_SECONDS", 0.0)
    monkeypatch.setattr(schemas, "_INCOMPLETE_SECONDS", 0.0)
    async with (
        running_services() as services,
        local_gateway(
            store_server.url, tmp_path, (), None, GRAPHQL="true", RATE_LIMIT_REQUESTS="100000", **services.env
        ) as gateway,
    ):
        told = "{ gateway { services { name included reason operations } } }"

        async def inventory() -> dict[str, object]:
            reply = await ask(gateway, told)
            found: list[dict[str, object]] = reply.document["data"]["gateway"]["services"]
            return next(each for each in found if each["name"] == "inventory")

        async def shows(reason: str) -> None:
            async with asyncio.timeout(30):
                while reason not in str((await inventory())["reason"]):
                    await asyncio.sleep(0.05)

        assert (await inventory())["reason"] is None
        reply = await ask(gateway, told)
        orders = next(
            each for each in reply.document["data"]["gateway"]["services"] if each["name"] == "orders"
        )
        assert (orders["included"], orders["reason"]) == (False, "service unreachable")
        # Broken: the last good one stays.
        services.documents["inventory"] = b"<html>"
        await shows("no JSON")
        assert (await ask(gateway, "{ inventoryItems { id } }")).status == 200
        # Changed: what is new can be asked for, what is gone cannot.
        text_ = msgspec.json.encode(INVENTORY).decode().replace('"unit_cost"', '"unit_price"')
        services.documents["inventory"] = msgspec.json.decode(text_)
        await shows("None")
        async with asyncio.timeout(30):
            while (await ask(gateway, "{ inventoryItems { unitPrice } }")).status != 200:
                await asyncio.sleep(0.05)
        assert (await ask(gateway, "{ inventoryItems { unitCost } }")).status == 422
        await eventually(lambda: gateway.state.metrics.in_flight == 0)
