"""Subscriptions: alerts as GraphQL results over server-sent events; and clients that leave."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from time import time

import pytest

from kernel.server.embedded_store import EmbeddedStore
from tests.support.graphql_services import Asked, Open, Services, ask, running_services
from tests.support.inprocess import Local, local_gateway
from tests.support.scripted_upstream import eventually
from tests.support.tokens import access_token

EVENTS = {"accept": "text/event-stream"}
QUERY = 'subscription Alerts { alerts(severity: ["HIGH"]) { id: alertId severity message timestamp data __typename } }'


@pytest.fixture
async def services() -> AsyncIterator[Services]:
    async with running_services() as services:
        yield services


@pytest.fixture
async def gateway(services: Services, store_server: EmbeddedStore, tmp_path: Path) -> AsyncIterator[Local]:
    async with local_gateway(store_server.url, tmp_path, (), None, GRAPHQL="true", **services.env) as gateway:
        yield gateway


def tenant(number: int) -> str:
    return f"6f1c9f0e-0000-4000-8000-0000000001{number:02d}"


async def publish(gateway: Local, to: str, **alert: object) -> None:
    await gateway.state.store.execute("PUBLISH", f"alerts:tenant:{to}", json.dumps(alert))


async def test_alerts_come_as_results(gateway: Local) -> None:
    to = tenant(1)
    client = Open(gateway, QUERY, access_token(tenant_id=to), **EVENTS)
    await client.until(b"retry:")
    assert client.status == 200
    assert client.headers[b"content-type"] == b"text/event-stream"
    assert gateway.state.metrics.in_flight == 0
    await publish(gateway, tenant(2), alert_id="other", severity="high")
    await publish(gateway, to, alert_id="low", severity="low", message="Nothing")
    await publish(
        gateway,
        to,
        alert_id="a-1",
        severity="HIGH",
        message="Oven 2\nis cold",
        timestamp="2026-12-01T05:30:00Z",
    )
    await client.until(b"a-1")
    await publish(gateway, to, alert_id=7, severity="high", message={"no": "text"})
    await client.until(b'"errors"')
    first, second = client.results()
    alert = {
        "alert_id": "a-1",
        "severity": "HIGH",
        "message": "Oven 2\nis cold",
        "timestamp": "2026-12-01T05:30:00Z",
    }
    assert first["data"]["alerts"] == {
        "id": "a-1",
        "severity": "high",
        "message": "Oven 2\nis cold",
        "timestamp": "2026-12-01T05:30:00Z",
        "data": {**alert, "severity": "high"},
        "__typename": "Alert",
    }
    assert second["data"]["alerts"]["id"] == "7"
    assert second["errors"][0]["path"] == ["alerts", "message"]
    client.leave()
    await asyncio.wait_for(client.task, 10)
    assert gateway.state.alerts.families()["gateway_sse_streams"] == 0
    assert gateway.state.metrics.in_flight == 0


async def test_the_stream_ends_with_the_rights_and_with_the_worker(gateway: Local) -> None:
    expiring = Open(gateway, QUERY, access_token(tenant_id=tenant(3), exp=int(time()) + 2), **EVENTS)
    draining = Open(gateway, QUERY, access_token(tenant_id=tenant(3)), **EVENTS)
    await expiring.until(b"retry:")
    await draining.until(b"retry:")
    await asyncio.wait_for(expiring.task, 20)
    assert expiring.results()[-1]["errors"][0]["extensions"]["code"] == "token-expired"
    assert expiring.body.endswith(b"event: complete\ndata: \n\n")
    gateway.state.streams.drain()
    await asyncio.wait_for(draining.task, 10)
    assert draining.body.endswith(b"event: complete\ndata: \n\n")


async def test_the_policies_of_the_stream_hold(gateway: Local) -> None:
    lapsed = access_token(subscription={"tier": "professional", "status": "canceled"})
    refused = await ask(gateway, QUERY, lapsed, headers=EVENTS)
    assert refused.status == 402
    assert refused.document["errors"][0]["extensions"]["code"] == "subscription-required"
    assert gateway.state.metrics.in_flight == 0


async def test_what_is_no_stream_is_told_as_it_is_asked(gateway: Local) -> None:
    assert (await ask(gateway, QUERY)).code == "graphql-not-acceptable"
    wrong = await ask(gateway, 'subscription { alerts(severity: ["loud"]) { alertId } }', headers=EVENTS)
    assert (wrong.status, wrong.document["errors"][0]["extensions"]["code"]) == (422, "parameter-invalid")
    assert (
        await ask(gateway, "subscription { alerts { alertId } a: alerts { alertId } }", headers=EVENTS)
    ).status == 422
    query = await ask(gateway, "{ salesOrders { state } }", headers=EVENTS)
    assert (
        query.body
        == b'event: next\ndata: {"data":{"salesOrders":[{"state":"OPEN"}]}}\n\nevent: complete\ndata: \n\n'
    )


async def test_a_client_that_leaves_takes_its_requests_along(gateway: Local, services: Services) -> None:
    begun = asyncio.Event()

    async def never(asked: Asked) -> None:
        begun.set()
        await asyncio.Event().wait()

    services.changes["GET /api/v1/sales/orders"] = never
    client = Open(gateway, "{ salesOrders { id } inventoryItems { id } }", access_token())
    await asyncio.wait_for(begun.wait(), 20)
    client.leave()
    await asyncio.wait_for(client.task, 10)
    assert client.status == 0
    assert gateway.state.metrics.in_flight == 0
    await eventually(lambda: gateway.state.upstreams["sales"].snapshot()["active"] == 0)


async def test_an_operation_has_one_deadline(
    services: Services, store_server: EmbeddedStore, tmp_path: Path
) -> None:
    async def never(asked: Asked) -> None:
        await asyncio.Event().wait()

    env = {**services.env, "GRAPHQL": "true", "GRAPHQL_TIMEOUT_SECONDS": "0.5"}
    async with local_gateway(store_server.url, tmp_path, (), None, **env) as gateway:
        assert (await ask(gateway, "{ __typename }")).status == 200
        services.changes["GET /api/v1/sales/orders"] = never
        reply = await ask(gateway, "{ salesOrders { id } inventoryItems { id } }")
        assert reply.document["data"]["inventoryItems"]
        (error,) = reply.document["errors"]
        assert error["extensions"] == {"code": "graphql-timeout", "status": 504}
        assert gateway.state.metrics.in_flight == 0
