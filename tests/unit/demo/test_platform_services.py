"""What the stub services answer: collections, tenancy, helpers, and what they say of themselves."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import httpx
import pytest
from openapi_schema_validator import OAS30Validator, OAS31Validator
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from demo.platform.info import Info
from demo.platform.platform import Platform, running_platform
from demo.platform.process import platform_process
from demo.platform.seeds import COLLECTIONS
from demo.platform.service import METHODS
from kernel.routing.catalog import Service
from kernel.routing.platform import SERVICES


@pytest.fixture(scope="module")
def info() -> Iterator[Info]:
    with platform_process() as running:
        yield running


@pytest.fixture(scope="module")
def http() -> Iterator[httpx.Client]:
    with httpx.Client(trust_env=False) as client:
        yield client


def as_tenant(info: Info, label: str = "owner") -> dict[str, str]:
    """What the gateway would inject."""
    return {"x-tenant-id": info.tenants[label], "x-user-type": "access"}


def test_services_and_variables_are_the_catalogue_s(info: Info) -> None:
    assert set(info.urls) == {service.name for service in SERVICES}
    assert {service.env for service in SERVICES} <= set(info.environment)


def test_prefixes_are_the_catalogue_s() -> None:
    platform = Platform()
    for service in SERVICES:
        assert set(service.prefixes) <= set(platform.services[service.name].prefixes)


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.name)
def test_every_service_echoes_under_each_prefix(service: Service, info: Info, http: httpx.Client) -> None:
    url, tenant = info.urls[service.name], info.tenants["owner"]
    segments = [f"{prefix}" for prefix in service.prefixes]
    if service.tenant_scoped:
        segments += [f"tenants/{tenant}/{segment}" for segment in (*service.prefixes, service.name)]
    for segment in segments:
        for method in METHODS:
            answer = http.request(
                method, f"{url}/api/v1/{segment}/echo?a=b", headers=[("X-A", "1"), ("X-A", "2")]
            )
            assert answer.status_code == 200
            if method != "HEAD":
                seen = answer.json()
                assert (seen["service"], seen["method"]) == (service.name, method)
                assert seen["target"] == f"/api/v1/{segment}/echo?a=b"
                assert [pair for pair in seen["headers"] if pair[0] == "X-A"] == [["X-A", "1"], ["X-A", "2"]]


def test_a_trailing_slash_makes_no_difference(info: Info, http: httpx.Client) -> None:
    for path in ("/api/v1/sales", f"/api/v1/tenants/{info.tenants['owner']}/sales"):
        first, second = (
            http.get(info.urls["sales"] + path + end, headers=as_tenant(info)) for end in ("", "/")
        )
        assert (second.status_code, second.json()) == (200, first.json())


@pytest.mark.parametrize("name", [service.name for service in SERVICES])
def test_every_service_describes_itself(name: str, info: Info, http: httpx.Client) -> None:
    assert http.get(f"{info.urls[name]}/health").json()["status"] == "healthy"
    document = http.get(f"{info.urls[name]}/openapi.json").json()
    assert document["openapi"] in {"3.0.3", "3.1.0"}
    operations = [
        op for item in document["paths"].values() for method, op in item.items() if method != "parameters"
    ]
    identifiers = [operation["operationId"] for operation in operations]
    assert len(identifiers) == len(set(identifiers)) > 5
    for path, item in document["paths"].items():
        declared = {parameter["name"] for parameter in item.get("parameters", ())}
        assert declared == set(re.findall(r"\{(\w+)\}", path))


@pytest.mark.parametrize(("service", "suffix"), [row[:2] for row in COLLECTIONS])
def test_every_collection_is_as_its_document_says(
    service: str, suffix: str, info: Info, http: httpx.Client
) -> None:
    document = http.get(f"{info.urls[service]}/openapi.json").json()
    prefix = next(row for row in SERVICES if row.name == service).prefixes[0]
    path = f"/api/v1/{prefix}{suffix}"
    answer = document["paths"][path]["get"]["responses"]["200"]
    schema = {**answer["content"]["application/json"]["schema"], "components": document["components"]}
    oas = OAS30Validator if document["openapi"].startswith("3.0") else OAS31Validator
    page = http.get(f"{info.urls[service]}{path}?limit=200", headers=as_tenant(info)).json()
    assert [error.message for error in oas(schema).iter_errors(page)] == []


@pytest.mark.parametrize(("service", "suffix"), [row[:2] for row in COLLECTIONS])
def test_every_collection_has_data_for_the_owner(
    service: str, suffix: str, info: Info, http: httpx.Client
) -> None:
    prefix = next(row for row in SERVICES if row.name == service).prefixes[0]
    tenant = info.tenants["owner"]
    for path in (f"/api/v1/{prefix}{suffix}", f"/api/v1/tenants/{tenant}/{prefix}{suffix}"):
        page = http.get(info.urls[service] + path, headers=as_tenant(info)).json()
        assert page["total"] >= len(page["items"]) > 0
        assert all(item["tenant_id"] == tenant for item in page["items"])


def test_pages_are_linked_and_cover_everything_once(info: Info, http: httpx.Client) -> None:
    path: str | None = "/api/v1/inventory/items?limit=7"
    seen: list[str] = []
    while path:
        page = http.get(info.urls["inventory"] + path, headers=as_tenant(info)).json()
        seen += [item["id"] for item in page["items"]]
        path = page["next"]
    assert len(seen) == len(set(seen)) == page["total"]


def test_filter_keeps_the_rows_with_that_value(info: Info, http: httpx.Client) -> None:
    url = f"{info.urls['inventory']}/api/v1/inventory/items?category=harinas"
    assert {row["category"] for row in http.get(url, headers=as_tenant(info)).json()["items"]} == {"harinas"}


def test_item_is_created_changed_replaced_and_deleted(info: Info, http: httpx.Client) -> None:
    url, headers = info.urls["suppliers"], as_tenant(info)
    made = http.post(f"{url}/api/v1/suppliers", json={"name": "Molino", "tenant_id": "x"}, headers=headers)
    assert made.status_code == 201
    item = url + made.headers["location"]
    assert http.get(item, headers=headers).json()["tenant_id"] == info.tenants["owner"]
    assert http.patch(item, json={"city": "Soria"}, headers=headers).json()["name"] == "Molino"
    assert "city" not in http.put(item, json={"name": "Molina"}, headers=headers).json()
    assert http.put(item, json={"city": "Soria"}, headers=headers).status_code == 422
    assert http.delete(item, headers=headers).status_code == 204
    assert http.get(item, headers=headers).status_code == 404


def test_notifications_go_by_known_channels_and_once_for_each_key(info: Info, http: httpx.Client) -> None:
    url, headers = f"{info.urls['notification']}/api/v1/notifications", as_tenant(info)
    message = {"channel": "email", "message": "Horno parado"}
    keyed = {**headers, "idempotency-key": "k-1"}
    first, again = (http.post(url, json=message, headers=keyed) for _ in range(2))
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json() == again.json()
    assert first.json()["status"] == "delivered"
    other = http.post(url, json=message, headers={**keyed, **as_tenant(info, "second_owner")})
    assert other.status_code == 201
    assert http.post(url, json=message, headers=headers).json()["id"] != first.json()["id"]
    for wrong in ({**message, "channel": "pigeon"}, {"channel": "email"}, {"message": "x"}):
        assert http.post(url, json=wrong, headers=headers).status_code == 422
    assert http.post(url, json=message, headers={"x-user-type": "service"}).status_code == 400


def test_bad_input_is_a_problem_document(info: Info, http: httpx.Client) -> None:
    url, headers = f"{info.urls['inventory']}/api/v1/inventory/items", as_tenant(info)
    answers = {
        400: http.post(url, content=b"{", headers=headers),
        405: http.patch(url, headers=headers),
        404: http.get(url + "/nothing", headers=headers),
        403: http.get(url),
        422: http.get(url + "?limit=0", headers=headers),
    }
    for status, answer in answers.items():
        assert answer.status_code == status
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["status"] == status
    assert answers[405].headers["allow"] == "GET, POST"
    assert http.post(url, json={"name": "sin unidad"}, headers=headers).json()["code"] == "field-missing"


def test_tenants_do_not_see_each_other(info: Info, http: httpx.Client) -> None:
    url = f"{info.urls['inventory']}/api/v1/inventory/items"
    mine = http.get(url, headers=as_tenant(info)).json()["items"]
    theirs = http.get(url, headers=as_tenant(info, "second_owner")).json()["items"]
    assert not {row["id"] for row in mine} & {row["id"] for row in theirs}
    assert http.get(f"{url}/{mine[0]['id']}", headers=as_tenant(info, "second_owner")).status_code == 404
    path = f"{info.urls['inventory']}/api/v1/tenants/{info.tenants['owner']}/inventory/items"
    assert http.get(path, headers=as_tenant(info, "second_owner")).json()["code"] == "tenant-mismatch"


def test_service_reads_across_tenants_but_writes_only_for_one(info: Info, http: httpx.Client) -> None:
    url, service = f"{info.urls['orders']}/api/v1/orders", {"x-user-type": "service"}
    for label in ("owner", "second_owner"):
        http.get(url, headers=as_tenant(info, label))
    found = {row["tenant_id"] for row in http.get(url + "?limit=200", headers=service).json()["items"]}
    assert {info.tenants["owner"], info.tenants["second_owner"]} <= found
    order = {"customer": "c", "lines": [1]}
    assert http.post(url, json=order, headers=service).json()["code"] == "tenant-missing"
    scoped = {**service, "x-tenant-id": info.tenants["owner"]}
    assert http.post(url, json=order, headers=scoped).status_code == 201


def test_data_is_the_same_on_every_start() -> None:
    first, second = Platform(), Platform()
    assert first.keys.secret != second.keys.secret
    tenant = first.world.account("owner").tenant_id
    for one, other in zip(first.collections, second.collections, strict=True):
        assert one.rows(tenant) == other.rows(tenant)


def test_helpers_answer_as_asked(info: Info, http: httpx.Client) -> None:
    base = f"{info.urls['pos']}/api/v1/pos"
    assert http.get(f"{base}/status/503").status_code == 503
    assert http.delete(f"{base}/status/204").content == b""
    assert http.get(f"{base}/status/999").status_code == 422
    assert len(http.get(f"{base}/bytes/100001").content) == 100_001
    assert http.get(f"{base}/stream?n=3").text.count("\n") == 3
    assert http.get(f"{base}/slow?ms=1").json() == {"waited_ms": 1}
    assert any(route["path"] == "/api/v1/pos/terminals" for route in http.get(base).json()["routes"])


def test_training_job_runs_to_its_end_by_the_clock(info: Info, http: httpx.Client) -> None:
    url, headers = info.urls["training"], as_tenant(info)
    running = http.post(f"{url}/api/v1/training/jobs", json={"product": "Barra"}, headers=headers)
    assert running.status_code == 202
    assert running.json()["status"] == "running"
    done = http.post(f"{url}/api/v1/training/jobs", json={"seconds": 0}, headers=headers)
    assert http.get(url + done.headers["location"], headers=headers).json()["progress"] == 100
    listed = http.get(f"{url}/api/v1/training/jobs", headers=headers).json()["items"]
    assert {job["id"] for job in listed} >= {running.json()["id"], done.json()["id"]}
    other = as_tenant(info, "second_owner")
    assert http.get(url + done.headers["location"], headers=other).status_code == 404


def test_notification_is_remembered(info: Info, http: httpx.Client) -> None:
    url, headers = f"{info.urls['notification']}/api/v1/notifications", as_tenant(info)
    sent = http.post(url, json={"channel": "email", "message": "Pan listo"}, headers=headers)
    assert sent.status_code == 201
    stored = http.get(f"{url}?message=Pan listo", headers=headers).json()["items"]
    assert [row["id"] for row in stored] == [sent.json()["id"]]


async def test_service_that_was_stopped_comes_back_on_its_port() -> None:
    async with running_platform() as platform, httpx.AsyncClient(trust_env=False) as client:
        url = platform.urls["orders"]
        await platform.stop_service("orders")
        with pytest.raises(httpx.ConnectError):
            await client.get(f"{url}/health")
        assert (await client.get(f"{platform.urls['sales']}/health")).status_code == 200
        await platform.start_service("orders")
        assert platform.urls["orders"] == url
        headers = {"x-tenant-id": platform.world.account("owner").tenant_id}
        assert (await client.get(f"{url}/api/v1/orders", headers=headers)).json()["total"] > 0


async def test_platform_in_this_process_hands_out_tokens_for_its_keys() -> None:
    async with running_platform() as platform:
        assert platform.keys.verify(platform.token("second_owner"))["tenant_role"] == "owner"
        scoped = platform.service_token("orders", platform.world.account("owner").tenant_id)
        claims = platform.keys.verify(scoped)
        assert (claims["service"], claims["type"]) == ("orders", "service")
        assert claims["tenant_id"] == platform.info().tenants["owner"]


async def test_training_tells_of_its_progress_over_a_socket(info: Info) -> None:
    url = info.urls["training"].replace("http", "ws", 1) + "/api/v1/training/ws"
    async with connect(url, additional_headers=as_tenant(info), proxy=None) as socket:
        for message in ("hola", b"\x00", "x" * 300_000):
            await socket.send(message)
            assert await socket.recv() == message
        await socket.send('{"train": "Croissant", "seconds": 0.05}')
        told = [json.loads(await socket.recv())]
        while told[-1]["status"] != "completed":
            told.append(json.loads(await socket.recv()))
        assert told[-1]["progress"] == 100
        assert {each["product"] for each in told} == {"Croissant"}
    with pytest.raises(InvalidStatus):
        await connect(url.replace("/ws", "/jobs"), proxy=None)
