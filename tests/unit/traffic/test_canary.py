"""Whose requests a canary has: its share of users or tenants, always the same ones, and whoever demands it."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterable
from uuid import UUID

import pytest

from kernel.exchange.exchange import Exchange
from kernel.http.problems import UPSTREAM_CONNECT
from kernel.identity.claims import Claims
from kernel.identity.identity import Identity, Kind
from kernel.routing.traffic import Canary
from kernel.traffic.canary import Split, families, place
from kernel.upstream.balance import Upstream
from tests.support.scripted_upstream import Client, upstream_of

# The same in every run: a share is a fact then, not a chance.
_DRAW = random.Random(20261201)
USERS = [str(UUID(int=_DRAW.getrandbits(128), version=4)) for _ in range(10_000)]
NUMBERED = [f"user-{number}" for number in range(10_000)]
CANARY = ("http://127.0.0.1:1",)


def caller(user: str, kind: Kind = "access", service: str | None = None, tenant: str = "") -> Exchange:
    x = Client().x
    claims = Claims(exp=0, iat=0, iss="test", tenant_id=tenant or None)
    x.identity = Identity(claims, "test", kind=kind, user_id=user, service=service)
    x.tenant = tenant or None
    return x


def stranger(address: str) -> Exchange:
    x = Client().x
    x.client_ip = address
    return x


@pytest.fixture
async def upstreams() -> AsyncIterator[tuple[Upstream, Upstream]]:
    async with (
        upstream_of("http://127.0.0.1:1", name="inventory") as service,
        upstream_of("http://127.0.0.1:2", name="inventory-canary") as canary,
    ):
        yield service, canary


def taken(split: Split, users: Iterable[str]) -> set[str]:
    return {user for user in users if split.takes(caller(user))}


@pytest.mark.parametrize("users", [USERS, NUMBERED], ids=["uuids", "numbers"])
@pytest.mark.parametrize("percent", [0.5, 1, 5, 12.5, 25, 50, 75, 99])
async def test_it_has_its_share_of_ten_thousand_users(
    upstreams: tuple[Upstream, Upstream], users: list[str], percent: float
) -> None:
    split = Split(Canary(CANARY, percent), *upstreams)
    assert abs(len(taken(split, users)) / len(users) * 100 - percent) < 1


async def test_a_growing_share_only_adds_users(upstreams: tuple[Upstream, Upstream]) -> None:
    before: set[str] = set()
    for percent in (0, 0.01, 0.1, 1, 2, 10, 50, 99.99, 100):
        now = taken(Split(Canary(CANARY, percent), *upstreams), USERS[:3000])
        assert before <= now
        before = now
    assert len(before) == 3000
    assert not taken(Split(Canary(CANARY, 0), *upstreams), USERS)


async def test_two_services_try_their_canaries_on_different_users() -> None:
    shares = [
        {user for user in USERS if place(service, f"user:{user}") < 1000} for service in (b"sales", b"orders")
    ]
    assert 50 < len(shares[0] & shares[1]) < 150  # a tenth of a tenth


def test_a_place_is_the_same_in_every_version_of_the_gateway() -> None:
    """Whoever changes these numbers moves every user of every canary."""
    assert place(b"inventory", "user:user-1") == 3946
    assert place(b"inventory", "tenant:t-1") == 8650


async def test_by_tenant_all_users_of_one_stay_together(upstreams: tuple[Upstream, Upstream]) -> None:
    split = Split(Canary(CANARY, 50, "tenant"), *upstreams)
    found = {
        tenant: {split.takes(caller(user, tenant=tenant)) for user in USERS[:20]}
        for tenant in ("t-1", "t-2", "t-3", "t-4", "t-5", "t-6")
    }
    assert all(len(answers) == 1 for answers in found.values())
    assert {True} in found.values()
    assert {False} in found.values()
    # Without a tenant, by user.
    assert {split.takes(caller(user)) for user in USERS[:50]} == {True, False}


async def test_who_is_nobody_goes_by_address_and_a_host_is_one_address(
    upstreams: tuple[Upstream, Upstream],
) -> None:
    split = Split(Canary(CANARY, 50), *upstreams)
    found = {
        address: {split.takes(stranger(address)) for _ in range(5)}
        for address in (f"192.0.2.{n}" for n in range(50))
    }
    assert all(len(answers) == 1 for answers in found.values())
    assert len({*map(tuple, found.values())}) == 2
    assert len({split.takes(stranger(f"2001:db8::{n:x}")) for n in range(1, 50)}) == 1


async def test_a_service_has_a_place_for_each_tenant(upstreams: tuple[Upstream, Upstream]) -> None:
    split = Split(Canary(CANARY, 50), *upstreams)
    answers = [
        split.takes(caller("orders-service", "service", "orders", f"tenant-{number}"))
        for number in range(2000)
    ]
    assert 900 < sum(answers) < 1100


@pytest.mark.parametrize(
    ("header", "value", "sent", "expected"),
    [
        ("x-canary", "", b"always", True),
        ("x-canary", "", b"never", False),
        ("x-canary", "", b"\talways  ", True),
        ("x-canary", "", b"Always", None),
        ("x-canary", "", b"", None),
        ("x-release", "next-7f3", b"next-7f3", True),
        ("x-release", "next-7f3", b"always", None),
        ("x-release", "next-7f3", b"never", None),
        ("x-release", "next-7f3", b"next-7f3, x", None),
    ],
)
@pytest.mark.parametrize("share", [0, 100])
async def test_a_header_decides_before_the_share_and_no_service_sees_it(
    upstreams: tuple[Upstream, Upstream],
    header: str,
    value: str,
    sent: bytes,
    expected: bool | None,
    share: int,
) -> None:
    split = Split(Canary(CANARY, share, "user", header, value), *upstreams)
    x = Client(headers=[(b"accept", b"*/*"), (header.encode(), sent), (b"x-canary-2", b"stays")]).x
    assert split.takes(x) is (share == 100 if expected is None else expected)
    assert x.lines == [b"accept: */*\r\n", b"x-canary-2: stays\r\n"]


async def test_other_spellings_of_the_header_are_the_header(upstreams: tuple[Upstream, Upstream]) -> None:
    split = Split(Canary(CANARY, 0, "user", "x-try-it"), *upstreams)
    for name in (b"x-try-it", b"x_try_it", b"x-try_it"):
        x = Client(headers=[(name, b"always")]).x
        assert split.takes(x)
        assert x.lines == []
    # Sent twice, the last counts and all are gone.
    x = Client(headers=[(b"x-try-it", b"always"), (b"x_try_it", b"never")]).x
    assert not split.takes(x)
    assert x.lines == []


async def test_without_a_header_configured_none_is_touched(upstreams: tuple[Upstream, Upstream]) -> None:
    x = Client(headers=[(b"x-canary", b"always")]).x
    assert not Split(Canary(CANARY, 0), *upstreams).takes(x)
    assert x.lines == [b"x-canary: always\r\n"]


async def test_while_its_breaker_is_open_the_service_has_its_requests(
    upstreams: tuple[Upstream, Upstream],
) -> None:
    canary = upstreams[1]
    split = Split(Canary(CANARY, 100), *upstreams)
    for _ in range(5):
        canary.failed(canary.replicas[0], UPSTREAM_CONNECT)
    assert canary.breaker_state == "open"
    assert not split.takes(caller("user-1"))
    assert families({"inventory": split}) == {
        "gateway_canary_fallbacks_total": {("inventory", "upstream-open"): 1}
    }
    canary.relent()
    assert split.takes(caller("user-1"))
