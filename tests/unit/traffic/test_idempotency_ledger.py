"""What the ledger of idempotency keys holds, and for how long."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from msgspec.structs import replace

from kernel.http.problems import GatewayError
from kernel.routing.catalog import RouteRow
from kernel.store.errors import StoreDown, StoreRefused
from kernel.traffic import idempotency_ledger
from kernel.traffic.idempotency import heeding_keys
from kernel.traffic.idempotency_key import Keyed
from kernel.traffic.idempotency_ledger import Ledger, Room


class Broken:
    """A store that is connected and fails every command, or takes all; what it was told."""

    timeout = 0.1
    connected = True

    def __init__(self) -> None:
        self.error: Exception | None = StoreDown("no answer in time")
        self.told: list[str] = []

    def on_connect(self, listener: object) -> None:
        """Never."""

    def run(self, script: object, keys: tuple[str, ...], args: tuple[Any, ...]) -> asyncio.Future[Any]:
        reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if self.error is not None:
            reply.set_exception(self.error)
        else:
            self.told.append(f"{keys[0].rpartition(':')[2]} {args[0]}")
            reply.set_result(1)
        return reply


class Request:
    """As far as the ledger looks at one."""

    def __init__(self, name: str) -> None:
        self.name = self.tag = self.owner = name
        self.renewed = 0.0


def request(name: str) -> Keyed:
    return cast("Keyed", Request(name))


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Broken:
    monkeypatch.setattr(idempotency_ledger, "_TICK", 0.01)
    return Broken()


@pytest.fixture
def ledger(store: Broken) -> Ledger:
    return Ledger(cast("Any", store), keep=1, max_body=10, max_answer=10)


async def told(store: Broken, what: list[str]) -> None:
    async with asyncio.timeout(5):
        while sorted(store.told) != sorted(what):
            await asyncio.sleep(0.005)


def test_all_bodies_and_answers_together_have_a_bound(ledger: Ledger) -> None:
    one, other = Room(ledger), Room(ledger)
    assert one.take(40 * 1024**2)
    assert not other.take(30 * 1024**2)
    with pytest.raises(GatewayError) as raised:
        other.demand(30 * 1024**2)
    assert raised.value.problem.kind.code == "overloaded"
    other.demand(20 * 1024**2)
    one.leave()
    one.leave()
    assert ledger.held == 20 * 1024**2 - 32 * 1024
    other.leave()
    assert ledger.held == 0


def test_large_bodies_keep_no_small_ones_out(ledger: Ledger) -> None:
    large, small = Room(ledger), Room(ledger)
    large.demand(64 * 1024**2 + 32 * 1024)
    small.demand(16 * 1024)
    assert small.take(16 * 1024)
    assert not small.take(1)
    large.leave()
    assert small.take(1)
    small.leave()
    assert ledger.held == 0


@pytest.mark.parametrize("error", [StoreDown("gone"), StoreRefused("OOM command not allowed")])
async def test_what_the_store_did_not_take_is_told_again(
    ledger: Ledger, store: Broken, error: Exception
) -> None:
    store.error = error
    await ledger.keep(request("a"), b"answer")
    await ledger.lose(request("b"))
    await ledger.release(request("c"))
    ledger.keep_nothing(request("d"), 200)
    await asyncio.sleep(0.05)
    assert store.told == []
    store.error = None
    await told(store, ["a done", "b unknown", "c gone", "d not-kept"])
    await ledger.close()


async def test_what_waits_to_be_told_has_bounds(
    ledger: Ledger, store: Broken, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idempotency_ledger, "_MOST_UNTOLD", 3)
    monkeypatch.setattr(idempotency_ledger, "_MOST_UNTOLD_BYTES", 100)
    await ledger.keep(request("small"), b"x" * 60)
    await ledger.keep(request("too much"), b"x" * 60)
    for name in ("b", "c", "d"):
        await ledger.lose(request(name))
    await asyncio.sleep(0.05)
    store.error = None
    await told(store, ["small done", "b unknown", "c unknown"])
    await ledger.close()


async def test_it_is_given_up_at_last(ledger: Ledger, store: Broken, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idempotency_ledger, "_UNTOLD_SECONDS", 0.05)
    await ledger.lose(request("a"))
    await asyncio.sleep(0.15)
    store.error = None
    await asyncio.sleep(0.05)
    assert store.told == []


async def test_a_worker_that_stops_tells_what_it_can(ledger: Ledger, store: Broken) -> None:
    await ledger.lose(request("a"))
    await asyncio.sleep(0)
    store.error = None
    await ledger.close()
    assert store.told == ["a unknown"]
    store.error = StoreDown("closed")
    await ledger.lose(request("b"))
    await asyncio.sleep(0.05)
    assert store.told == ["a unknown"]


def test_a_route_that_heeds_no_keys_has_the_handler_that_it_had(ledger: Ledger) -> None:
    async def handler(x: object) -> None:
        """Never called."""

    row = RouteRow(pattern="/x", service="orders")
    assert heeding_keys(ledger, row, handler, 1.0) is handler
    assert heeding_keys(ledger, replace(row, idempotency="optional"), handler, 1.0) is not handler
