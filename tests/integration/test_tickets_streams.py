"""Browsers' streams through real gateways: what a plain EventSource does, and that no log learns a credential."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from uuid import uuid4

import pytest
import redis

from kernel.server.embedded_store import EmbeddedStore
from tests.support.auth_service import counter
from tests.support.eventstream import EventSource
from tests.support.gateway import GatewayFactory
from tests.support.poll import poll
from tests.support.raw import request, send_raw
from tests.support.recorder import Recorder
from tests.support.stack import Stack, stack_env
from tests.support.tokens import OTHER_TENANT, TENANT, access_token, name_without_jti

TICKET = b"/api/v1/alerts/ticket"
STREAM = "/api/v1/alerts/stream"


@pytest.fixture(scope="module")
def stacks(
    gateway_factory: GatewayFactory, upstream: Recorder, session_store: EmbeddedStore
) -> tuple[Stack, Stack]:
    """Two gateways on one store, which log all there is to log."""
    env = stack_env(upstream, session_store, LOG_LEVEL="DEBUG")
    return Stack(gateway_factory(env), upstream), Stack(gateway_factory(env), upstream)


@pytest.fixture
def store(session_store: EmbeddedStore) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(session_store.url, decode_responses=True) as client:
        yield client


def ticket(stack: Stack, token: bytes, path: bytes = TICKET) -> str:
    reply = stack.ask("POST", path, token=token)
    assert reply.status == 200
    return str(json.loads(reply.body)["ticket"])


def open_stream(stack: Stack, target: str, **options: object) -> EventSource:
    return EventSource(stack.port, target, token=None, **options)  # type: ignore[arg-type]


def publish(store: redis.Redis, tenant: str, *names: str) -> None:
    for name in names:
        document = {
            "alert_id": name,
            "severity": "high",
            "message": name,
            "timestamp": "2026-11-23T05:00:00Z",
        }
        assert store.publish(f"alerts:tenant:{tenant}", json.dumps(document))


def names(source: EventSource, count: int) -> list[str]:
    return [message.json["alert_id"] for message in source.take(count)]


def test_a_stream_opened_by_ticket_is_cut_reconnects_by_itself_and_misses_nothing(
    stacks: tuple[Stack, Stack], store: redis.Redis
) -> None:
    here, there = stacks
    tenant = f"t-{uuid4().hex}"
    target = f"{STREAM}?ticket={ticket(here, access_token(tenant_id=tenant))}"
    with open_stream(there, target) as source:
        assert source.status == 200
        kept = source.headers["set-cookie"].partition(";")[0]
        source.ready()
        publish(store, tenant, "one", "two")
        assert names(source, 2) == ["one", "two"]
        last = source.last_id
    publish(store, tenant, "three")
    # As a browser does: the same URL, its cookie, the last id.
    for stack, name in ((here, "three"), (there, "four")):
        with open_stream(stack, target, last_id=last, headers={"Cookie": kept}) as source:
            assert source.status == 200
            assert names(source, 1) == [name]
            last = source.last_id
        publish(store, tenant, "four" if name == "three" else "five")
    with open_stream(here, target, last_id=last) as source:
        assert source.status == 401


@pytest.mark.parametrize("opened_by", ["token", "ticket", "resumed ticket"])
def test_a_stream_without_headers_ends_when_its_token_is_revoked(
    stacks: tuple[Stack, Stack], store: redis.Redis, opened_by: str
) -> None:
    here, there = stacks
    tenant = f"t-{uuid4().hex}"
    # Without a jti a token is revoked by its digest, which its ticket must know.
    token = access_token(tenant_id=tenant)
    headers = {}
    if opened_by == "token":
        target = f"{STREAM}?token={token.decode()}"
    else:
        target = f"{STREAM}?ticket={ticket(here, token)}"
    if opened_by == "resumed ticket":
        with open_stream(here, target) as source:
            headers["Cookie"] = source.headers["set-cookie"].partition(";")[0]
    with open_stream(there, target, headers=headers) as source:
        assert source.status == 200
        source.ready()
        store.set(f"token:revoked:{name_without_jti(token)}", "logout")
        message = source.next()
        assert (message.event, message.json) == ("auth-expired", {"code": "token-revoked"})
        assert source.until_closed() == []


def test_a_stream_opened_by_ticket_ends_with_the_token_behind_it(stacks: tuple[Stack, Stack]) -> None:
    here, there = stacks
    token = access_token(tenant_id=f"t-{uuid4().hex}", exp=time.time() + 1.5)
    with open_stream(there, f"{STREAM}?ticket={ticket(here, token)}") as source:
        assert source.status == 200
        message = source.next()
        assert (message.event, message.json) == ("auth-expired", {"code": "token-expired"})


def test_a_tenants_own_path_has_tickets_too(stacks: tuple[Stack, Stack]) -> None:
    here, _ = stacks
    path = f"/api/v1/tenants/{OTHER_TENANT}/alerts"
    made = ticket(here, access_token(), f"{path}/ticket".encode())
    with open_stream(here, f"{path}/stream?ticket={made}") as source:
        assert source.status == 200
        assert f"Path={path}/stream;" in source.headers["set-cookie"]
    made = ticket(here, access_token(), f"{path}/ticket".encode())
    with open_stream(here, f"/api/v1/tenants/{TENANT}/alerts/stream?ticket={made}") as source:
        assert source.status == 403


def test_no_log_learns_a_ticket_a_token_or_a_cookie(stacks: tuple[Stack, Stack], store: redis.Redis) -> None:
    here, _ = stacks
    token = access_token(tenant_id=f"t-{uuid4().hex}")
    text = token.decode()
    made = ticket(here, token)
    with open_stream(here, f"{STREAM}?ticket={made}") as source:
        kept = source.headers["set-cookie"].partition(";")[0].partition("=")[2]
    secrets = [made, kept, text, *text.split(".")]

    def send(target: str, *headers: tuple[str, str]) -> bytes:
        pairs = [(name.encode(), value.encode()) for name, value in headers]
        return send_raw(here.port, request("GET", target.encode(), pairs), timeout=1)

    answers = b"".join(
        [
            send(f"{STREAM}?ticket={made}"),
            send(f"{STREAM}?ticket={made}&ticket={made}"),
            send(f"{STREAM}?severity=loud&token={text}"),
            send(f"{STREAM}?token={text}", ("Authorization", f"Bearer {text}")),
            send(f"{STREAM}?token={text[:-3]}"),
            send(f"/api/v1/inventory/items?token={text}&ticket={made}"),
            send(f"/nowhere/{text}?token={text}"),
            send(f"/nowhere/ticket={made}"),
            send(f"/../{text}?ticket={made}"),
            send(
                "/api/v1/inventory/items", ("Referer", f"https://app.example.com/?ticket={made}&token={text}")
            ),
            send(
                "/api/v1/inventory/items",
                ("Cookie", f"a=b; alerts_resume={kept}"),
                ("User-Agent", f"x {text}"),
            ),
            send("/api/v1/inventory/items", ("Sec-WebSocket-Protocol", f"bearer, {text}")),
            send("/api/v1/inventory/items", ("traceparent", text), ("tracestate", f"a={text}")),
        ]
    )
    # Its request id is in the last line that is written.
    marker = here.ask(token=None, target=b"/api/v1/inventory/the-end").header("x-request-id")
    assert marker
    log = poll(lambda: here.gateway.log() if here.gateway.log().count(marker) >= 2 else "")
    assert "request_started" in log
    assert STREAM in log
    for secret in secrets:
        assert secret not in log
    # Nor does a problem document repeat the query: `instance` is the path.
    for line in answers.split(b"\r\n"):
        if b'"instance":"/api' in line:
            assert not any(secret.encode() in line for secret in secrets)


@pytest.mark.parametrize("offer", [b"\x80", b"bearer, \x80", b"\xff" * 200, b"bearer, " + b"A" * 5000])
def test_an_offer_of_subprotocols_that_is_no_text_harms_nobody(
    stacks: tuple[Stack, Stack], offer: bytes
) -> None:
    here, _ = stacks
    started = counter(here.port, "process_start_time_seconds")
    for target in (STREAM.encode(), b"/api/v1/training/ws"):
        handshake = [
            (b"Connection", b"Upgrade"),
            (b"Upgrade", b"websocket"),
            (b"Sec-WebSocket-Version", b"13"),
            (b"Sec-WebSocket-Key", b"dGhlIHNhbXBsZSBub25jZQ=="),
            (b"Sec-WebSocket-Protocol", offer),
        ]
        reply = send_raw(here.port, request("GET", target, handshake), timeout=1)
        assert not reply.startswith((b"HTTP/1.1 101", b"HTTP/1.1 5"))
    # By the same worker; each scrape computes its start anew from the clock.
    assert here.ask().status == 200
    assert counter(here.port, "process_start_time_seconds") == pytest.approx(started, abs=0.01)
