"""Tenants: what the tenant service is asked, and the mark that a subscription changed.

Where a tenant stands is asked once and kept for five minutes in the store, half a minute in the worker. A denial rests on
an answer of the last ten seconds only, so that a new outlet is reachable soon. Without an answer nobody is admitted.

SECURITY: what the store says of it is stamped: whoever can write there could be the owner of every tenant.
"""

from __future__ import annotations

from asyncio import Future
from collections.abc import Awaitable, Callable, Container
from contextlib import suppress
from functools import partial
from math import inf
from time import time
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import force_setattr

from kernel.http.problems import TENANT_UNAVAILABLE, GatewayError, Problem
from kernel.identity.api_key_record import Plan
from kernel.identity.claims import Subscription, TenantId, seconds
from kernel.identity.stamp import Stamp
from kernel.primitives.single_flight import SingleFlight
from kernel.primitives.tenant_id import canonical
from kernel.store.errors import StoreError
from kernel.store.keys import subscription_changed_at, tenant_ancestors
from kernel.store.redis import Script, Store
from kernel.store.tracked import TrackedMap
from kernel.store.wait_budget import answered
from kernel.upstream.client import Answer, ServiceClient

_STORE_SECONDS = 300
_WORKER_SECONDS = 30.0
_DENIAL_SECONDS = 10
_MAX_PLACES = 4096
_MAX_MARKS = 1024
_MAX_REASON = 200
_RETRY_SOON = ((b"retry-after", b"1"),)
# The latest change counts, whoever comes last to tell of it; not one of the future, which a wrong clock has written. What is
# no number (ISO 8601, from a service) gives way only to a change of this moment.
_MARK = Script("""
local known = redis.call('GET', KEYS[1])
local moment = tonumber(known or '')
if moment then
    local later = moment > tonumber(ARGV[1]) and moment < tonumber(redis.call('TIME')[1]) + 60
    if later then return 0 end
elseif known and ARGV[2] == 'late' then
    return 0
end
redis.call('SET', KEYS[1], ARGV[1])
return 1
""")

_Document = TypeVar("_Document")
_Ancestors = Annotated[tuple[TenantId, ...], Meta(max_length=64)]


class Place(Struct, frozen=True):
    """Where a tenant stood at `at` (Unix seconds): its ancestors, nearest first; none for a tenant nobody knows."""

    at: float
    ancestors: _Ancestors = ()

    def nearest(self, wanted: Container[str]) -> str | None:
        """The nearest ancestor among `wanted`."""
        return next((tenant for tenant in self.ancestors if tenant in wanted), None)


class _Hierarchy(Struct, frozen=True):
    ancestors: _Ancestors

    def __post_init__(self) -> None:
        force_setattr(self, "ancestors", tuple(canonical(tenant) for tenant in self.ancestors))


class Verdict(Struct, frozen=True):
    """Whether the tenant service allows an operation; `reason` is its own text when it does not."""

    allowed: bool
    reason: str = ""


_place_decoder = msgspec.json.Decoder(Place)
_hierarchy_decoder = msgspec.json.Decoder(_Hierarchy)
_verdict_decoder = msgspec.json.Decoder(Verdict)
_subscription_decoder = msgspec.json.Decoder(Subscription)


def _unavailable() -> Problem:
    return TENANT_UNAVAILABLE(headers=_RETRY_SOON)


class Tenants:
    """One a worker. `clock` gives Unix seconds; without a `stamp` each worker asks the tenant service for itself."""

    def __init__(
        self,
        store: Store,
        tracked: TrackedMap,
        client: ServiceClient,
        stamp: Stamp | None,
        *,
        clock: Callable[[], float] = time,
    ) -> None:
        self._store = store
        self._tracked = tracked
        self._client = client
        self._stamp = stamp
        self._clock = clock
        # What is known, and from when until when it may be used.
        self._places: dict[str, tuple[Place, float, float]] = {}
        self._flights: SingleFlight[tuple[str, bool], Place] = SingleFlight()
        # Marks that the store could not take: tenant -> when its subscription changed. This worker goes by them already.
        self._unmarked: dict[str, float] = {}
        store.on_connect(self._mark_again)

    # --- who stands above whom ---------------------------------------------------------------------------------

    def parent(self, tenant: str, above: Container[str]) -> str | Awaitable[str | None] | None:
        """The nearest ancestor of `tenant` among `above`; an awaitable when it must be asked for.

        The awaitable raises GatewayError: TENANT_UNAVAILABLE.
        """
        known = self._places.get(tenant)
        if known is not None:
            place, since, until = known
            now = self._clock()
            # A clock that was set back does not make it last longer.
            if since <= now < until:
                found = place.nearest(above)
                if found is not None or abs(now - place.at) < _DENIAL_SECONDS:
                    return found
        return self._find(tenant, above)

    async def _find(self, tenant: str, above: Container[str]) -> str | None:
        place = await self._flights.run((tenant, True), partial(self._recall, tenant))
        found = place.nearest(above)
        if found is None and abs(self._clock() - place.at) >= _DENIAL_SECONDS:
            place = await self._flights.run((tenant, False), partial(self._ask, tenant))
            found = place.nearest(above)
        return found

    async def _recall(self, tenant: str) -> Place:
        """What any worker learnt in the last five minutes, or else the service's answer."""
        stamp = self._stamp
        if stamp is not None:
            name = tenant_ancestors(tenant)
            try:
                reply = self._store.execute("GET", name)
                stored = reply.result() if await answered(reply, self._store.timeout) else None
                raw = stamp.take(name, stored) if stored is not None else None
                if raw is not None:
                    place = _place_decoder.decode(raw)
                    if 0 <= self._clock() - place.at < _STORE_SECONDS:
                        return self._keep(tenant, place)
            except (StoreError, ValueError, RecursionError):
                pass
        return await self._ask(tenant)

    async def _ask(self, tenant: str) -> Place:
        asked = self._clock()
        answer = await self._call("GET", f"/api/v1/tenants/{tenant}/hierarchy")
        if answer.status == 404:
            place = Place(asked)
        else:
            place = Place(asked, _decoded(_hierarchy_decoder, answer).ancestors)
        if self._stamp is not None:
            seconds = _STORE_SECONDS if place.ancestors else _DENIAL_SECONDS
            name = tenant_ancestors(tenant)
            value = self._stamp.put(name, msgspec.json.encode(place))
            with suppress(StoreError):
                await self._store.execute("SET", name, value, "EX", seconds)
        return self._keep(tenant, place)

    def _keep(self, tenant: str, place: Place) -> Place:
        self._places.pop(tenant, None)
        if len(self._places) >= _MAX_PLACES:
            del self._places[next(iter(self._places))]
        now = self._clock()
        self._places[tenant] = place, now, min(now + _WORKER_SECONDS, place.at + _STORE_SECONDS)
        return place

    # --- critical operations -------------------------------------------------------------------------------------

    async def verify(self, tenant: str, operation: str, user_id: str) -> Verdict:
        """Ask whether `user_id` may do `operation` now. Nothing is remembered.

        Raises:
            GatewayError: TENANT_UNAVAILABLE, whatever kept the answer from coming.
        """
        body = msgspec.json.encode({"operation": operation, "user_id": user_id})
        answer = await self._call("POST", f"/api/v1/tenants/{tenant}/verify", body)
        if answer.status == 404:
            return Verdict(False, "the tenant is unknown")
        verdict = _decoded(_verdict_decoder, answer)
        return Verdict(verdict.allowed, verdict.reason[:_MAX_REASON])

    # --- subscriptions -------------------------------------------------------------------------------------------

    async def plan(self, tenant: str) -> Plan | None:
        """What the tenant's subscription is now; None when the tenant service has answered, but not that.

        Raises:
            GatewayError: TENANT_UNAVAILABLE.
        """
        asked = self._clock()
        answer = await self._call("GET", f"/api/v1/tenants/{tenant}/subscription")
        if answer.status >= 500:
            raise GatewayError(_unavailable())
        try:
            said = _subscription_decoder.decode(answer.body) if answer.status == 200 else Subscription()
        except (ValueError, RecursionError):
            return None
        if not said.status:
            return None
        return Plan(asked, said.tier or "", said.status, seconds(said.valid_until))

    # --- changed subscriptions -----------------------------------------------------------------------------------

    async def mark_changed(self, tenant: str) -> float:
        """Make every token issued for `tenant` until now stale; the moment in Unix seconds. Raises StoreError."""
        moment = self._clock()
        await self._store.run(_MARK, [subscription_changed_at(tenant)], [repr(moment), ""])
        self._told(tenant, moment)
        return moment

    async def note_changed(self, tenant: str) -> bool:
        """The same for a change that has already happened: what the store cannot take now, it gets when it is back."""
        moment = self._clock()
        try:
            await self._store.run(_MARK, [subscription_changed_at(tenant)], [repr(moment), ""])
        except StoreError:
            if tenant in self._unmarked or len(self._unmarked) < _MAX_MARKS:
                self._unmarked[tenant] = moment
                self._tracked.pin(subscription_changed_at(tenant), repr(moment))
            return False
        self._told(tenant, moment)
        return True

    def _mark_again(self, _after_outage: bool) -> None:
        for tenant, moment in list(self._unmarked.items()):
            reply = self._store.run(_MARK, [subscription_changed_at(tenant)], [repr(moment), "late"])
            reply.add_done_callback(partial(self._marked, tenant, moment))

    def _marked(self, tenant: str, moment: float, reply: Future[Any]) -> None:
        if not reply.cancelled() and reply.exception() is None:
            self._told(tenant, moment)

    def _told(self, tenant: str, moment: float) -> None:
        """The store knows of a change at `moment`: what waits for it and is no later need not."""
        if self._unmarked.get(tenant, inf) <= moment:
            del self._unmarked[tenant]
            self._tracked.unpin(subscription_changed_at(tenant))

    async def _call(self, method: str, target: str, body: bytes | None = None) -> Answer:
        try:
            return await self._client.call("tenant", method, target, body)
        except GatewayError:
            raise GatewayError(_unavailable()) from None

    async def close(self) -> None:
        """End what is under way."""
        await self._flights.close()


def _decoded(decoder: msgspec.json.Decoder[_Document], answer: Answer) -> _Document:
    """The answer's document. Raises GatewayError: TENANT_UNAVAILABLE."""
    if answer.status == 200:
        try:
            return decoder.decode(answer.body)
        except (ValueError, RecursionError):
            pass
    raise GatewayError(_unavailable())
