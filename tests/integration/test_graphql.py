"""GraphQL over the services: operations that travel the whole way, each field through its own route's policies."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kernel.server.embedded_store import EmbeddedStore
from tests.support.graphql_services import Services, ask, running_services
from tests.support.inprocess import Local, local_gateway
from tests.support.tokens import TENANT, access_token


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
