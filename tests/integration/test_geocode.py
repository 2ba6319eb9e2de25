"""Geocoding through real gateways, before a Nominatim that punishes whoever breaks its usage policy."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from demo.platform.atlas import PLACES
from demo.platform.messages import Response, reply
from demo.platform.nominatim import Nominatim
from kernel import __version__
from kernel.server.embedded_store import EmbeddedStore
from tests.support.gateway import GatewayFactory, GatewayProcess, service_env
from tests.support.raw import Reply, ask, request
from tests.support.tokens import SECRET, access_token, public_pem


def env(store: EmbeddedStore, nominatim: str, **changes: str) -> dict[str, str]:
    return {
        **service_env("http://127.0.0.1:9"),
        "REDIS_URL": store.url,
        "JWT_PUBLIC_KEY": public_pem(),
        "JWT_SECRET_KEY": SECRET,
        "RATE_LIMIT_REQUESTS": "100000",
        "NOMINATIM_URL": nominatim,
        "NOMINATIM_CONTACT": "ops@bakery.example",
        **changes,
    }


@pytest.fixture
async def nominatim() -> AsyncIterator[Nominatim]:
    stub = Nominatim()
    await stub.start()
    yield stub
    await stub.stop()


@dataclass
class Pair:
    """Two gateways with one store."""

    gateways: list[GatewayProcess]
    nominatim: Nominatim

    async def ask(self, which: int, path: str, document: Any, token: bytes | None = b"") -> Reply:
        headers = [] if token is None else [(b"Authorization", b"Bearer " + (token or access_token()))]
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        data = request("POST", b"/api/v1/" + path.encode(), headers, body)
        return await asyncio.to_thread(_slow_ask, self.gateways[which].port, data)

    async def search(self, which: int, text: str, **rest: Any) -> Reply:
        return await self.ask(which, "geocode", {"query": text, **rest})


def _slow_ask(port: int, data: bytes) -> Reply:
    from tests.support.raw import parse_replies, send_raw

    return parse_replies(send_raw(port, data, 75))[0]


@pytest.fixture
def pair(
    gateway_factory: GatewayFactory, store_server: EmbeddedStore, nominatim: Nominatim
) -> Iterator[Pair]:
    gateways = [gateway_factory(env(store_server, nominatim.url)) for _ in range(2)]
    yield Pair(gateways, nominatim)
    for gateway in gateways:
        gateway.stop()


def places(answer: Reply) -> list[dict[str, Any]]:
    assert answer.status == 200, answer.body
    found: list[dict[str, Any]] = json.loads(answer.body)["results"]
    return found


async def test_two_instances_together_ask_once_a_second_and_share_what_they_learn(pair: Pair) -> None:
    texts = ["Rambla", "Belém", "Sierpes", "Nowhere"]
    asked = [(number % 2, text) for text in texts for number in range(6)]
    answers = await asyncio.gather(*(pair.search(which, text) for which, text in asked))
    arrivals = pair.nominatim.arrivals
    assert [arrival.status for arrival in arrivals] == [200] * len(texts)  # once each: no 429, none twice
    gaps = [b.at - a.at for a, b in itertools.pairwise(arrivals)]
    assert min(gaps) >= 1.0
    assert {arrival.user_agent for arrival in arrivals} == {
        f"bakery-gateway/{__version__} (ops@bakery.example)"
    }
    by_text = dict(zip(texts, (places(answers[6 * n]) for n in range(len(texts))), strict=True))
    assert by_text["Nowhere"] == []
    assert by_text["Belém"][0]["address"]["city"] == "Lisboa"
    for (_, text), answer in zip(asked, answers, strict=True):
        assert places(answer) == by_text[text]

    # Cached answers survive an outage, on both instances and however they are spelled; the rest is a clear problem.
    await pair.nominatim.stop()
    for which in (0, 1):
        assert places(await pair.search(which, "  BELÉM ")) == by_text["Belém"]
        assert places(await pair.search(which, "nowhere")) == []
    failed = await pair.search(0, "Escribà")
    assert (failed.status, json.loads(failed.body)["code"]) == (502, "upstream-connect")

    # A reverse search, when it is back.
    await pair.nominatim.start()
    point = {"lat": 41.3815, "lon": 2.1727}
    assert places(await pair.ask(1, "geocode/reverse", point))[0]["name"] == "Escribà"
    assert places(await pair.ask(0, "geocode/reverse", point))[0]["name"] == "Escribà"
    assert len(pair.nominatim.arrivals) == len(texts) + 1


async def test_what_nominatim_does_wrong_becomes_a_problem(
    gateway_factory: GatewayFactory, store_server: EmbeddedStore, nominatim: Nominatim
) -> None:
    nominatim.interval = 0.05
    gateway = gateway_factory(env(store_server, nominatim.url + "/maps/", NOMINATIM_INTERVAL_SECONDS="0.05"))
    pair = Pair([gateway], nominatim)
    for answer, status, code in (
        (reply({"error": "boom"}, 500), 502, "geocode-failed"),
        (Response(200, b"<html>"), 502, "geocode-failed"),
        (Response(200, b'[{"lat":"north"}]'), 502, "geocode-failed"),
        (Response(302, b"", (("location", "http://elsewhere/"),)), 502, "geocode-failed"),
        (Response(200, b"[" + b" " * 2_000_000 + b"]"), 502, "upstream-protocol"),
        (Response(429, b"", (("retry-after", "0"),)), 503, "geocode-busy"),
        (reply([PLACES[0]]), 200, ""),
    ):
        nominatim.answer = answer
        got = await pair.search(0, "Madrid")
        assert (got.status, json.loads(got.body).get("code", "")) == (status, code)
    assert nominatim.arrivals[0].target.startswith("/maps/search?format=jsonv2&")

    # Refused: left alone by everybody for as long as it asks.
    nominatim.answer = Response(403, b"blocked")
    before = len(nominatim.arrivals)
    refused = await pair.search(0, "Bilbao")
    assert (refused.status, json.loads(refused.body)["code"]) == (502, "geocode-failed")
    later = await pair.search(0, "Vigo")
    assert (later.status, json.loads(later.body)["code"]) == (503, "geocode-busy")
    assert 50 <= int(later.header("retry-after") or 0) <= 60
    assert len(nominatim.arrivals) == before + 1
    assert places(await pair.search(0, "MADRID"))
    gateway.stop()


async def test_silence_is_a_timeout_and_validation_and_policies_come_first(
    gateway_factory: GatewayFactory, store_server: EmbeddedStore, nominatim: Nominatim
) -> None:
    gateway = gateway_factory(env(store_server, nominatim.url))
    pair = Pair([gateway], nominatim)
    nominatim.silent = True
    waiting = asyncio.create_task(pair.search(0, "Madrid"))
    while not nominatim.arrivals:
        if waiting.done():  # a busy machine's store was late: it is asked again
            waiting = asyncio.create_task(pair.search(0, "Madrid"))
        await asyncio.sleep(0.01)
    for path, document, status in (
        ("geocode", {"query": ""}, 422),
        ("geocode", {"query": "x", "limit": 99}, 422),
        ("geocode", b"nonsense", 400),
        ("geocode", b'{"query":"\xff"}', 400),
        ("geocode", b'{"query":"\\ud800"}', 400),
        ("geocode", b" " * 9000, 413),
        ("geocode/reverse", {"lat": 1}, 422),
        ("geocode/reverse", b'{"lat":1e999,"lon":1}', 422),
    ):
        got = await pair.ask(0, path, document)
        assert got.status == status, (document, got)
    assert (await pair.ask(0, "geocode", {"query": "x"}, token=None)).status == 401
    silent = await waiting
    assert (silent.status, json.loads(silent.body)["code"]) == (504, "upstream-timeout")
    assert len(nominatim.arrivals) == 1
    gateway.stop()


async def test_without_the_store_nobody_is_asked(
    gateway_factory: GatewayFactory, mortal_store: EmbeddedStore, nominatim: Nominatim
) -> None:
    gateway = gateway_factory(env(mortal_store, nominatim.url))
    pair = Pair([gateway], nominatim)
    mortal_store.kill()
    refused = await pair.search(0, "Madrid")
    assert (refused.status, json.loads(refused.body)["code"]) == (503, "store-unavailable")
    assert refused.header("retry-after") == "1"
    assert nominatim.arrivals == []
    mortal_store.start()

    async def back() -> bool:
        return (await pair.search(0, "Madrid")).status == 200

    while not await back():
        await asyncio.sleep(0.05)
    numbers = ask(gateway.port, request(target=b"/metrics")).body.decode()
    assert "gateway_geocode_cache_misses_total" in numbers
    gateway.stop()
