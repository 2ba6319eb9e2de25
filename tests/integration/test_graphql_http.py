"""GraphQL over HTTP: the statements of the audits in the package graphql-http, and the specification's status codes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import msgspec
import pytest

from kernel.server.embedded_store import EmbeddedStore
from tests.support.graphql_services import Services, ask, running_services
from tests.support.inprocess import Local, Reply, local_gateway
from tests.support.tokens import access_token

RESPONSE, LEGACY = "application/graphql-response+json", "application/json"
PATH = "/api/v1/graphql"


@pytest.fixture
async def services() -> AsyncIterator[Services]:
    async with running_services() as services:
        yield services


@pytest.fixture
async def gateway(services: Services, store_server: EmbeddedStore, tmp_path: Path) -> AsyncIterator[Local]:
    async with local_gateway(store_server.url, tmp_path, (), None, GRAPHQL="true", **services.env) as gateway:
        yield gateway


async def post(gateway: Local, body: Any, accept: str | None = RESPONSE, kind: str | None = LEGACY) -> Reply:
    encoded = body if isinstance(body, bytes) else msgspec.json.encode(body)
    headers = {} if accept is None else {"accept": accept}
    return await gateway.ask(
        "POST",
        PATH,
        access_token(),
        encoded,
        headers=headers | ({} if kind is None else {"content-type": kind}),
    )


async def get(gateway: Local, accept: str = RESPONSE, **parameters: str) -> Reply:
    return await gateway.ask(
        "GET", f"{PATH}?{urlencode(parameters)}", access_token(), headers={"accept": accept}
    )


ACCEPTED = [
    (RESPONSE, RESPONSE),
    (LEGACY, LEGACY),
    ("*/*", LEGACY),
    ("application/*", LEGACY),
    (None, LEGACY),
    ("", LEGACY),
    (f"{RESPONSE}, {LEGACY};q=0.9", RESPONSE),
    (f"{LEGACY}, {RESPONSE}", RESPONSE),
    (f"{LEGACY}, {RESPONSE};q=0.5", LEGACY),
    (f"{RESPONSE}; charset=utf-8", RESPONSE),
    (f"{LEGACY};q=0, */*", RESPONSE),
    ("text/html, */*;q=0.1", LEGACY),
]


async def test_the_media_type_that_is_accepted(gateway: Local) -> None:
    for accept, kind in ACCEPTED:
        reply = await post(gateway, {"query": "{ __typename }"}, accept)
        assert (reply.status, reply.document) == (200, {"data": {"__typename": "Query"}})
        assert reply.header("content-type") == f"{kind}; charset=utf-8"
        assert "Accept" in str(reply.header("vary"))


UNACCEPTABLE = ["text/html", "image/png", f"{LEGACY};q=0", f"{RESPONSE};charset=latin-1"]


async def test_what_cannot_be_accepted(gateway: Local) -> None:
    for accept in UNACCEPTABLE:
        reply = await post(gateway, {"query": "{ __typename }"}, accept)
        assert (reply.status, reply.code) == (406, "graphql-not-acceptable")


UNASKED = [
    None,
    "text/plain",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=x",
    "application/graphql",
    "application/jsonp",
    f"{LEGACY}; charset=latin-1",
    f"text/plain; a={LEGACY}",
]


async def test_nothing_is_taken_that_a_page_can_send_unasked(gateway: Local) -> None:
    for kind in UNASKED:
        reply = await post(gateway, {"query": "{ __typename }"}, kind=kind)
        assert (reply.status, reply.code) == (415, "graphql-media-type")


JSON = [LEGACY, f"{LEGACY}; charset=utf-8", f"{LEGACY};charset=UTF-8", "Application/JSON"]


async def test_json_is_taken(gateway: Local) -> None:
    for kind in JSON:
        assert (await post(gateway, {"query": "{ __typename }"}, kind=kind)).status == 200


WRONG: list[tuple[Any, int, str]] = [
    (b'{"query"', 400, "bad-request"),
    (b"\xff\xfe", 400, "bad-request"),
    (b'{"query":' + b"[" * 60_000 + b"}", 400, "bad-request"),
    ([{"query": "{ __typename }"}], 400, "graphql-batch"),
    ([], 400, "graphql-batch"),
    ("{ __typename }", 422, "body-invalid"),
    (None, 422, "body-invalid"),
    ({}, 422, "body-invalid"),
    ({"query": None}, 422, "body-invalid"),
    *(({"query": wrong}, 422, "body-invalid") for wrong in ({"obj": 1}, 0, False, ["array"])),
    *(
        ({"query": "{ __typename }", name: wrong}, 422, "body-invalid")
        for name, sound in (("operationName", str), ("variables", dict), ("extensions", dict))
        for wrong in ({"a": 1}, "text", 0, False, ["a"])
        if not isinstance(wrong, sound)
    ),
]


@pytest.mark.parametrize("accept", [RESPONSE, LEGACY])
async def test_what_is_no_request_is_a_problem(gateway: Local, accept: str) -> None:
    for body, status, code in WRONG:
        reply = await post(gateway, body, accept)
        assert (reply.status, reply.code) == (status, code)
        assert reply.header("content-type") == "application/problem+json"


REFUSED = [
    ("{", 400, "graphql-syntax"),
    ("", 400, "graphql-syntax"),
    ("{ unknown }", 422, "graphql-invalid"),
    ("query A { __typename } query B { __typename }", 422, "graphql-invalid"),
    ("fragment f on Query { __typename }", 422, "graphql-invalid"),
    ("query ($id: ID!) { inventoryItem(itemId: $id) { id } }", 422, "graphql-invalid"),
    ("{ " + "a: __typename " * 40 + "}", 422, "graphql-too-complex"),
    ("{ inventoryItems(limit: 9999) { id name } salesOrders { id } }", 422, "graphql-too-complex"),
]


async def test_what_is_not_executed_has_errors_and_no_data(gateway: Local, services: Services) -> None:
    for query, status, code in REFUSED:
        reply = await post(gateway, {"query": query})
        assert reply.status == status
        assert reply.header("content-type") == f"{RESPONSE}; charset=utf-8"
        assert "data" not in reply.document
        assert {error["extensions"]["code"] for error in reply.document["errors"]} == {code}
        legacy = await post(gateway, {"query": query}, LEGACY)
        assert (legacy.status, legacy.document) == (200, reply.document)
        assert not services.asked


async def test_optional_parameters_may_be_null_or_missing(gateway: Local) -> None:
    for name in ("operationName", "variables", "extensions"):
        assert (await post(gateway, {"query": "{ __typename }", name: None})).status == 200
    two = "query A { __typename } query B { gateway { version } }"
    assert (await post(gateway, {"query": two, "operationName": "A"})).document == {
        "data": {"__typename": "Query"}
    }
    assert (await post(gateway, {"query": two, "operationName": "C"})).status == 422
    unknown = {"query": "{ __typename }", "extensions": {"persisted": 1}, "more": True}
    assert (await post(gateway, unknown)).status == 200


async def test_by_get_queries_only(gateway: Local, services: Services) -> None:
    reply = await get(
        gateway,
        query="query A($n: String!) { __type(name: $n) { name } } query B { __typename }",
        operationName="A",
        variables='{"n":"SalesOrder"}',
    )
    assert (reply.status, reply.document) == (200, {"data": {"__type": {"name": "SalesOrder"}}})
    reply = await get(gateway, query='mutation { deleteInventoryItem(itemId: "flour") }')
    assert (reply.status, reply.code, reply.header("allow")) == (405, "graphql-by-get", "POST")
    for wrong in ({"variables": "{"}, {"variables": "[1]"}, {"extensions": "x"}):
        assert (await get(gateway, query="{ __typename }", **wrong)).code == "parameter-invalid"
    assert (await get(gateway)).code == "parameter-invalid"
    twice = await gateway.ask("GET", f"{PATH}?query=%7Ba%7D&query=%7Bb%7D", access_token())
    assert twice.code == "parameter-invalid"
    assert (await gateway.ask("PUT", PATH, access_token())).status == 405
    assert not services.asked


async def test_large_bodies_are_not_read(gateway: Local) -> None:
    reply = await post(gateway, {"query": "{ " + "c " * 600_000 + "}"})
    assert (reply.status, reply.code) == (413, "body-too-large")


async def test_partial_success_has_a_status_of_its_own(gateway: Local) -> None:
    reply = await ask(gateway, '{ inventoryItem(itemId: "none") { id } salesOrders { id } }')
    assert reply.status == 294
    assert reply.document["data"]["salesOrders"]
    assert reply.document["data"]["inventoryItem"] is None


async def test_introspection_is_the_environments(
    services: Services, store_server: EmbeddedStore, tmp_path: Path
) -> None:
    env = {"ENVIRONMENT": "prod", "HTTPS_ONLY": "false", "REDIS_URL": store_server.url, "GRAPHQL": "true"}
    async with local_gateway(store_server.url, tmp_path, (), None, **env, **services.env) as gateway:
        reply = await ask(gateway, "{ __schema { queryType { name } } }")
        assert reply.status == 422
        assert (await ask(gateway, "{ gateway { services { name included } } }")).status == 200
        hidden = await ask(gateway, "{ salesOrder { id } }")
        assert "Did you mean" not in hidden.document["errors"][0]["message"]
    env["GRAPHQL_INTROSPECTION"] = "true"
    async with local_gateway(store_server.url, tmp_path, (), None, **env, **services.env) as gateway:
        assert (await ask(gateway, "{ __schema { queryType { name } } }")).status == 200
