"""The front door: CORS, proxies, hosts, HTTPS, admin routes and shed load, each through the real server."""

from __future__ import annotations

import json
import socket
import threading

import pytest
import redis

from kernel.server.embedded_store import EmbeddedStore
from tests.support.gateway import GatewayFactory
from tests.support.poll import poll
from tests.support.raw import ask, parse_replies, request, send_raw
from tests.support.recorder import Recorder
from tests.support.stack import Stack, stack_env
from tests.support.tokens import access_token, service_token

APP = (b"Origin", b"https://app.example.com")
ASKS = (b"Access-Control-Request-Method", b"POST")


def test_a_preflight_is_answered_before_everything_else(stack: Stack) -> None:
    asked = [APP, ASKS, (b"Access-Control-Request-Headers", b"authorization, content-type")]
    for target in (b"/api/v1/inventory/items", b"/nowhere", b"/metrics"):
        reply = stack.ask("OPTIONS", target, asked, token=None)
        assert reply.status == 204
        assert reply.body == b""
        assert reply.header("access-control-allow-origin") == "https://app.example.com"
        assert reply.header("access-control-allow-credentials") == "true"
        assert "POST" in (reply.header("access-control-allow-methods") or "")
        assert reply.header("access-control-allow-headers") == "authorization, content-type"
        assert reply.header("access-control-max-age") == "600"
        assert reply.header("x-request-id")
        assert reply.header("x-ratelimit-limit") is None
        assert any("Origin" in value for value in reply.all("vary"))
    assert stack.upstream.requests == []


def test_a_preflight_of_a_stranger_allows_nothing(stack: Stack) -> None:
    reply = stack.ask("OPTIONS", headers=[(b"Origin", b"https://evil.example"), ASKS], token=None)
    assert reply.status == 204
    assert not [name for name, _ in reply.headers if name.startswith("access-control-")]
    assert any("Origin" in value for value in reply.all("vary"))


def test_a_preflight_reflects_only_a_list_of_names(stack: Stack) -> None:
    asked = [APP, ASKS, (b"Access-Control-Request-Headers", b"a, <script>")]
    assert stack.ask("OPTIONS", headers=asked, token=None).header("access-control-allow-headers") is None


def test_the_services_own_cors_headers_are_replaced(stack: Stack) -> None:
    stack.upstream.response_headers += [
        (b"Access-Control-Allow-Origin", b"*"),
        (b"Access-Control-Allow-Credentials", b"true"),
        (b"X-Request-ID", b"theirs"),
        (b"X-Kept", b"1"),
    ]
    reply = stack.ask(headers=[APP])
    assert reply.all("access-control-allow-origin") == ["https://app.example.com"]
    assert len(reply.all("x-request-id")) == 1
    assert reply.header("x-kept") == "1"
    stranger = stack.ask(headers=[(b"Origin", b"https://evil.example")])
    assert stranger.all("access-control-allow-origin") == []
    assert stranger.all("access-control-allow-credentials") == []


def test_an_options_request_that_is_no_preflight_needs_a_token(stack: Stack) -> None:
    assert stack.ask("OPTIONS", token=None).status == 401
    assert stack.ask("OPTIONS").status == 200
    assert stack.seen().method == "OPTIONS"


@pytest.fixture(scope="module")
def proxied(gateway_factory: GatewayFactory, upstream: Recorder, session_store: EmbeddedStore) -> Stack:
    """A gateway in prod, behind a trusted load balancer on this machine."""
    changes = {
        "ENVIRONMENT": "prod",
        "TRUSTED_PROXIES": "127.0.0.0/8",
        "ALLOWED_HOSTS": "api.example.com,*.bakery.example",
        "ADMIN_ALLOW": "10.0.0.0/8",
    }
    return Stack(gateway_factory(stack_env(upstream, session_store, **changes)), upstream)


def behind(client: bytes = b"203.0.113.7", proto: bytes = b"https") -> list[tuple[bytes, bytes]]:
    return [(b"X-Forwarded-For", client), (b"X-Forwarded-Proto", proto)]


HOST = b"api.example.com"


def test_a_trusted_proxy_is_believed(proxied: Stack) -> None:
    proxied.upstream.clear()
    given = [*behind(b"198.51.100.9, 203.0.113.7"), (b"X-Request-ID", b"from-the-balancer-1")]
    reply = proxied.ask(headers=given, host=HOST)
    assert reply.status == 200
    assert reply.header("x-request-id") == "from-the-balancer-1"
    assert reply.header("strict-transport-security")
    seen = proxied.seen()
    assert seen.header("x-forwarded-for") == ["198.51.100.9, 203.0.113.7, 127.0.0.1"]
    assert seen.header("x-forwarded-proto") == ["https"]
    assert seen.header("x-forwarded-host") == ["api.example.com"]
    assert seen.header("x-request-id") == ["from-the-balancer-1"]


@pytest.mark.parametrize(
    ("told", "host"),
    [
        ((b"X-Forwarded-Host", b"app.bakery.example"), "app.bakery.example"),
        ((b"X-Forwarded-Host", b"evil.test, app.bakery.example"), "app.bakery.example"),
        ((b"X-Forwarded-Host", b'"><script>'), "api.example.com"),
        ((b"Forwarded", b"for=203.0.113.7;proto=https;host=app.bakery.example"), "app.bakery.example"),
    ],
)
def test_the_host_a_trusted_proxy_tells_is_the_requests_host(
    proxied: Stack, told: tuple[bytes, bytes], host: str
) -> None:
    proxied.upstream.clear()
    others = [] if told[0] == b"Forwarded" else behind()
    assert proxied.ask(headers=[*others, told], host=HOST).status == 200
    assert proxied.seen().header("x-forwarded-host") == [host]
    plain = [(b"X-Forwarded-Proto", b"http"), (b"X-Forwarded-Host", b"app.bakery.example:80")]
    assert proxied.ask("GET", b"/x", plain, host=HOST).header("location") == "https://app.bakery.example/x"


def test_a_proxy_that_tells_no_address_adds_its_own_alone(proxied: Stack) -> None:
    proxied.upstream.clear()
    assert proxied.ask(headers=behind(b" , "), host=HOST).status == 200
    assert proxied.seen().header("x-forwarded-for") == ["127.0.0.1"]


@pytest.mark.parametrize("given", [b"short", b"x" * 129, b"with space", b"a\tb-c-d-e-f"])
def test_an_unsafe_request_id_is_replaced_even_from_a_trusted_proxy(proxied: Stack, given: bytes) -> None:
    reply = proxied.ask(headers=[*behind(), (b"X-Request-ID", given)], host=HOST)
    assert reply.header("x-request-id") != given.decode()


def test_plain_http_is_redirected_or_refused_in_prod(proxied: Stack) -> None:
    reply = proxied.ask("GET", b"/api/v1/sales/x?y=1", behind(proto=b"http"), host=HOST)
    assert reply.status == 308
    assert reply.header("location") == "https://api.example.com/api/v1/sales/x?y=1"
    refused = proxied.ask("POST", b"/api/v1/sales", behind(proto=b"http"), b"{}", host=HOST)
    assert refused.status == 403
    assert json.loads(refused.body)["code"] == "https-required"
    assert ask(proxied.port, request(target=b"/health/live", host=b"10.1.2.3")).status == 200


@pytest.mark.parametrize(
    "host", [b"evil.example", b"bakery.example", b"api.example.com.evil.example", b"10.1.2.3"]
)
def test_foreign_hosts_are_refused(proxied: Stack, host: bytes) -> None:
    reply = proxied.ask(headers=behind(), host=host)
    assert reply.status == 400
    assert json.loads(reply.body)["code"] == "bad-host"


@pytest.mark.parametrize("host", [b"API.example.com", b"api.example.com:443", b"a.bakery.example"])
def test_own_hosts_are_served(proxied: Stack, host: bytes) -> None:
    assert proxied.ask(headers=behind(), host=host).status == 200


def test_admin_routes_do_not_exist_for_strangers(proxied: Stack, session_store: EmbeddedStore) -> None:
    def metrics(client: bytes, token: bytes | None = None) -> int:
        return proxied.ask("GET", b"/metrics", behind(client), token=token, host=HOST).status

    assert metrics(b"203.0.113.7") == 404
    assert metrics(b"10.3.4.5") == 200
    assert metrics(b"203.0.113.7", access_token()) == 404
    assert metrics(b"203.0.113.7", service_token()) == 200
    revoked = service_token(jti="admin-routes-revoked")
    assert metrics(b"203.0.113.7", revoked) == 200
    with redis.Redis.from_url(session_store.url) as client:
        client.set("token:revoked:admin-routes-revoked", "1", ex=60)
        poll(lambda: metrics(b"203.0.113.7", revoked) == 404)
        client.delete("token:revoked:admin-routes-revoked")


@pytest.mark.parametrize(
    ("method", "target", "body"),
    [
        ("POST", b"/metrics", b""),
        ("OPTIONS", b"/metrics", b""),
        ("DELETE", b"/openapi.json", b""),
        ("PUT", b"/docs", b""),
        ("GET", b"/internal/v1/tenants/t/read-only", b""),
        ("PUT", b"/internal/v1/tenants/t%2Fu/read-only", b""),
        ("PUT", b"/internal/v1/platform/read-only", b"x" * 5000),
        ("GET", b"/internal/v1/no-such-thing", b""),
    ],
)
def test_a_stranger_learns_of_no_admin_route(proxied: Stack, method: str, target: bytes, body: bytes) -> None:
    def ask(client: bytes) -> tuple[int, str | None]:
        reply = proxied.ask(method, target, behind(client), body, token=None, host=HOST)
        return reply.status, reply.header("allow")

    assert ask(b"203.0.113.7") == (404, None)
    if b"no-such" not in target:
        # An operator is told what is wrong.
        assert ask(b"10.3.4.5")[0] in {400, 401, 405}


def metrics(port: int) -> str:
    return ask(port, request(target=b"/metrics")).body.decode()


def test_a_flood_beyond_the_cap_is_shed_and_probes_are_not(
    gateway_factory: GatewayFactory, session_store: EmbeddedStore
) -> None:
    release = threading.Event()
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        held = []
        listener.settimeout(0.05)
        while not release.is_set():
            try:
                held.append(listener.accept()[0])
            except TimeoutError:
                continue
        for connection in held:
            connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
            connection.close()
        listener.close()

    thread = threading.Thread(target=serve)
    thread.start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    recorder = Recorder(port=int(url.rpartition(":")[2]))
    env = stack_env(recorder, session_store, MAX_REQUESTS_IN_FLIGHT="4")
    gateway = gateway_factory(env)
    waiting = [socket.create_connection(("127.0.0.1", gateway.port)) for _ in range(4)]
    data = request(headers=[(b"Authorization", b"Bearer " + access_token())])
    try:
        for client in waiting:
            client.sendall(data)
        poll(lambda: "gateway_requests_in_flight 4.0" in metrics(gateway.port))
        reply = parse_replies(send_raw(gateway.port, data))
        assert reply[0].status == 503
        assert json.loads(reply[0].body)["code"] == "overloaded"
        assert reply[0].header("retry-after") == "1"
        assert reply[0].header("x-request-id")
        assert ask(gateway.port, request(target=b"/health/live")).status == 200
        release.set()
        for client in waiting:
            client.settimeout(5)
            assert b" 200 " in client.recv(100)
    finally:
        release.set()
        thread.join()
        for client in waiting:
            client.close()


def test_http_1_0_needs_no_host(stack: Stack, proxied: Stack) -> None:
    probe = b"GET /health/live HTTP/1.0\r\n\r\n"
    assert ask(stack.port, probe).status == 200
    assert ask(proxied.port, probe).status == 200  # probes are answered under any name
    other = probe.replace(b"/health/live", b"/problems/bad-host")
    assert ask(stack.port, other).status == 200
    refused = ask(proxied.port, other.replace(b"\r\n\r\n", b"\r\nX-Forwarded-Proto: https\r\n\r\n"))
    assert json.loads(refused.body)["code"] == "bad-host"
    assert json.loads(ask(stack.port, probe.replace(b"1.0", b"1.1")).body)["code"] == "bad-host"


def test_who_does_not_say_what_he_wants_takes_no_connection(
    gateway_factory: GatewayFactory, upstream: Recorder, session_store: EmbeddedStore
) -> None:
    gateway = gateway_factory(
        stack_env(
            upstream,
            session_store,
            HTTP2="true",
            HEADER_TIMEOUT_SECONDS="1",
            CLIENT_KEEPALIVE_SECONDS="2",
        )
    )
    live = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"
    beginnings = (b"", b"P", b"PRI * HTTP/2.0", b"G", b"GET / HTTP/1.1\r\nHost", live, live + b"GET")
    clients = [socket.create_connection(("127.0.0.1", gateway.port)) for _ in beginnings]
    for client, said in zip(clients, beginnings, strict=True):
        client.settimeout(20)
        client.sendall(said)
    for client, said in zip(clients, beginnings, strict=True):
        got = b""
        while data := client.recv(65536):
            got += data
        assert got.startswith(b"HTTP/1.1 200" if live in said else b"")
        assert got.count(b"HTTP/1.1") == said.count(live)
        client.close()
    silent = 'gateway_client_connections_closed_total{reason="silent"} '
    assert float(metrics(gateway.port).partition(silent)[2].partition("\n")[0]) >= 3


def test_what_pages_may_read_and_how_long_a_preflight_holds_are_settings(
    gateway_factory: GatewayFactory, upstream: Recorder, session_store: EmbeddedStore
) -> None:
    changes = {"CORS_EXPOSE_HEADERS": "X-Page-Count", "CORS_MAX_AGE": "7200"}
    stack = Stack(gateway_factory(stack_env(upstream, session_store) | changes), upstream)
    origin = (b"Origin", b"https://app.example.com")
    assert "x-page-count" in (stack.ask(headers=[origin]).header("access-control-expose-headers") or "")
    asked = [origin, (b"Access-Control-Request-Method", b"PUT")]
    assert stack.ask("OPTIONS", headers=asked).header("access-control-max-age") == "7200"
