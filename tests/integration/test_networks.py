"""From where a gateway, and a route, may be called."""

from __future__ import annotations

import pytest

from kernel.server.embedded_store import EmbeddedStore
from tests.support.gateway import GatewayFactory
from tests.support.recorder import Recorder
from tests.support.stack import Stack, stack_env

CONFIG = """
[[routes]]
pattern = "/api/v1/inventory/exports/**"
service = "inventory"
ip_allow = ["10.1.0.0/16", "2001:db8::/32"]
ip_deny = ["10.1.9.0/24"]
"""
EXPORTS = b"/api/v1/inventory/exports/x"
TENANTS = b"/api/v1/tenants/6f1c9f0e-0000-4000-8000-000000000001/inventory/exports/x"


@pytest.fixture(scope="module")
def walled(
    gateway_factory: GatewayFactory,
    upstream: Recorder,
    session_store: EmbeddedStore,
    tmp_path_factory: pytest.TempPathFactory,
) -> Stack:
    path = tmp_path_factory.mktemp("networks") / "gateway.toml"
    path.write_text(CONFIG)
    changes = {
        "TRUSTED_PROXIES": "127.0.0.1",
        "IP_ALLOW": "10.0.0.0/8,2001:db8::/32,192.0.2.7",
        "IP_DENY": "10.66.0.0/16",
        "GATEWAY_CONFIG": str(path),
    }
    return Stack(gateway_factory(stack_env(upstream, session_store) | changes), upstream)


def status(stack: Stack, client: bytes, target: bytes = b"/api/v1/inventory/items") -> int:
    reply = stack.ask(target=target, headers=[(b"X-Forwarded-For", client)])
    if reply.status == 403:
        assert b'"address-forbidden"' in reply.body
    return reply.status


@pytest.mark.parametrize(
    ("client", "wanted"),
    [
        (b"10.0.0.1", 200),
        (b"192.0.2.7", 200),
        (b"192.0.2.8", 403),
        (b"2001:db8::1", 200),
        (b"2001:db9::1", 403),
        (b"::ffff:10.0.0.1", 200),  # IPv4, as a socket that listens on both writes it
        (b"10.66.0.1", 403),
        (b"::ffff:10.66.0.1", 403),
        (b"unknown", 403),
        (b"10.0.0.1, 203.0.113.9", 403),  # what a stranger put in front counts for nothing
        (b"203.0.113.9, 10.0.0.1", 200),
    ],
)
def test_the_gateway_is_called_from_its_networks(walled: Stack, client: bytes, wanted: int) -> None:
    assert status(walled, client) == wanted


@pytest.mark.parametrize("target", [EXPORTS, TENANTS], ids=["plain", "of a tenant"])
@pytest.mark.parametrize(
    ("client", "wanted"),
    [(b"10.1.0.1", 200), (b"10.1.9.1", 403), (b"10.2.0.1", 403), (b"192.0.2.7", 403), (b"2001:db8::2", 200)],
)
def test_a_route_is_called_from_its_own_networks_too(
    walled: Stack, target: bytes, client: bytes, wanted: int
) -> None:
    assert status(walled, client, target) == wanted


def test_who_may_not_call_learns_of_no_route_but_probes_answer(walled: Stack) -> None:
    assert status(walled, b"203.0.113.9", b"/api/v1/nowhere") == 403
    assert status(walled, b"203.0.113.9", b"/problems/token-expired") == 403
    assert status(walled, b"203.0.113.9", b"/health/ready") == 200


def test_who_may_not_call_uses_up_no_limit_and_verifies_no_token(walled: Stack) -> None:
    reply = walled.ask(token=b"eyJ.not.one", headers=[(b"X-Forwarded-For", b"203.0.113.9")])
    assert reply.status == 403
    assert reply.header("ratelimit") is None
