"""Versions of services' APIs in the running gateway: where they answer, what is demanded there, what callers are told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from kernel.server.embedded_store import EmbeddedStore
from tests.support.gateway import GatewayFactory
from tests.support.poll import poll
from tests.support.raw import Reply, ask, request
from tests.support.recorder import Recorder, recording_upstream
from tests.support.stack import Stack, stack_env
from tests.support.tokens import access_token

CONFIG = """
[services.inventory.versions.v1]
deprecated = 2026-06-01
sunset = 2027-06-30T23:59:59Z
successor = "v2"
deprecation_page = "https://example.com/deprecations"

[services.inventory.versions.v2]
url = "{url}"

[services.orders.versions.v2]
prefix = "/second"

[services.tenant.versions.v2]

[services.alert-processor.versions.v2]
prefix = "/api/v1"

[versions.v1]
sunset_page = "/sunsets"

[[routes]]
pattern = "/api/v1/inventory/exports/**"
service = "inventory"
min_tier = "professional"

[[routes]]
pattern = "/api/v1/inventory/counts/**"
service = "inventory"
limit = {{requests = 3, window = 3600}}

[[routes]]
pattern = "/api/v1/orders/bulk"
service = "orders"
rewrite = "/bulk"

[[routes]]
pattern = "/api/v2/orders/special/{{id}}"
service = "orders"
rewrite = "/elsewhere/{{id}}"
"""


@pytest.fixture(scope="module")
def second() -> Iterator[Recorder]:
    with recording_upstream() as recorder:
        yield recorder


@pytest.fixture(scope="module")
def versioned(
    gateway_factory: GatewayFactory,
    upstream: Recorder,
    second: Recorder,
    session_store: EmbeddedStore,
    tmp_path_factory: pytest.TempPathFactory,
) -> Stack:
    config: Path = tmp_path_factory.mktemp("versions") / "gateway.toml"
    config.write_text(CONFIG.format(url="http://127.0.0.1:1"))
    env = stack_env(upstream, session_store, GATEWAY_CONFIG=str(config), INVENTORY_SERVICE_URL_V2=second.url)
    return Stack(gateway_factory(env), upstream)


@pytest.fixture
def stack(versioned: Stack, second: Recorder) -> Stack:
    versioned.upstream.clear()
    second.clear()
    return versioned


def code(reply: Reply) -> str:
    return str(json.loads(reply.body)["code"])


@pytest.mark.parametrize("path", [b"/api/v2/inventory/items", b"/api/v2/tenants/tenant-1/inventory/items"])
def test_a_version_with_a_url_has_replicas_of_its_own_and_the_variable_overrides_it(
    stack: Stack, second: Recorder, path: bytes
) -> None:
    # Twice: the second one goes by callbacks, on the connection that the first one made.
    for _ in range(2):
        assert stack.ask(target=path + b"?q=1", token=access_token(tenant_id="tenant-1")).status == 200
    assert [seen.target for seen in second.requests] == [path + b"?q=1"] * 2
    assert not stack.upstream.requests


def test_a_version_with_a_prefix_is_asked_below_it(stack: Stack) -> None:
    for _ in range(2):
        stack.ask(target=b"/api/v2/orders/7%20a/lines?q=%2F")
    stack.ask(target=b"/api/v2/orders")
    stack.ask(target=b"/api/v2/orders/")
    assert [seen.target for seen in stack.upstream.requests] == [
        b"/second/orders/7%20a/lines?q=%2F",
        b"/second/orders/7%20a/lines?q=%2F",
        b"/second/orders",
        b"/second/orders/",
    ]


def test_a_version_with_neither_is_sent_what_came(stack: Stack) -> None:
    stack.ask(target=b"/api/v2/tenants/tenant-1/settings", token=access_token(tenant_id="tenant-1"))
    assert stack.seen().target == b"/api/v2/tenants/tenant-1/settings"


def test_a_path_of_v1_that_is_rewritten_says_nothing_of_another_version(stack: Stack) -> None:
    stack.ask(target=b"/api/v1/orders/bulk")
    stack.ask(target=b"/api/v2/orders/bulk")
    stack.ask(target=b"/api/v2/orders/special/7")
    assert [seen.target for seen in stack.upstream.requests] == [
        b"/bulk",
        b"/second/orders/bulk",
        b"/elsewhere/7",
    ]


@pytest.mark.parametrize(
    ("path", "problem", "named"),
    [
        (b"/api/v3/inventory/items", "version-unknown", "inventory has v1 and v2, not v3."),
        (b"/api/v3/tenants/tenant-1/inventory/items", "version-unknown", "inventory has v1 and v2, not v3."),
        (b"/api/v2/sales", "version-unknown", "sales has v1, not v2."),
        # The tenant service has the rest of what is below a tenant.
        (b"/api/v2/tenants/tenant-1/sales/7", "version-unknown", "sales has v1, not v2."),
        # A service's v2 with v1's prefix must not answer what the gateway answers itself, or only for services.
        (
            b"/api/v2/alerts/stream",
            "version-unknown",
            "The gateway answers this itself: in v1 alone, below /api/v1/.",
        ),
        (
            b"/api/v2/alerts/dispatch",
            "version-unknown",
            "The gateway answers this itself: in v1 alone, below /api/v1/.",
        ),
        (b"/api/v2/nothing", "route-unknown", ""),
        (b"/api/v02/inventory", "route-unknown", ""),
        (b"/api/v1000/inventory", "route-unknown", ""),
        (b"/api/V2/inventory", "route-unknown", ""),
        (b"/api/v3", "route-unknown", ""),
    ],
)
@pytest.mark.parametrize("token", [b"", None])
def test_a_version_that_a_service_has_not_is_told_with_those_it_has(
    stack: Stack, path: bytes, problem: str, named: str, token: bytes | None
) -> None:
    method = "POST" if path.endswith(b"dispatch") else "GET"
    reply = stack.ask(method, target=path, token=token)
    assert (reply.status, code(reply)) == (404, problem)
    assert named in json.loads(reply.body)["detail"]
    assert not stack.upstream.requests


@pytest.mark.parametrize("scope", [b"", b"tenants/tenant-1/"])
@pytest.mark.parametrize("version", [b"v1", b"v2"])
def test_what_is_demanded_at_one_version_is_not_to_be_had_at_another(
    stack: Stack, second: Recorder, version: bytes, scope: bytes
) -> None:
    token = access_token(tenant_id="tenant-1", subscription={"tier": "starter", "status": "active"})
    reply = stack.ask(target=b"/api/%b/%binventory/exports/1" % (version, scope), token=token)
    assert (reply.status, code(reply)) == (403, "tier-required")
    assert not second.requests
    # An encoding of the same path is another row's, which would demand less.
    reply = stack.ask(target=b"/api/%b/%binventory/%%65xports/1" % (version, scope), token=token)
    assert (reply.status, code(reply)) == (400, "bad-path")


def test_a_limit_is_one_for_all_versions(stack: Stack) -> None:
    statuses = [
        stack.ask(target=b"/api/%b/inventory/counts/1" % version).status
        for version in (b"v1", b"v2", b"v1", b"v2")
    ]
    assert statuses == [200, 200, 200, 429]


LINKS = (
    '</api/v2/inventory/items/7>; rel="successor-version", <https://example.com/deprecations>; rel="deprecation", '
    '</sunsets>; rel="sunset"'
)


@pytest.mark.parametrize(("token", "status"), [(b"", 200), (None, 401)])
def test_callers_of_a_version_that_ends_are_told_by_every_answer(
    stack: Stack, token: bytes | None, status: int
) -> None:
    reply = stack.ask(target=b"/api/v1/inventory/items/7?q=1", token=token)
    assert reply.status == status
    assert reply.all("deprecation") == ["@1780272000"]
    assert reply.all("sunset") == ["Wed, 30 Jun 2027 23:59:59 GMT"]
    assert reply.all("link") == [LINKS]
    assert not stack.ask(target=b"/api/v2/inventory/items/7").all("deprecation")


def test_the_successors_path_is_a_uri_whatever_a_browser_sends(stack: Stack) -> None:
    reply = stack.ask(target=b"/api/v1/inventory/{a|b}/%7Bc;d=1,2")
    (links,) = reply.all("link")
    assert links.startswith('</api/v2/inventory/%7Ba%7Cb%7D/%7Bc;d=1,2>; rel="successor-version"')


def test_a_service_that_sends_links_keeps_them(stack: Stack) -> None:
    stack.upstream.response_headers.append((b"link", b'</next>; rel="next"'))
    reply = stack.ask(target=b"/api/v1/inventory/items/7")
    assert reply.all("link") == ['</next>; rel="next"', LINKS]


def test_a_service_that_tells_of_its_end_itself_does_not_contradict(stack: Stack) -> None:
    stack.upstream.response_headers += [
        (b"Deprecation", b"@1"),
        (b"sunset", b"Wed, 01 Jan 2025 00:00:00 GMT"),
    ]
    reply = stack.ask(target=b"/api/v1/inventory/items/7")
    assert reply.all("deprecation") == ["@1780272000"]
    assert reply.all("sunset") == ["Wed, 30 Jun 2027 23:59:59 GMT"]
    assert stack.ask(target=b"/api/v1/sales").all("deprecation") == ["@1"]


def test_pages_of_other_origins_can_read_what_callers_are_told(stack: Stack) -> None:
    reply = stack.ask(target=b"/api/v1/inventory", headers=[(b"origin", b"https://app.example.com")])
    (exposed,) = reply.all("access-control-expose-headers")
    assert {"deprecation", "sunset", "link"} <= {name.strip() for name in exposed.split(",")}


def test_metrics_tell_who_still_calls_and_what_each_version_does(stack: Stack) -> None:
    before = calls(stack)
    stack.ask(target=b"/api/v1/inventory")
    stack.ask(target=b"/api/v1/inventory", token=None)  # nobody
    stack.ask(target=b"/api/v2/inventory")
    assert calls(stack) - before == 1
    text = ask(stack.port, request(target=b"/metrics")).body.decode()
    assert 'gateway_upstream_requests_total{outcome="2xx",service="inventory.v2"}' in text
    assert 'gateway_requests_total{method="GET",path="/api/v2/inventory/**",status_code="200"}' in text
    assert 'gateway_breaker_state{service="inventory.v2",state="closed"} 1' in text


def calls(stack: Stack) -> float:
    text = ask(stack.port, request(target=b"/metrics")).body.decode()
    name = 'gateway_deprecated_requests_total{caller="user",service="inventory",tier="professional",version="v1"}'
    return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name))


def test_the_health_of_a_version_with_replicas_of_its_own_is_told(stack: Stack) -> None:
    def services() -> dict[str, dict[str, str]]:
        found: dict[str, dict[str, str]] = json.loads(
            ask(stack.port, request(target=b"/api/v1/health")).body
        )["services"]
        return found

    poll(lambda: services()["inventory.v2"]["status"] == "healthy")
    assert "orders.v2" not in services()
