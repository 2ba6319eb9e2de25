"""gRPC services that fail: which problem it is, what the breaker hears of it, and who is asked next."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import msgspec
import pytest
import redis

from kernel.server.embedded_store import EmbeddedStore
from kernel.upstream.breaker import CLOSED, OPEN
from tests.support.certificates import pair
from tests.support.gateway import free_port
from tests.support.grpc_service import Ovens, configured, ovens_service
from tests.support.inprocess import Local, Reply, local_gateway
from tests.support.store import until
from tests.support.tokens import access_token

API = "/api/v1/ovens"


@pytest.fixture
async def ovens() -> AsyncIterator[Ovens]:
    async with ovens_service() as service:
        yield service


@asynccontextmanager
async def gateway_to(
    store: EmbeddedStore, directory: Path, *urls: str, more: str = "", **environment: str
) -> AsyncIterator[Local]:
    named = {**configured(directory, *urls, more=more), **environment}
    async with local_gateway(store.url, directory, (), None, **named) as local:
        yield local


@pytest.fixture
async def gateway(
    ovens: Ovens, store_server: EmbeddedStore, redis_cli: redis.Redis, tmp_path: Path
) -> AsyncIterator[Local]:
    async with gateway_to(store_server, tmp_path, ovens.url) as local:
        yield local


async def heat(gateway: Local, behaviour: str, gone: asyncio.Event | None = None, **fields: Any) -> Reply:
    body = msgspec.json.encode({"behaviour": behaviour, **fields})
    return await gateway.ask("POST", f"{API}/7:heat", access_token(), body, gone=gone)


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("CANCELLED", 499), ("UNKNOWN", 500), ("INVALID_ARGUMENT", 400), ("DEADLINE_EXCEEDED", 504), ("NOT_FOUND", 404),
        ("ALREADY_EXISTS", 409), ("PERMISSION_DENIED", 403), ("RESOURCE_EXHAUSTED", 429), ("FAILED_PRECONDITION", 400),
        ("ABORTED", 409), ("OUT_OF_RANGE", 400), ("UNIMPLEMENTED", 501), ("INTERNAL", 500), ("UNAVAILABLE", 503),
        ("DATA_LOSS", 500), ("UNAUTHENTICATED", 401),
    ],
)  # fmt: skip
async def test_each_status_has_its_own(gateway: Local, name: str, status: int) -> None:
    reply = await heat(gateway, f"status:{name}")
    document = reply.document
    assert (reply.status, document["status"], document["grpc_status"]) == (status, status, name)
    assert document["code"] == f"grpc-{name.lower().replace('_', '-')}"
    assert reply.header("grpc-status") == str(grpc.StatusCode[name].value[0])
    # What a framework makes of an exception stays here.
    assert ("no heat in 7" in document["detail"]) == (name != "UNKNOWN")


async def test_an_exceptions_text_is_not_passed_on(gateway: Local) -> None:
    reply = await heat(gateway, "raise")
    assert (reply.status, reply.code) == (500, "grpc-unknown")
    assert b"swordfish" not in reply.body


async def test_details_are_shown_where_their_types_are_known(gateway: Local) -> None:
    reply = await heat(gateway, "rich")
    assert reply.document["detail"] == "the oven cannot do that: celsius: must be at most 300."
    assert reply.document["details"] == [
        {
            "@type": "type.googleapis.com/google.rpc.BadRequest",
            "fieldViolations": [{"field": "celsius", "description": "must be at most 300"}],
        },
        {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "TOO_HOT", "domain": "ovens"},
        {"@type": "type.googleapis.com/bakery.Nobody", "value": "Pw=="},
    ]


async def test_the_client_that_leaves_cancels(gateway: Local, ovens: Ovens) -> None:
    gone = asyncio.Event()
    asked = asyncio.create_task(heat(gateway, "sleep:60", gone))
    await until(lambda: ovens.calls == ["Heat"])
    gone.set()
    await until(lambda: ovens.cancelled == 1)
    assert (await asked).status == 0  # there is nobody to tell
    assert gateway.state.metrics.problems["client-gone"] == 1
    assert gateway.state.upstreams["ovens"].replicas[0].pool.size == 0


async def test_messages_have_a_size(
    ovens: Ovens, store_server: EmbeddedStore, redis_cli: redis.Redis, tmp_path: Path
) -> None:
    more = 'max_message = "256KiB"\nmax_body = "8MiB"'
    async with gateway_to(store_server, tmp_path, ovens.url, more=more) as gateway:
        reply = await heat(gateway, "large:200000")
        assert (reply.status, len(reply.document["photo"]) > 200_000) == (200, True)
        reply = await heat(gateway, "large:300000")
        assert (reply.status, reply.code) == (502, "upstream-too-large")
        # More than a gRPC server takes of itself, then more than the route takes.
        reply = await heat(gateway, "", padding=1)
        assert reply.code == "bad-request"
        body = msgspec.json.encode({"behaviour": "x" * 5_000_000})
        reply = await gateway.ask("POST", f"{API}/7:heat", access_token(), body)
        assert (reply.status, reply.code) == (413, "body-too-large")
        reply = await gateway.ask("POST", f"{API}/7:heat", access_token(), b"x" * 9_000_000)
        assert (reply.status, reply.code) == (413, "body-too-large")
        # It was nobody's fault.
        assert gateway.state.upstreams["ovens"].breaker_state == CLOSED


async def test_an_answer_that_has_no_json_form(gateway: Local) -> None:
    reply = await heat(gateway, "unknown-any")
    assert (reply.status, reply.code) == (502, "upstream-protocol")


async def test_a_dead_service_opens_its_breaker(
    store_server: EmbeddedStore, redis_cli: redis.Redis, tmp_path: Path
) -> None:
    port = free_port()
    async with gateway_to(store_server, tmp_path, f"grpc://127.0.0.1:{port}") as gateway:
        for _ in range(5):
            reply = await heat(gateway, "")
            assert (reply.status, reply.code) == (502, "upstream-connect")
            assert b"127.0.0.1" not in reply.body
        reply = await heat(gateway, "")
        assert (reply.status, reply.code) == (503, "upstream-open")
        assert reply.header("retry-after")
        assert gateway.state.upstreams["ovens"].breaker_state == OPEN
        outcomes = gateway.state.metrics.upstream("ovens").outcomes
        assert (outcomes["upstream-connect"], outcomes["upstream-open"]) == (5, 1)
        async with ovens_service(port):
            for _ in range(2000):
                if (await heat(gateway, "")).status == 200:
                    break
                await asyncio.sleep(0.01)
            assert gateway.state.upstreams["ovens"].breaker_state == CLOSED


async def test_unavailable_counts_as_a_failure(gateway: Local) -> None:
    for _ in range(5):
        assert (await heat(gateway, "status:UNAVAILABLE")).status == 503
    assert (await heat(gateway, "")).code == "upstream-open"


async def test_other_statuses_are_answers(gateway: Local) -> None:
    for _ in range(10):
        assert (await heat(gateway, "status:INTERNAL")).status == 500
    assert (await heat(gateway, "")).status == 200
    assert gateway.state.metrics.upstream("ovens").outcomes == {"5xx": 10, "2xx": 1}


async def test_another_replica_is_asked_when_one_is_dead(
    ovens: Ovens, store_server: EmbeddedStore, redis_cli: redis.Redis, tmp_path: Path
) -> None:
    dead = f"grpc://127.0.0.1:{free_port()}"
    async with gateway_to(store_server, tmp_path, dead, ovens.url) as gateway:
        assert {(await heat(gateway, "")).status for _ in range(20)} == {200}
        assert len(ovens.calls) == 20
        assert gateway.state.metrics.upstream("ovens").retries >= 1


async def test_what_speaks_no_grpc(
    store_server: EmbeddedStore, redis_cli: redis.Redis, tmp_path: Path
) -> None:
    async def http1(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(http1, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, gateway_to(store_server, tmp_path, f"grpc://127.0.0.1:{port}") as gateway:
        reply = await heat(gateway, "")
        assert (reply.status, reply.code) == (502, "upstream-connect")


async def test_who_accepts_and_is_silent(
    store_server: EmbeddedStore, redis_cli: redis.Redis, tmp_path: Path
) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        url = f"grpc://127.0.0.1:{listener.getsockname()[1]}"
        async with gateway_to(store_server, tmp_path, url, CONNECT_TIMEOUT_SECONDS="0.5") as gateway:
            reply = await heat(gateway, "")
            assert (reply.status, reply.code) == (504, "upstream-connect-timeout")


async def test_a_service_that_dies_under_a_call(
    ovens: Ovens, store_server: EmbeddedStore, redis_cli: redis.Redis, tmp_path: Path
) -> None:
    async with gateway_to(store_server, tmp_path, ovens.url) as gateway:
        asked = asyncio.create_task(heat(gateway, "sleep:60"))
        await until(lambda: ovens.calls == ["Heat"])
        await ovens.server.stop(0)
        reply = await asked
        assert reply.status in {502, 503}, reply.document
        assert reply.code in {"upstream-reset", "grpc-unavailable", "upstream-connect"}
        # A write is not sent twice.
        assert ovens.calls == ["Heat"]


async def test_tls_with_an_authority_of_our_own(
    store_server: EmbeddedStore, redis_cli: redis.Redis, tmp_path: Path
) -> None:
    chain, key = pair(tmp_path)
    credentials = grpc.ssl_server_credentials(
        [(key.read_bytes(), chain.read_bytes())], chain.read_bytes(), require_client_auth=True
    )
    async with ovens_service(0, credentials) as ovens:
        url = f"https://localhost:{ovens.port}"
        trust = f'ca = "{chain}"\n'
        shown = f'{trust}client_cert = "{chain}"\nclient_key = "{key}"'
        async with gateway_to(store_server, tmp_path, url, more=shown) as gateway:
            assert (await heat(gateway, "")).status == 200
            # Wherever its name leads to, it is the name that the certificate is for; and who moves is called there.
            replica = gateway.state.upstreams["ovens"].replicas[0]
            service = gateway.state.grpc["ovens"]
            before = service.channel(replica)
            replica.move(("127.0.0.1", "::1") if replica.pool.ips != ("127.0.0.1", "::1") else ("127.0.0.1",))
            assert service.channel(replica) is not before
            assert (await heat(gateway, "")).status == 200
        async with gateway_to(store_server, tmp_path, url, more=trust) as gateway:
            assert (await heat(gateway, "")).status == 502
        async with gateway_to(store_server, tmp_path, url) as gateway:
            assert (await heat(gateway, "")).code == "upstream-connect"


async def test_health_is_asked_by_its_own_protocol(gateway: Local, ovens: Ovens) -> None:
    service = gateway.state.grpc["ovens"]
    assert await service.probe() == ""
    ovens.health = 2
    assert await service.probe() == "does not serve"
    await ovens.server.stop(0)
    # The first one may still be on the connection that goes.
    while await service.probe() != "service unreachable":
        await asyncio.sleep(0.05)
    assert "127.0.0.1" in service.trouble


async def test_idempotency_keys_are_heeded(
    ovens: Ovens, store_server: EmbeddedStore, redis_cli: redis.Redis, tmp_path: Path
) -> None:
    async def keyed(key: str, behaviour: str = "") -> Reply:
        body = msgspec.json.encode({"behaviour": behaviour})
        headers = {"idempotency-key": f'"{key}-0123456789abcdef"'}
        while True:
            reply = await local.ask("POST", f"{API}/7:heat", access_token(), body, headers=headers)
            if reply.code != "idempotency-unavailable":  # a busy machine's store
                return reply
            await asyncio.sleep(0.05)

    async with gateway_to(store_server, tmp_path, ovens.url, more='idempotency = "optional"') as local:
        first, second = await keyed("a"), await keyed("a")
        assert (first.status, first.body) == (second.status, second.body) == (200, second.body)
        assert second.header("idempotent-replayed") == "true"
        # A status of the service is its answer, too.
        first, second = await keyed("b", "status:NOT_FOUND"), await keyed("b", "status:NOT_FOUND")
        assert (first.status, first.code, second.status, second.code) == (
            404,
            "grpc-not-found",
            404,
            "grpc-not-found",
        )
        assert len(ovens.calls) == 2
        await ovens.server.stop(0)
        # Never sent: it may be tried again under its key.
        assert {(await keyed("c")).status for _ in range(2)} == {502}


async def test_large_messages_take_turns(
    ovens: Ovens, store_server: EmbeddedStore, redis_cli: redis.Redis, tmp_path: Path
) -> None:
    async with gateway_to(store_server, tmp_path, ovens.url, QUEUE_TIMEOUT_SECONDS="0.2") as gateway:
        assert (await heat(gateway, "x" * 100_000)).status == 200
        await gateway.state.grpc["ovens"].turn.acquire()
        reply = await heat(gateway, "x" * 100_000)
        assert (reply.status, reply.code, reply.header("retry-after")) == (503, "upstream-busy", "1")
        assert (await heat(gateway, "")).status == 200
        gateway.state.grpc["ovens"].turn.release()
        assert (await heat(gateway, "x" * 100_000)).status == 200


async def test_a_unix_socket(
    ovens: Ovens, store_server: EmbeddedStore, redis_cli: redis.Redis, tmp_path: Path
) -> None:
    async with (
        ovens_service(at=f"unix:{tmp_path}/ovens.sock") as there,
        gateway_to(store_server, tmp_path, f"unix://{tmp_path}/ovens.sock") as gateway,
    ):
        assert (await heat(gateway, "")).status == 200
        assert there.calls == ["Heat"]
