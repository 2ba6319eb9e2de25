"""A service that speaks GraphQL itself: passed on as it came, under the same limits."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kernel.server.embedded_store import EmbeddedStore
from tests.support.graphql_services import Asked, Services, lock, running_services
from tests.support.inprocess import Local, Reply, local_gateway
from tests.support.tokens import access_token

PATH = "/api/v1/menu/graphql"
ANSWER = {"data": {"dishes": [{"name": "Tortilla"}]}}


@pytest.fixture
async def services() -> AsyncIterator[Services]:
    async with running_services("menu") as services:
        services.data = {f"POST {PATH}": ANSWER, f"GET {PATH}": ANSWER}
        yield services


@pytest.fixture
async def gateway(services: Services, store_server: EmbeddedStore, tmp_path: Path) -> AsyncIterator[Local]:
    toml = tmp_path / "gateway.toml"
    toml.write_text('[services.menu]\nurl = "http://menu:8000"\ngraphql = true\n')
    env = {**services.env, "GATEWAY_CONFIG": str(toml), "GRAPHQL_INTROSPECTION": "false"}
    async with local_gateway(store_server.url, tmp_path, (), None, **env) as gateway:
        yield gateway


async def post(
    gateway: Local, body: Any, token: bytes | None = None, kind: str = "application/json"
) -> Reply:
    encoded = body if isinstance(body, bytes) else msgspec.json.encode(body)
    return await gateway.ask("POST", PATH, token or access_token(), encoded, headers={"content-type": kind})


async def test_what_is_within_the_limits_goes_on_as_it_came(gateway: Local, services: Services) -> None:
    body = b'{ "query" : "query Menu($n:Int){ dishes(first:$n){ name } }", "variables":{"n":2} }'
    reply = await post(gateway, body)
    assert (reply.status, reply.document) == (201, ANSWER)
    assert services.asked[0].body == body
    assert services.asked[0].headers["x-user-id"] == "user-1"
    reply = await gateway.ask("GET", f"{PATH}?query=%7B%20dishes%20%7B%20name%20%7D%20%7D", access_token())
    assert (reply.status, reply.document) == (200, ANSWER)
    counted = gateway.state.metrics.counted()["gateway_graphql_operations_total"]
    assert counted == {("menu", "query", "Menu"): 1, ("menu", "query", "unnamed"): 1}


async def test_what_is_not_is_refused_here(gateway: Local, services: Services) -> None:
    refused: list[tuple[Any, int, str]] = [
        ({"query": "{ " + " ".join(f"a{n}: b" for n in range(31)) + " }"}, 422, "graphql-too-complex"),
        ({"query": "{ a " * 13 + "{ b }" + " }" * 13}, 422, "graphql-too-complex"),
        ({"query": "{ ...f } fragment f on Q { a { ...f } }"}, 422, "graphql-too-complex"),
        ({"query": "{"}, 400, "graphql-syntax"),
        ({"query": "{ __schema { types { name } } }"}, 422, "graphql-invalid"),
    ]
    for body, status, code in refused:
        reply = await gateway.ask(
            "POST",
            PATH,
            access_token(),
            msgspec.json.encode(body),
            headers={"content-type": "application/json", "accept": "application/graphql-response+json"},
        )
        assert (reply.status, reply.document["errors"][0]["extensions"]["code"]) == (status, code)
    assert (await post(gateway, [{"query": "{ a }"}])).code == "graphql-batch"
    assert (await post(gateway, {"extensions": {"persistedQuery": {}}})).code == "body-invalid"
    assert (await post(gateway, {"query": "{ a }"}, kind="text/plain")).code == "graphql-media-type"
    assert (await post(gateway, b'{"query":"' + b"x" * 1_100_000 + b'"}')).code == "body-too-large"
    assert (
        await gateway.ask("GET", f"{PATH}?query=mutation%20%7Ba%7D", access_token())
    ).code == "graphql-by-get"
    assert (await gateway.ask("DELETE", PATH, access_token())).status == 405
    assert (await gateway.ask("POST", PATH, None, b"{}")).status == 401
    assert not services.asked


async def test_a_locked_tenant_asks_and_does_not_change(gateway: Local, services: Services) -> None:
    tenant = "6f1c9f0e-0000-4000-8000-0000000000bb"
    token = access_token(tenant_id=tenant)
    await lock(gateway, tenant)
    assert (await post(gateway, {"query": "mutation { a }"}, token)).code == "tenant-read-only"
    assert not services.asked
    assert (await post(gateway, {"query": "{ a }"}, token)).status == 201


async def test_what_the_service_answers_passes(gateway: Local, services: Services) -> None:
    async def fail(asked: Asked) -> tuple[int, Any]:
        return 400, {"errors": [{"message": "no"}]}

    services.changes[f"POST {PATH}"] = fail
    assert (await post(gateway, {"query": "{ a }"})).document == {"errors": [{"message": "no"}]}


def test_it_is_for_services_answers_alone(tmp_path: Path) -> None:
    from kernel.config.errors import ConfigErrors
    from kernel.config.loading import load

    toml = tmp_path / "gateway.toml"
    for table in (
        'pattern = "/api/v1/training/ws"',
        'pattern = "/health"',
        'pattern = "/api/v1/auth/logout"',
    ):
        toml.write_text(f"[[routes]]\n{table}\ngraphql = true\n")
        with pytest.raises(ConfigErrors, match="graphql is for a service"):
            load({"GATEWAY_CONFIG": str(toml)})


def test_reading_rights_of_a_key_change_nothing(tmp_path: Path) -> None:
    from kernel.config.loading import load

    toml = tmp_path / "gateway.toml"
    toml.write_text('[services.menu]\nurl = "http://menu:8000"\ngraphql = true\n')
    rows = [row for row in load({"GATEWAY_CONFIG": str(toml)}).routes if row.service == "menu"]
    assert rows
    for row in rows:
        assert row.graphql
        assert (row.key_scope("GET"), row.key_scope("POST")) == ("menu:read", "menu:write")
