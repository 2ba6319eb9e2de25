"""Paths and headers that a route changes on their way: what the service sees, what policies and the log go by."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response

from kernel.server.embedded_store import EmbeddedStore
from tests.support.gateway import GatewayFactory, free_port
from tests.support.poll import poll
from tests.support.raw import ask, request
from tests.support.recorder import Recorder
from tests.support.stack import Stack, stack_env
from tests.support.tokens import access_token

CONFIG = """
[services.pos]
strip_prefix = "/api/v1"

[services.suppliers]
strip_prefix = "/api/v1/suppliers"

[services.sales]
set_headers = {X-Channel = "gateway", x-colour = "blue"}
remove_headers = ["X-Debug"]
response_headers = {Cache-Control = "no-store", server = "", x-powered-by = "", vary = "Accept"}

[services.training]
url = "http://127.0.0.1:%d"

[[routes]]
pattern = "/api/v1/inventory/items/{id}/history/**"
service = "inventory"
rewrite = "/v3/history/{id}/**"
min_tier = "enterprise"
allow_encoded_slash = true

[[routes]]
pattern = "/api/v1/training/{model}/ws"
service = "training"
websocket = true
rewrite = "/live/{model}"
set_headers = {x-channel = "gateway"}

[[routes]]
pattern = "/api/v1/auth/logout"
rewrite = "/sessions/end"
set_headers = {x-channel = "gateway"}
response_headers = {cache-control = "no-store"}

[[routes]]
pattern = "/api/v1/inventory/broken"
service = "production"
response_headers = {cache-control = "max-age=60"}
"""


@pytest.fixture(scope="module")
def socket_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def rewriting(
    gateway_factory: GatewayFactory,
    upstream: Recorder,
    session_store: EmbeddedStore,
    tmp_path_factory: pytest.TempPathFactory,
    socket_port: int,
) -> Stack:
    config: Path = tmp_path_factory.mktemp("rewrites") / "gateway.toml"
    config.write_text(CONFIG % socket_port)
    env = stack_env(
        upstream, session_store, GATEWAY_CONFIG=str(config), PRODUCTION_SERVICE_URL="http://127.0.0.1:1"
    )
    del env["TRAINING_SERVICE_URL"]
    return Stack(gateway_factory(env), upstream)


@pytest.fixture
def stack(rewriting: Stack) -> Stack:
    rewriting.upstream.clear()
    return rewriting


def enterprise() -> bytes:
    return access_token(tenant_id="tenant-1", subscription={"tier": "enterprise", "status": "active"})


@pytest.mark.parametrize("body", [b"", b"x" * 300_000])
def test_the_service_sees_the_other_path_on_every_lane(stack: Stack, body: bytes) -> None:
    # The second one goes by callbacks, if it has no body; the last is streamed.
    for _ in range(2):
        method = "POST" if body else "GET"
        stack.ask(method, b"/api/v1/pos/terminals/1%20a?q=%2F", body=body)
    scoped = b"/api/v1/tenants/tenant-1/pos/terminals"
    stack.ask(target=scoped, token=access_token(tenant_id="tenant-1"))
    assert [seen.target for seen in stack.upstream.requests] == [
        b"/pos/terminals/1%20a?q=%2F",
        b"/pos/terminals/1%20a?q=%2F",
        b"/tenants/tenant-1/pos/terminals",
    ]


@pytest.mark.parametrize(
    ("path", "prefix"),
    [
        (b"/api/v1/pos/terminals/7", "/api/v1"),
        (b"/api/v1/tenants/tenant-1/pos", "/api/v1"),
        (b"/api/v1/suppliers", "/api/v1/suppliers"),
        (b"/api/v1/suppliers/7", "/api/v1/suppliers"),
        (b"/api/v1/tenants/tenant-1/suppliers/7", "/api/v1/tenants/tenant-1/suppliers"),
    ],
)
def test_a_service_is_told_what_was_stripped_and_by_the_gateway_alone(
    stack: Stack, path: bytes, prefix: str
) -> None:
    forged = [(b"x-forwarded-prefix", b"/forged"), (b"X_Forwarded_Prefix", b"/forged")]
    stack.ask(target=path, headers=forged, token=access_token(tenant_id="tenant-1"))
    seen = stack.seen()
    assert [value for name, value in seen.headers if b"prefix" in name.lower()] == [prefix.encode()]
    assert seen.target == path.removeprefix(prefix.encode()) or (seen.target, path) == (b"/", prefix.encode())


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (b"/suppliers-are-mine", b"/api/v1/suppliers/suppliers-are-mine"),
        (b"/7", b"/api/v1/suppliers/7"),
        (b"/api/v1/suppliers/7", b"/api/v1/suppliers/7"),
        (b"https://example.com/7", b"https://example.com/7"),
        (b"7", b"7"),
    ],
)
def test_where_a_service_leads_is_told_as_clients_reach_it(stack: Stack, said: bytes, told: bytes) -> None:
    for _ in range(2):
        stack.upstream.response_headers.append((b"Location", said))
        reply = stack.ask(target=b"/api/v1/suppliers")
        stack.upstream.response_headers.clear()
        assert reply.all("location") == [told.decode()]


def test_policies_decide_on_what_came_and_variables_stay_in_their_segments(stack: Stack) -> None:
    path = b"/api/v1/inventory/items/%b/history/2026/may"
    starter = access_token(subscription={"tier": "starter", "status": "active"})
    assert json.loads(stack.ask(target=path % b"7", token=starter).body)["code"] == "tier-required"
    for value in (
        b"..",
        b"%2e%2e",
        b"a%2F..%2Fb",
        b"a%5Cb",
        b"a%0d%0ab",
        b"a%00",
        b"%c0%ae",
        b";x",
        b"a%2Fb",
    ):
        assert stack.ask(target=path % value, token=enterprise()).status in (400, 404)
    assert not stack.upstream.requests
    stack.ask(target=path % b"7" + b"%2Fb", token=enterprise())
    assert stack.upstream.requests.pop().target == b"/v3/history/7/2026/may%2Fb"
    for value in (b"7", b"a%3Fb", b"a%23b", b"a;v=1", b"%7B"):
        assert stack.ask(target=path % value, token=enterprise()).status == 200
        assert stack.upstream.requests.pop().target == b"/v3/history/%b/2026/may" % value


def test_the_log_and_problems_have_what_the_client_asked_for(stack: Stack) -> None:
    reply = stack.ask(target=b"/api/v1/pos/terminals/seen-in-log")
    asked = reply.header("x-request-id")
    assert asked

    def line() -> dict[str, object] | None:
        for text in stack.gateway.log().splitlines():
            if asked in text and '"event":"request"' in text:
                found: dict[str, object] = json.loads(text)
                return found
        return None

    found = poll(line)
    assert found is not None
    assert (found["path"], found["route"]) == ("/api/v1/pos/terminals/seen-in-log", "/api/v1/pos/**")


def test_headers_are_set_and_removed_whatever_the_client_says(stack: Stack) -> None:
    forged = [
        (b"x-channel", b"forged"),
        (b"X_Channel", b"forged"),
        (b"x-debug", b"1"),
        (b"X_debug", b"1"),
        (b"x-colours", b"red"),
        # What is named here is of this hop alone; what the gateway sets is not.
        (b"connection", b"x-channel, x-colour, x-user-id"),
    ]
    for _ in range(2):
        assert stack.ask(target=b"/api/v1/sales/records", headers=forged).status == 200
        seen = stack.upstream.requests.pop()
        assert seen.header("x-channel") == ["gateway"]
        assert seen.header("x-colour") == ["blue"]
        assert seen.header("x-colours") == ["red"]
        assert not [seen.header(name) for name in ("x_channel", "x-debug", "x_debug") if seen.header(name)]
        assert len(seen.header("x-user-id")) == len(seen.header("x-request-id")) == 1


def test_headers_of_answers_are_set_and_removed_but_for_the_gateways_own(stack: Stack) -> None:
    for _ in range(2):
        stack.upstream.response_headers += [
            (b"Server", b"old"),
            (b"X-Powered-By", b"old"),
            (b"cache-control", b"max-age=60"),
            (b"cache-control", b"private"),
            (b"Vary", b"Cookie"),
        ]
        reply = stack.ask(target=b"/api/v1/sales/records", headers=[(b"origin", b"https://app.example.com")])
        stack.upstream.response_headers.clear()
        assert reply.all("cache-control") == ["no-store"]
        assert not reply.all("x-powered-by")
        assert "old" not in reply.all("server")
        assert sorted(reply.all("vary")) == ["Accept", "Origin"]
        assert len(reply.all("x-request-id")) == len(reply.all("x-ratelimit-limit")) == 1


def test_a_problem_of_the_gateways_is_left_alone(stack: Stack) -> None:
    reply = stack.ask(target=b"/api/v1/inventory/broken")
    assert reply.status == 502
    assert reply.all("cache-control") == ["no-store"]


def test_a_route_with_an_effect_is_rewritten_and_has_its_effect(stack: Stack) -> None:
    token = access_token(jti="to-be-logged-out")
    reply = stack.ask("POST", b"/api/v1/auth/logout", token=token)
    assert (reply.status, reply.all("cache-control")) == (200, ["no-store"])
    seen = stack.seen()
    assert (seen.target, seen.header("x-channel")) == (b"/sessions/end", ["gateway"])
    assert json.loads(stack.ask(token=token).body)["code"] == "token-revoked"


async def test_a_websocket_is_rewritten(stack: Stack, socket_port: int) -> None:
    asked: list[tuple[str, str | None]] = []

    def process(connection: ServerConnection, request: Request) -> Response | None:
        asked.append((request.path, request.headers.get("x-channel")))
        return None

    async def echo(connection: ServerConnection) -> None:
        async for message in connection:
            await connection.send(message)

    url = f"ws://127.0.0.1:{stack.port}/api/v1/training/m-1/ws?x=1"
    headers = {"Authorization": f"Bearer {access_token().decode()}"}
    async with (
        serve(echo, "127.0.0.1", socket_port, process_request=process),
        connect(url, additional_headers=headers, proxy=None) as client,
    ):
        await client.send("good morning")
        assert await client.recv() == "good morning"
    assert asked[-1] == ("/live/m-1?x=1", "gateway")


def test_metrics_have_the_pattern_that_matched(stack: Stack) -> None:
    stack.ask(target=b"/api/v1/pos/terminals")
    text = ask(stack.port, request(target=b"/metrics")).body.decode()
    assert 'path="/api/v1/pos/**"' in text
    assert 'path="/pos/' not in text
