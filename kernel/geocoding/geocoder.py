"""Geocoder: answers from the store while it has them, else from Nominatim, one request at a time over the whole fleet.

Without the store nothing is looked up (503): nobody could say when another instance asked last. With Nominatim out of
reach, what is cached is still answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import secrets
from asyncio import timeout as limit
from collections import Counter
from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

import msgspec

from kernel import __version__
from kernel.config import Settings
from kernel.geocoding.places import Garbage, Places, read
from kernel.geocoding.questions import Question
from kernel.http.problems import (
    GEOCODE_BUSY,
    GEOCODE_FAILED,
    STORE_UNAVAILABLE,
    UPSTREAM_OPEN,
    UPSTREAM_TIMEOUT,
    GatewayError,
)
from kernel.primitives.single_flight import SingleFlight
from kernel.store.errors import StoreError
from kernel.store.keys import GEOCODE_TURN, geocode_answer
from kernel.store.pacing import Pacing
from kernel.store.redis import Store
from kernel.upstream.balance import Upstream
from kernel.upstream.client import Answer, ServiceClient

NOMINATIM = "nominatim"
_FOUND_SECONDS = 24 * 3600
# Somebody may be mapping the new street.
_NOTHING_SECONDS = 3600
_CALL_SECONDS = 5.0
_WAIT_SECONDS = 10.0
_MAX_WAITING = 12
# While somebody else's request is under way.
_POLL_SECONDS = 0.1
# Nominatim said that it is asked too much, or not by us: leave it alone.
_REFUSED_SECONDS = 60.0
_MAX_REFUSED_SECONDS = 600.0

_decoder = msgspec.json.Decoder(Places)


def user_agent(contact: str | None) -> bytes:
    """Who asks; the policy forbids the names of libraries."""
    product = f"bakery-gateway/{__version__}"
    return (f"{product} ({contact})" if contact else product).encode()


class Geocoder:
    """One a worker. `connect(name, urls)` makes the upstream when it is first needed: reading the system's certificates
    takes longer than all the rest of a worker's start."""

    def __init__(
        self, store: Store, settings: Settings, connect: Callable[[str, tuple[str, ...]], Upstream]
    ) -> None:
        base = urlsplit(settings.nominatim_url)
        self._origin = f"{base.scheme}://{base.netloc}"
        self._path = base.path.rstrip("/")
        self._headers = ((b"user-agent", user_agent(settings.nominatim_contact)),)
        self._connect = connect
        self._store = store
        pause = settings.nominatim_interval_seconds
        self._turn = Pacing(store, GEOCODE_TURN, pause=pause, longest=_CALL_SECONDS)
        self._flights: SingleFlight[str, bytes] = SingleFlight()
        # The worker's own queue: only its first asks the store for the turn.
        self._next = asyncio.Lock()
        self._upstream: Upstream | None = None
        self._client: ServiceClient
        self._waiting = 0
        self._hits = 0
        self._misses = 0
        self._waits = [0.0, 0]
        self._lookups: Counter[str] = Counter()

    async def start(self) -> None:
        """Needs no store and no Nominatim."""
        await self._turn.open()

    async def close(self) -> None:
        """End what is under way."""
        await self._flights.close()
        if self._upstream is not None:
            await self._upstream.close()

    def families(self) -> dict[str, Any]:
        """For metrics."""
        return {
            "gateway_geocode_cache_hits_total": self._hits,
            "gateway_geocode_cache_misses_total": self._misses,
            "gateway_geocode_lookups_total": dict(self._lookups),
            "gateway_geocode_wait_seconds": list(self._waits),
            "gateway_geocode_waiting": self._waiting,
        }

    async def ask(self, question: Question) -> bytes:
        """The answer, an encoded `Places`.

        Raises:
            GatewayError: STORE_UNAVAILABLE; GEOCODE_BUSY when the turn does not come in time; GEOCODE_FAILED,
                UPSTREAM_CONNECT and so on when Nominatim does not answer.
        """
        name = geocode_answer(hashlib.sha256(question.key.encode()).hexdigest())
        return await self._flights.run(name, partial(self._find, name, question))

    async def _find(self, name: str, question: Question) -> bytes:
        known = await self._recall(name)
        if known is not None:
            self._hits += 1
            return known
        self._misses += 1
        try:
            answer = await self._look_up(name, question)
        except GatewayError as error:
            self._lookups[error.problem.kind.code] += 1
            raise
        self._lookups["answered"] += 1
        return answer

    async def _recall(self, name: str) -> bytes | None:
        try:
            stored: bytes | None = await self._store.execute("GET", name)
        except StoreError:
            raise _no_store() from None
        if stored is None:
            return None
        try:
            _decoder.decode(stored)
        except (ValueError, RecursionError):  # of another release
            return None
        return stored

    async def _look_up(self, name: str, question: Question) -> bytes:
        """Wait for the turn, and ask."""
        client = self._ready()
        if self._waiting >= _MAX_WAITING:
            raise _busy(_WAIT_SECONDS)
        began = monotonic()
        me = f"{os.getpid()}-{secrets.token_hex(8)}"
        self._waiting += 1
        try:
            async with limit(_WAIT_SECONDS), self._next:
                until = await self._take(me, began + _WAIT_SECONDS)
        except BaseException as error:
            # The store may have given the turn to somebody who no longer waits for it.
            await asyncio.shield(self._turn.give(me))
            if isinstance(error, TimeoutError):
                raise _busy(_WAIT_SECONDS / 2) from None
            raise
        finally:
            self._waiting -= 1
            self._waits[0] += monotonic() - began
            self._waits[1] += 1
        pause = 0.0
        try:
            # Somebody else may have asked the same meanwhile.
            known = await self._recall(name)
            if known is not None:
                return known
            answer = await self._call(client, question, until)
            pause = _pause(answer)
            return await self._keep(name, _places(answer, question))
        finally:
            await asyncio.shield(self._turn.give(me, pause))

    def _ready(self) -> ServiceClient:
        """The client, unless Nominatim has failed repeatedly. Raises GatewayError(UPSTREAM_OPEN)."""
        if self._upstream is None:
            self._upstream = self._connect(NOMINATIM, (self._origin,))
            self._client = ServiceClient({NOMINATIM: self._upstream}, None, timeout=_CALL_SECONDS)
        try:
            self._upstream.choose()
        except GatewayError as error:
            detail = "Nominatim has failed repeatedly and is left alone for a moment."
            raise GatewayError(UPSTREAM_OPEN(detail, error.problem.headers)) from None
        return self._client

    async def _take(self, me: str, deadline: float) -> float:
        """Until when the turn is ours. Raises GatewayError: GEOCODE_BUSY, STORE_UNAVAILABLE."""
        while True:
            asked = monotonic()
            try:
                place = await self._turn.take(me)
            except StoreError:
                raise _no_store() from None
            if place.mine:
                return asked + _CALL_SECONDS
            if not place.held and asked + place.seconds > deadline:
                raise _busy(place.seconds)
            await asyncio.sleep(min(place.seconds, _POLL_SECONDS) if place.held else place.seconds)

    async def _call(self, client: ServiceClient, question: Question, until: float) -> Answer:
        """Nominatim's answer before `until`: after it the turn may be another's."""
        try:
            async with limit(until - monotonic()):
                return await client.call(
                    NOMINATIM, "GET", self._path + question.target, headers=self._headers, repeatable=False
                )
        except TimeoutError:
            raise GatewayError(UPSTREAM_TIMEOUT("nominatim: no answer in time.")) from None

    async def _keep(self, name: str, places: Places) -> bytes:
        encoded = msgspec.json.encode(places)
        seconds = _FOUND_SECONDS if places.results else _NOTHING_SECONDS
        with contextlib.suppress(StoreError):  # the client has its answer; the next one asks again
            await self._store.execute("SET", name, encoded, "EX", seconds)
        return encoded


def _pause(answer: Answer) -> float:
    """How long to leave Nominatim alone after `answer`, seconds; 0 for the usual."""
    if answer.status not in {403, 429, 503}:
        return 0.0
    told = next((value for key, value in answer.headers if key == b"retry-after"), b"")
    seconds = float(told) if told.isdigit() and len(told) < 6 else _REFUSED_SECONDS
    return min(seconds, _MAX_REFUSED_SECONDS)


def _places(answer: Answer, question: Question) -> Places:
    """Raises GatewayError: GEOCODE_BUSY, GEOCODE_FAILED."""
    if answer.status in {429, 503}:
        raise _busy(_pause(answer))
    if answer.status == 403:
        detail = (
            "Nominatim refuses this gateway: its operator should see NOMINATIM_CONTACT and the usage policy."
        )
        raise GatewayError(GEOCODE_FAILED(detail))
    if answer.status != 200:
        raise GatewayError(GEOCODE_FAILED(f"Nominatim answered {answer.status}."))
    try:
        return read(answer.body, reverse=question.reverse)
    except Garbage:
        raise GatewayError(GEOCODE_FAILED("Nominatim's answer was not understood.")) from None


def _busy(seconds: float) -> GatewayError:
    return GatewayError(GEOCODE_BUSY(headers=((b"retry-after", b"%d" % max(1, -int(-seconds // 1))),)))


def _no_store() -> GatewayError:
    detail = "Without the store the gateway cannot share Nominatim's one request a second: try again shortly."
    return GatewayError(STORE_UNAVAILABLE(detail, ((b"retry-after", b"1"),)))
