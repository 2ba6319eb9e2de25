"""GraphQL over the services: operations that travel the whole way, each field through its own route's policies."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kernel.server.embedded_store import EmbeddedStore
from tests.support.graphql_services import (
    FLOUR,
    INVENTORY,
    ORDER,
    Asked,
    Services,
    ask,
    lock,
    running_services,
    settled,
)
from tests.support.inprocess import Local, Reply, local_gateway
from tests.support.scripted_upstream import eventually
from tests.support.tokens import OTHER_TENANT, TENANT, access_token


@pytest.fixture
async def services() -> AsyncIterator[Services]:
    async with running_services() as services:
        yield services


@pytest.fixture
async def gateway(services: Services, store_server: EmbeddedStore, tmp_path: Path) -> AsyncIterator[Local]:
    async with local_gateway(store_server.url, tmp_path, (), None, GRAPHQL="true", **services.env) as gateway:
        yield gateway


async def test_one_query_over_two_services(gateway: Local, services: Services) -> None:
    reply = await ask(
        gateway,
        """query Dashboard($low: Boolean) {
             stock: inventoryItems(limit: 5, lowStock: $low, categories: [FLOUR, DAIRY_PRODUCTS]) {
               id name category unitCost expiresOn supplier { name } attributes
             }
             salesOrders { id totalCents lines { product pieces note } state payload __typename }
           }""",
        variables={"low": True},
    )
    assert reply.status == 200
    assert reply.header("content-type") == "application/graphql-response+json; charset=utf-8"
    assert reply.document == {
        "data": {
            "stock": [
                {
                    "id": "flour",
                    "name": "Flour W300",
                    "category": "FLOUR",
                    "unitCost": 0.92,
                    "expiresOn": "2027-01-31",
                    "supplier": {"name": "Mill"},
                    "attributes": {"protein": "13"},
                },
                {
                    "id": "butter",
                    "name": "Butter",
                    "category": "DAIRY_PRODUCTS",
                    "unitCost": None,
                    "expiresOn": None,
                    "supplier": None,
                    "attributes": None,
                },
            ],
            "salesOrders": [
                {
                    "id": "6f1c9f0e-0000-4000-8000-00000000000a",
                    "totalCents": 5_000_000_000,
                    "lines": [{"product": "baguette", "pieces": 12, "note": None}],
                    "state": "OPEN",
                    "payload": 3,
                    "__typename": "SalesOrder",
                }
            ],
        }
    }
    asked = {each.path: each for each in services.asked}
    stock = asked["/api/v1/inventory/items"]
    assert stock.query == [
        ("limit", "5"),
        ("low_stock", "true"),
        ("categories", "flour"),
        ("categories", "dairy products"),
    ]
    assert stock.headers["x-tenant-id"] == TENANT
    assert {each.headers["x-request-id"] for each in services.asked} == {reply.header("x-request-id")}
    assert len(services.asked) == 2


async def test_nothing_is_served_where_it_is_off(
    services: Services, store_server: EmbeddedStore, tmp_path: Path
) -> None:
    async with local_gateway(store_server.url, tmp_path, (), None, **services.env) as gateway:
        assert (await ask(gateway, "{ salesOrders { id } }")).status == 404
        assert not [row for row in gateway.state.settings.routes if row.handler == "graphql"]
        assert not services.asked


async def test_who_does_not_say_who_he_is_gets_nothing(gateway: Local, services: Services) -> None:
    assert (await ask(gateway, "{ salesOrders { id } }", b"e30.e30.e30")).status == 401
    assert not services.asked
    assert (await ask(gateway, "{ salesOrders { id } }", access_token())).status == 200


async def test_what_is_equal_is_asked_once_and_all_at_once(gateway: Local, services: Services) -> None:
    waiting: list[str] = []
    both = asyncio.Event()

    async def together(asked: Asked) -> None:
        waiting.append(asked.name)
        if len(waiting) == 2:
            both.set()
        await both.wait()

    services.changes = dict.fromkeys(("GET /api/v1/inventory/items", "GET /api/v1/sales/orders"), together)
    reply = await ask(
        gateway,
        "{ a: inventoryItems { id } b: inventoryItems { name } c: inventoryItems(limit: 20) { id } salesOrders { id } }",
    )
    assert reply.status == 200
    assert reply.document["data"]["b"] == [{"name": "Flour W300"}, {"name": "Butter"}]
    assert services.count() == {"GET /api/v1/inventory/items": 1, "GET /api/v1/sales/orders": 1}
    assert gateway.state.metrics.counted()["gateway_graphql_spared_total"] == {(): 2}


async def test_mutations_run_one_after_the_other(gateway: Local, services: Services) -> None:
    order: list[str] = []

    async def slowly(asked: Asked) -> None:
        order.append(f"begin {asked.method}")
        await settled()
        order.append(f"end {asked.method}")

    services.changes = dict.fromkeys(
        ("POST /api/v1/inventory/items", "DELETE /api/v1/inventory/items/flour"), slowly
    )
    reply = await ask(
        gateway,
        """mutation Stock($new: InventoryItemCreateInput!) {
             first: createInventoryItem(input: $new) { id category }
             second: deleteInventoryItem(itemId: "flour")
             third: createInventoryItem(input: {name: "x", category: YEAST, unitCost: 1}) { id }
           }""",
        variables={"new": {"name": "Butter", "category": "DAIRY_PRODUCTS"}},
        headers={"idempotency-key": '"k-1"'},
    )
    assert reply.document == {
        "data": {"first": {"id": "new", "category": "DAIRY_PRODUCTS"}, "second": True, "third": {"id": "new"}}
    }
    assert order == [f"{when} {method}" for method in ("POST", "DELETE", "POST") for when in ("begin", "end")]
    bodies = [msgspec.json.decode(each.body) for each in services.asked if each.body]
    assert bodies == [
        {"name": "Butter", "category": "dairy products"},
        {"name": "x", "category": "yeast", "unit_cost": 1},
    ]
    assert [each.headers["idempotency-key"] for each in services.asked] == [
        "k-1.first",
        "k-1.second",
        "k-1.third",
    ]


async def test_each_field_is_judged_by_its_own_route(
    services: Services, store_server: EmbeddedStore, tmp_path: Path
) -> None:
    toml = tmp_path / "gateway.toml"
    toml.write_text('[services.forecasting]\nmin_tier = "enterprise"\n')
    env = {**services.env, "GRAPHQL": "true", "GATEWAY_CONFIG": str(toml)}
    async with local_gateway(store_server.url, tmp_path, (), None, **env) as gateway:
        reply = await ask(gateway, "{ salesOrders { id } forecasts: forecastingForecasts { pieces } }")
        assert reply.status == 294  # partial success
        assert reply.document["data"] == {"salesOrders": [{"id": ORDER["id"]}], "forecasts": None}
        (error,) = reply.document["errors"]
        assert error["path"] == ["forecasts"]
        assert error["extensions"] == {"code": "tier-required", "status": 403, "service": "forecasting"}
        legacy = await ask(
            gateway, "{ forecastingForecasts { pieces } }", headers={"accept": "application/json"}
        )
        assert legacy.status == 200
        assert legacy.document["errors"][0]["extensions"]["code"] == "tier-required"
        assert services.count() == {"GET /api/v1/sales/orders": 1}
        counted = gateway.state.metrics.counted()
        assert counted["gateway_graphql_errors_total"] == {("gateway", "tier-required"): 2}
        refused = counted["gateway_requests_total"]["GET", "/api/v1/forecasting/**", "403"]
        assert refused == 2


async def test_a_locked_tenant_reads_and_does_not_write(gateway: Local, services: Services) -> None:
    tenant = "6f1c9f0e-0000-4000-8000-0000000000aa"
    token = access_token(tenant_id=tenant)
    await lock(gateway, tenant)
    reply = await ask(gateway, 'mutation { deleteInventoryItem(itemId: "flour") }', token)
    assert reply.document["data"] == {"deleteInventoryItem": None}
    assert reply.document["errors"][0]["extensions"]["code"] == "tenant-read-only"
    assert not services.asked
    assert (await ask(gateway, "{ inventoryItems { id } }", token)).status == 200


async def test_another_tenant_is_an_argument_and_judged(gateway: Local, services: Services) -> None:
    services.data[f"GET /api/v1/tenants/{OTHER_TENANT}/sales/orders"] = []
    foreign = "6f1c9f0e-0000-4000-8000-0000000000ff"
    reply = await ask(
        gateway,
        f'{{ own: salesOrders {{ id }} other: salesOrders(tenantId: "{OTHER_TENANT}") {{ id }} '
        f'foreign: salesOrders(tenantId: "{foreign}") {{ id }} }}',
    )
    assert reply.document["data"] == {"own": [{"id": ORDER["id"]}], "other": [], "foreign": None}
    assert [error["extensions"]["code"] for error in reply.document["errors"]] == ["tenant-forbidden"]
    by_path = {each.path: each.headers["x-tenant-id"] for each in services.asked}
    assert by_path == {
        "/api/v1/sales/orders": TENANT,
        f"/api/v1/tenants/{OTHER_TENANT}/sales/orders": OTHER_TENANT,
    }


async def test_an_answer_that_does_not_fit_is_an_error_and_what_may_be_null_is(
    gateway: Local, services: Services
) -> None:
    services.data["GET /api/v1/inventory/items"] = [
        {**FLOUR, "unit_cost": "dear", "tags": ["a", None]},
        {"id": "x", "name": None, "category": "flour"},
    ]
    reply = await ask(gateway, "{ inventoryItems { id unitCost } }")
    assert reply.document["data"] == {
        "inventoryItems": [{"id": "flour", "unitCost": None}, {"id": "x", "unitCost": None}]
    }
    assert [error["path"] for error in reply.document["errors"]] == [["inventoryItems", 0, "unitCost"]]
    reply = await ask(gateway, "{ inventoryItems { id name } salesOrders { id } }")
    # The name may not be null, so the item may not be, nor the list.
    assert reply.document["data"] == {"inventoryItems": None, "salesOrders": [{"id": ORDER["id"]}]}
    assert reply.document["errors"][0]["path"] == ["inventoryItems", 1, "name"]
    assert reply.document["errors"][0]["extensions"]["code"] == "graphql-answer"


async def test_what_a_service_refuses_keeps_its_code(gateway: Local, services: Services) -> None:
    async def invalid(asked: Asked) -> tuple[int, Any]:
        return 422, {"detail": [{"loc": ["query", "limit"], "msg": "too many", "type": "value_error"}]}

    services.changes["GET /api/v1/inventory/items"] = invalid
    reply = await ask(gateway, '{ inventoryItems { id } inventoryItem(itemId: "none") { id } }')
    first, second = sorted(reply.document["errors"], key=lambda error: error["path"])
    assert second["extensions"]["code"] == "graphql-refused"
    assert second["extensions"]["status"] == 422
    assert second["extensions"]["detail"][0]["loc"] == ["query", "limit"]
    assert first["extensions"] == {"code": "item-unknown", "status": 404, "service": "inventory"}
    assert first["message"] == "Nothing at /api/v1/inventory/items/none."


@pytest.mark.parametrize("item", ["", ".", "..", "a/b", "a%2Fb", "\n", "é"])
async def test_an_argument_makes_no_other_path(gateway: Local, services: Services, item: str) -> None:
    reply = await ask(
        gateway, "mutation ($id: ID!) { deleteInventoryItem(itemId: $id) }", variables={"id": item}
    )
    asked = [each.path for each in services.asked]
    assert all(path.startswith("/api/v1/inventory/items/") and len(path.split("/")) == 6 for path in asked), (
        asked
    )
    assert all(path != "/api/v1/inventory/items/" for path in asked)
    if item in {"", ".", "..", "a/b"}:
        assert not asked
        assert reply.document["errors"]


async def test_fragments_and_directives_select_what_they_say(gateway: Local) -> None:
    document = """
      query Both { ...some inventoryItems { name } }
      query One { ...some }
      fragment some on Query { inventoryItems { id } }
    """
    choosing = """
      query Maybe($with: Boolean!) {
        inventoryItems { id name @include(if: $with) ... on InventoryItem @skip(if: $with) { unit: unitCost } }
      }
    """
    for _ in range(2):
        both = await ask(gateway, document, operationName="Both")
        one = await ask(gateway, document, operationName="One")
        assert both.document["data"]["inventoryItems"][0] == {"id": "flour", "name": "Flour W300"}
        assert one.document["data"]["inventoryItems"][0] == {"id": "flour"}
        for wanted, found in (
            (True, {"id": "flour", "name": "Flour W300"}),
            (False, {"id": "flour", "unit": 0.92}),
        ):
            maybe = await ask(gateway, choosing, variables={"with": wanted})
            assert maybe.document["data"]["inventoryItems"][0] == found


async def test_an_api_key_needs_the_scopes_of_what_it_asks(gateway: Local, services: Services) -> None:
    async def key(*scopes: str) -> dict[str, str]:
        body = msgspec.json.encode({"name": "till", "scopes": scopes})
        path, kind = f"/api/v1/tenants/{TENANT}/api-keys", {"content-type": "application/json"}
        async with asyncio.timeout(20):  # the store may just have been lost to a busy machine
            while (made := await gateway.ask("POST", path, access_token(), body, headers=kind)).status == 503:
                await asyncio.sleep(0.1)
        assert made.status == 201, made.body
        return {"x-api-key": made.document["api_key"], "content-type": "application/json"}

    async def asked(headers: dict[str, str]) -> Reply:
        body = msgspec.json.encode({"query": "{ inventoryItems { id } salesOrders { id } }"})
        return await gateway.ask("POST", "/api/v1/graphql", None, body, headers=headers)

    assert (await asked(await key("inventory:read"))).code == "api-key-scope"
    reply = await asked(await key("graphql:read", "inventory:read"))
    assert reply.document["data"]["inventoryItems"]
    assert reply.document["data"]["salesOrders"] is None
    assert [error["extensions"]["code"] for error in reply.document["errors"]] == ["api-key-scope"]
    assert {each.headers["x-user-type"] for each in services.asked} == {"api-key"}
    assert "errors" not in (await asked(await key("*:read"))).document


async def test_answers_have_a_bound(gateway: Local, services: Services) -> None:
    services.data["GET /api/v1/inventory/items"] = [{**FLOUR, "name": "x" * 3_000_000}]
    reply = await ask(gateway, "{ inventoryItems { name } salesOrders { id } }")
    assert reply.document["data"] == {"inventoryItems": None, "salesOrders": [{"id": ORDER["id"]}]}
    assert reply.document["errors"][0]["extensions"]["code"] == "graphql-too-large"
    services.data["GET /api/v1/inventory/items"] = [
        {"id": n, "name": "", "category": "flour"} for n in range(36_000)
    ]
    reply = await ask(gateway, "{ inventoryItems { id name category } }")
    assert reply.document["errors"][0]["extensions"]["code"] == "graphql-too-large"
    await eventually(lambda: gateway.state.metrics.in_flight == 0)


async def test_the_schema_is_asked_for_so_often_and_no_more(gateway: Local) -> None:
    often = " ".join(f"s{n}: __schema {{ queryType {{ name }} }}" for n in range(4))
    assert (await ask(gateway, f"{{ {often} }}")).status == 422
    once = await ask(gateway, "query I { __schema { queryType { name } } a: __typename salesOrders { id } }")
    assert once.document["data"]["__schema"] == {"queryType": {"name": "Query"}}
    assert once.document["data"]["a"] == "Query"
    assert list(once.document["data"]) == ["__schema", "a", "salesOrders"]


async def test_a_version_beside_the_first_changes_no_name(
    services: Services, store_server: EmbeddedStore, tmp_path: Path
) -> None:
    toml = tmp_path / "gateway.toml"
    toml.write_text("[services.inventory.versions.v2]\n")
    paths = INVENTORY["paths"]
    second = {path.replace("/v1/", "/v2/"): item for path, item in paths.items()}
    services.documents["inventory"] = {**INVENTORY, "paths": {**second, **paths}}
    env = {**services.env, "GRAPHQL": "true", "GATEWAY_CONFIG": str(toml)}
    async with local_gateway(store_server.url, tmp_path, (), None, **env) as gateway:
        assert (
            await gateway.ask("GET", "/api/v2/inventory/items", access_token())
        ).status == 404  # of the service
        assert (await ask(gateway, '{ inventoryItem(itemId: "flour") { id } }')).status == 200
    assert services.count() == {"GET /api/v2/inventory/items": 1, "GET /api/v1/inventory/items/flour": 1}
