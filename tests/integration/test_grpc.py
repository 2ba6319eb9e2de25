"""REST to gRPC: requests and answers of a real gRPC service, by the rules of its descriptors."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis

from kernel.server.embedded_store import EmbeddedStore
from tests.support.grpc_service import Ovens, configured, ovens_service
from tests.support.inprocess import Local, Reply, local_gateway
from tests.support.store import until
from tests.support.tokens import access_payload, access_token

API = "/api/v1/ovens"


@pytest.fixture
async def ovens() -> AsyncIterator[Ovens]:
    async with ovens_service() as service:
        yield service


@pytest.fixture
async def gateway(
    ovens: Ovens, store_server: EmbeddedStore, redis_cli: redis.Redis, tmp_path: Path
) -> AsyncIterator[Local]:
    environment = configured(tmp_path, ovens.url)
    async with local_gateway(store_server.url, tmp_path, (), None, **environment) as local:
        yield local


def encoded(value: Any) -> bytes:
    return msgspec.json.encode(value)


async def test_a_get_travels_the_whole_way(gateway: Local, ovens: Ovens) -> None:
    reply = await gateway.ask("GET", f"{API}/7", access_token())
    assert (reply.status, reply.header("content-type")) == (200, "application/json")
    # By the JSON mapping: names in camelCase, enums by name, 64 bits as a string, what is not set left out.
    assert reply.document == {"ovenId": "7", "fuel": "WOOD", "batches": str(2**60)}
    assert ovens.calls == ["GetOven"]


async def test_it_needs_a_token_like_any_other(gateway: Local, ovens: Ovens) -> None:
    assert (await gateway.ask("GET", f"{API}/7")).code == "token-missing"
    assert not ovens.calls


async def ask(gateway: Local, method: str, target: str, body: Any = None, **headers: str) -> Reply:
    sent = b"" if body is None else body if isinstance(body, bytes) else encoded(body)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await gateway.ask(method, target, access_token(), sent, headers=named)


async def test_paths_find_their_method(gateway: Local, ovens: Ovens) -> None:
    async def called(method: str, path: str, body: Any = None) -> tuple[int, str]:
        ovens.calls.clear()
        reply = await ask(gateway, method, f"{API}{path}", body)
        return reply.status, "".join(ovens.calls)

    assert await called("GET", "/by-id/7") == (200, "GetOven")
    assert await called("POST", "/7:heat", {"celsius": 1}) == (200, "Heat")
    assert await called("DELETE", "/7") == (200, "DeleteOven")
    # A verb that no method has, and a path that only another method has.
    assert await called("POST", "/7:cool") == (404, "")
    assert await called("POST", "/7") == (404, "")
    assert await called("PUT", "/7") == (405, "")
    assert await called("GET", "/7/nothing") == (404, "")
    # Literals come before variables, but a variable is any segment: for a method without the literal, too.
    assert await called("GET", "/manual") == (200, "GetManual")
    assert await called("DELETE", "/manual") == (200, "DeleteOven")
    # What is refused or not bound has no route.
    assert await called("POST", "/7/readings", {}) == (404, "")


async def test_variables_are_decoded(gateway: Local) -> None:
    assert (await ask(gateway, "GET", f"{API}/a%20b%C3%A9%3A")).document["ovenId"] == "a b\u00e9:"
    part = await ask(gateway, "GET", f"{API}/doors/le%66t/hinges/2?view=FULL")
    assert part.document == {"name": "doors/left/hinges/2", "view": "FULL"}
    manual = await ask(gateway, "GET", f"{API}/manual/a/b%20c")
    assert (manual.body, manual.header("content-type")) == (b"a/b c", "text/plain; charset=utf-8")


async def test_several_segments_keep_an_encoded_slash(
    ovens: Ovens, store_server: EmbeddedStore, redis_cli: redis.Redis, tmp_path: Path
) -> None:
    environment = configured(tmp_path, ovens.url, more="allow_encoded_slash = true")
    async with local_gateway(store_server.url, tmp_path, (), None, **environment) as gateway:
        assert (await ask(gateway, "GET", f"{API}/manual/a%2Fb/c")).body == b"a%2Fb/c"
        assert (await ask(gateway, "GET", f"{API}/a%2Fb")).document["ovenId"] == "a/b"


async def test_the_query_is_what_path_and_body_leave(gateway: Local) -> None:
    query = "pageSize=5&page_token=t&fuels=WOOD&fuels=1&maker.country.code=FR&batches=1&batches=2&lit=true"
    reply = await ask(gateway, "GET", f"{API}?{query}&lit_after=2026-12-01T10:00:00Z")
    assert reply.document["ovens"] == [
        {
            "ovenId": "echo",
            "labels": ["5", "t", "FR", "2", "1", "1", "2"],
            "lit": True,
            "litAt": "2026-12-01T10:00:00Z",
        }
    ]
    part = await ask(gateway, "PATCH", f"{API}/7?validateOnly=true&update_mask=fuel,litAt", {"fuel": "WOOD"})
    assert part.document == {"ovenId": "7", "fuel": "WOOD", "labels": ["validated", "fuel", "lit_at"]}


@pytest.mark.parametrize(
    ("method", "target", "body", "field"),
    [
        ("GET", "?nothing=1", None, "nothing"),
        ("GET", "?page_size=many", None, "page_size"),
        ("GET", "?page_size=1&page_size=2", None, "page_size"),
        ("GET", "?page_size=1&pageSize=2", None, "pageSize"),
        ("GET", "?maker.country=FR", None, "maker.country"),
        ("GET", "?maker.country.code.more=FR", None, "maker.country.code.more"),
        ("GET", "?like.trays.a=1", None, "like.trays.a"),
        ("GET", "?like.makers.name=a", None, "like.makers.name"),
        ("GET", "?fuels=COAL", None, "fuels"),
        ("GET", "?lit_after=yesterday", None, "lit_after"),
        ("GET", "/7?oven_id=8", None, "oven_id"),
        ("PATCH", "/7?oven.fuel=WOOD", {}, "oven.fuel"),
        ("POST", "/7:heat?celsius=5", {}, "celsius"),
        ("POST", "/7:heat", {"celsius": "warm"}, "celsius"),
        ("POST", "/7:heat", {"heat": 1}, "heat"),
        ("POST", "/7:heat", [], ""),
        ("POST", "/7:heat", b"{", ""),
        ("POST", "/7:heat", b"[" * 100_000, ""),
        ("POST", "", {"makers": [{"name": "a"}, {"country": {"code": 5}}]}, "oven.makers[1].country.code"),
        ("DELETE", "/7", {"oven_id": "8"}, ""),
    ],
)
async def test_what_cannot_be_read_is_named(
    gateway: Local, ovens: Ovens, method: str, target: str, body: Any, field: str
) -> None:
    reply = await ask(gateway, method, API + target, body)
    assert (reply.status, reply.code, reply.document["field"]) == (400, "bad-request", field)
    assert field in reply.document["detail"]
    assert not ovens.calls


async def test_the_path_has_the_last_word(gateway: Local) -> None:
    reply = await ask(gateway, "PATCH", f"{API}/7", {"ovenId": "8", "fuel": 1})
    assert reply.document == {"ovenId": "7", "fuel": "ELECTRIC"}


async def test_a_field_as_the_answer(gateway: Local) -> None:
    assert (
        msgspec.json.decode((await ask(gateway, "GET", f"{API}/list/only?page_size=2")).body)
        == [{"ovenId": "one"}] * 2
    )
    assert (await ask(gateway, "GET", f"{API}/list/only")).body == b"[]"


async def test_other_documents_pass_as_they_are(gateway: Local) -> None:
    assert (await ask(gateway, "GET", f"{API}/manual/plain")).header(
        "content-type"
    ) == "application/octet-stream"
    forged = await ask(gateway, "GET", f"{API}/manual/forged")
    assert (forged.status, forged.code) == (502, "upstream-protocol")
    pages = await ask(gateway, "GET", f"{API}/pages/a/b/c")
    assert (pages.body, pages.header("content-type")) == (b"abc", "text/plain")
    reply = await ask(gateway, "PUT", f"{API}/manual/x", b"\x00\xffpage", content_type="image/png")
    assert (reply.body, reply.header("content-type")) == (b"\x00\xffpage", "image/png")


async def test_head_is_a_get_without_its_body(gateway: Local, ovens: Ovens) -> None:
    reply = await ask(gateway, "HEAD", f"{API}/7")
    assert (reply.status, reply.body, ovens.calls) == (200, b"", ["GetOven"])
    assert int(reply.header("content-length") or 0) > 10


async def test_below_a_tenant_it_is_the_same_service(gateway: Local, ovens: Ovens) -> None:
    tenant = str(access_payload()["tenant_id"])
    reply = await ask(gateway, "GET", f"/api/v1/tenants/{tenant}/ovens/7")
    assert reply.document["ovenId"] == "7"
    assert ovens.metadata["x-tenant-id"] == tenant
    assert (await ask(gateway, "GET", "/api/v1/tenants/another/ovens/7")).code == "tenant-forbidden"


async def test_what_the_service_is_told(gateway: Local, ovens: Ovens) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    told = await ask(
        gateway,
        "GET",
        f"{API}/7",
        traceparent=trace,
        x_user_id="root",
        X_USER_ROLE="root",
        x_custom="1",
        grpc_timeout="1n",
        cookie="a=b",
        accept_language="fr-FR\xe9%",
    )
    claims = access_payload()
    assert told.status == 200
    seen = ovens.metadata
    assert seen["x-user-id"] == claims["user_id"]
    assert seen["x-user-type"] == "access"
    assert seen["x-request-id"] == told.header("x-request-id")
    assert str(seen["traceparent"]).startswith("00-0af7651916cd43dd8448eb211c80319c-")
    assert seen["traceparent"] != trace
    assert seen["x-forwarded-for"] == "192.0.2.1"
    assert str(seen["authorization"]).startswith("Bearer ")
    assert seen["accept-language"] == "fr-FR%C3%A9%25"
    assert not {"x-custom", "cookie", "grpc-timeout", "x-user_role"} & seen.keys()
    assert str(seen["user-agent"]).startswith("bakery-gateway ")


async def test_the_deadline_is_the_routes(
    ovens: Ovens, store_server: EmbeddedStore, redis_cli: redis.Redis, tmp_path: Path
) -> None:
    environment = configured(
        tmp_path,
        ovens.url,
        routes='[[routes]]\npattern = "/api/v1/ovens/{oven_id}"\nservice = "ovens"\ntimeout = 0.5',
    )
    async with local_gateway(store_server.url, tmp_path, (), None, **environment) as gateway:
        assert (await ask(gateway, "GET", f"{API}/by-id/7")).status == 200
        assert 20 < (ovens.remaining or 0) < 31
        reply = await ask(gateway, "POST", f"{API}/7:heat", {"behaviour": "sleep:60"})
        assert (reply.status, reply.code) == (504, "upstream-timeout")
        assert (ovens.remaining or 9) < 1.5
        await until(lambda: ovens.cancelled == 1)


async def test_its_document_is_among_the_others(gateway: Local) -> None:
    document = (await gateway.ask("GET", "/openapi.json", client="127.0.0.1")).document
    assert document["x-services"]["ovens"] == {
        "included": True,
        "title": "ovens",
        "version": "",
        "operations": 13,
    }
    operation = document["paths"][f"{API}/{{oven_id}}:heat"]["post"]
    assert {"bearer": []} in operation["security"]
    assert operation["tags"] == ["ovens"]


async def test_graphql_reaches_it_by_its_document(
    ovens: Ovens, store_server: EmbeddedStore, redis_cli: redis.Redis, tmp_path: Path
) -> None:
    environment = {"GRAPHQL": "true", **configured(tmp_path, ovens.url)}
    async with local_gateway(store_server.url, tmp_path, (), None, **environment) as gateway:
        query = {"query": '{ oven(ovenId: "7") { ovenId fuel batches } }'}
        reply = await ask(gateway, "POST", "/api/v1/graphql", query, content_type="application/json")
        assert reply.document == {"data": {"oven": {"ovenId": "7", "fuel": "WOOD", "batches": str(2**60)}}}
        assert ovens.metadata["x-user-id"] == access_payload()["user_id"]


async def test_headers_of_the_operators(
    ovens: Ovens, store_server: EmbeddedStore, redis_cli: redis.Redis, tmp_path: Path
) -> None:
    told = 'set_headers = {"x-colour" = "blue"}\nremove_headers = ["accept-language"]'
    more = f'{told}\nresponse_headers = {{"x-made-by" = "ovens"}}'
    async with local_gateway(
        store_server.url, tmp_path, (), None, **configured(tmp_path, ovens.url, more=more)
    ) as gateway:
        reply = await ask(gateway, "GET", f"{API}/7", accept_language="fr", x_colour="red")
        assert reply.header("x-made-by") == "ovens"
        assert ovens.metadata["x-colour"] == "blue"
        assert "accept-language" not in ovens.metadata
