"""Demo sessions: throw-away identities for people who want to look around, vouched for by the demo-session service.

A session is asked for with the gateway's own token and kept for half a minute, but never used past its end. Its virtual
tenant is marked in the store, so that no worker lets a real identity in: when the session is created by way of a gateway, and
each time it is asked for. What a store forgets, every worker that made a mark writes again.
"""

from __future__ import annotations

import asyncio
import re
from asyncio import Future
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from time import time
from typing import Any

import msgspec
from msgspec import Struct

from kernel.exchange.exchange import Exchange
from kernel.http.cookies import cookie
from kernel.http.problems import (
    DEMO_FORBIDDEN,
    DEMO_SESSION_EXPIRED,
    DEMO_SESSION_INVALID,
    DEMO_UNAVAILABLE,
    GatewayError,
    Problem,
)
from kernel.identity.claims import Claims, Id, Subscription, TenantId, Text, fold_tenant
from kernel.identity.errors import REALM
from kernel.identity.identity import DEMO_SESSION, Identity, access_identity
from kernel.primitives.single_flight import SingleFlight
from kernel.store.errors import StoreDown, StoreError
from kernel.store.keys import tenant_demo
from kernel.store.link import stop
from kernel.store.redis import Store
from kernel.upstream.client import ServiceClient

_COOKIE = b"demo_session_id"
# SECURITY: becomes part of a path of the demo-session service.
_SESSION_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")
_KEEP_SECONDS = 30.0
# How long a session that is no good is remembered.
_REFUSE_SECONDS = 2.0
_MAX_SESSIONS = 4096
_TOLD_AT_ONCE = 64
_CHALLENGE = ((b"www-authenticate", REALM),)
_RETRY_SOON = ((b"retry-after", b"1"),)

Found = Identity | Problem


class _Session(Struct, frozen=True):
    """The service's answer."""

    session_id: str
    account_type: Text
    virtual_tenant_id: TenantId
    status: str
    expires_at: datetime
    subscription: Subscription

    def __post_init__(self) -> None:
        fold_tenant(self, "virtual_tenant_id", self.virtual_tenant_id)


_decoder = msgspec.json.Decoder(_Session)


def named(x: Exchange) -> str | None:
    """The session that the request names, in `X-Demo-Session-Id` or else the demo cookie."""
    given = x.captured.get(b"x-demo-session-id")
    if given is None:
        cookies = x.captured.get(b"cookie")
        if cookies is not None and _COOKIE in cookies:
            given = cookie(cookies, _COOKIE)
    return None if given is None else given.decode("latin-1")


class DemoSessions:
    """One a worker. `clock` gives Unix seconds."""

    def __init__(self, store: Store, client: ServiceClient, *, clock: Callable[[], float] = time) -> None:
        self._store = store
        self._client = client
        self._clock = clock
        # What a session is worth, and until when that may be believed.
        # What was found, and from when until when it counts.
        self._known: dict[str, tuple[Found, float, float]] = {}
        self._flights: SingleFlight[str, Found] = SingleFlight()
        # Virtual tenant -> its session and that one's end, of what this worker has marked.
        self._marks: dict[str, tuple[str, float]] = {}
        # Of these, what the store is yet to be told again, and who does so.
        self._untold: list[str] = []
        self._telling: asyncio.Task[None] | None = None

    async def created(self, answer: bytes) -> None:
        """Mark the tenant of a session that has just been created; `answer` is the service's."""
        with suppress(ValueError, RecursionError):
            document = _decoder.decode(answer)
            await self._mark(document.virtual_tenant_id, document.session_id, _ends(document))

    def mark_again(self) -> None:
        """The store may have lost its data: it is told all marks again, a few at a time. Nothing waits for this."""
        now = self._clock()
        self._marks = {tenant: mark for tenant, mark in self._marks.items() if mark[1] > now}
        self._untold = list(self._marks)
        if self._untold and self._telling is None:
            self._telling = asyncio.get_running_loop().create_task(self._tell_again())

    async def _tell_again(self) -> None:
        """PERF: 4,096 marks in one burst would keep the answers that requests wait for from coming in time."""
        try:
            while self._untold:
                tenants, self._untold = self._untold[:_TOLD_AT_ONCE], self._untold[_TOLD_AT_ONCE:]
                marks = [(tenant, self._marks[tenant]) for tenant in tenants if tenant in self._marks]
                replies = [self._write(tenant, *mark) for tenant, mark in marks]
                for reply in await asyncio.gather(*replies, return_exceptions=True):
                    if isinstance(reply, StoreDown):
                        return  # it will be said again when it is back
        except StoreDown:
            pass
        finally:
            self._telling = None

    def find(self, session: str) -> Found | Awaitable[Found]:
        """The identity of `session`, or why it is none; an awaitable when the service must be asked."""
        known = self._known.get(session)
        if known is not None:
            found, since, until = known
            now = self._clock()
            if since <= now < until:
                if isinstance(found, Identity) and found.exp <= now:
                    return DEMO_SESSION_EXPIRED(headers=_CHALLENGE)
                return found
        if not _SESSION_ID.fullmatch(session):
            return DEMO_SESSION_INVALID(headers=_CHALLENGE)
        return self._flights.run(session, partial(self._ask, session))

    def enter(self, x: Exchange, session: str) -> Problem | Awaitable[Problem | None] | None:
        """Make a request without a token that of `session`'s visitor, or tell why not."""
        found = self.find(session)
        return _take(x, found) if isinstance(found, Found) else _take_later(x, found)

    def stay(self, x: Exchange) -> Problem | Awaitable[Problem | None] | None:
        """Keep a request with a demo token inside its session, or tell why it may not go on.

        The token names its session, or the request does.
        """
        identity = x.caller
        session = identity.demo_session_id or named(x)
        if session is None:
            return DEMO_SESSION_INVALID("The demo token comes without a session.", _CHALLENGE)
        found = self.confine(identity, session)
        return _take(x, found) if isinstance(found, Found) else _take_later(x, found)

    def confine(self, identity: Identity, session: str) -> Found | Awaitable[Found]:
        """What is left of a demo token's `identity` in `session`: its own tenant, as long as both last."""
        found = self.find(session)
        return self._confined(identity, found) if isinstance(found, Found) else self._later(identity, found)

    async def _later(self, identity: Identity, found: Awaitable[Found]) -> Found:
        return self._confined(identity, await found)

    @staticmethod
    def _confined(identity: Identity, found: Found) -> Found:
        if isinstance(found, Problem):
            return found
        if identity.tenant_id != found.tenant_id:
            return DEMO_FORBIDDEN("The token's tenant is not that of its demo session.")
        known = identity.confined
        if known is None or known[0] is not found:
            known = identity.confined = found, identity.within(found)
        return known[1]

    async def _ask(self, session: str) -> Found:
        asked = self._clock()
        try:
            answer = await self._client.call("demo-session", "GET", f"/api/v1/demo/sessions/{session}")
        except GatewayError:
            return DEMO_UNAVAILABLE(headers=_RETRY_SOON)
        if answer.status == 404:
            return self._keep(session, DEMO_SESSION_INVALID(headers=_CHALLENGE), asked, _REFUSE_SECONDS)
        try:
            document = _decoder.decode(answer.body) if answer.status == 200 else None
        except (ValueError, RecursionError):
            document = None
        if document is None or document.session_id != session:
            return DEMO_UNAVAILABLE(headers=_RETRY_SOON)
        expires = _ends(document)
        if document.status != "active" or expires <= self._clock():
            return self._keep(session, DEMO_SESSION_EXPIRED(headers=_CHALLENGE), asked, _REFUSE_SECONDS)
        await self._mark(document.virtual_tenant_id, session, expires)
        return self._keep(session, _identity(document, asked, expires), asked, _KEEP_SECONDS)

    async def _mark(self, tenant: str, session: str, expires: float) -> None:
        """Tell all workers that `tenant` is a demo's, until the session ends. What the store lost comes back with it."""
        self._marks.pop(tenant, None)
        if len(self._marks) >= _MAX_SESSIONS:
            del self._marks[next(iter(self._marks))]
        self._marks[tenant] = session, expires
        with suppress(StoreError):
            await self._write(tenant, session, expires)

    def _write(self, tenant: str, session: str, expires: float) -> Future[Any]:
        return self._store.execute("SET", tenant_demo(tenant), session, "PXAT", int(expires * 1000) + 1)

    def _keep(self, session: str, found: Found, asked: float, seconds: float) -> Found:
        self._known.pop(session, None)
        if len(self._known) >= _MAX_SESSIONS:
            del self._known[next(iter(self._known))]
        self._known[session] = found, asked, asked + seconds
        return found

    async def close(self) -> None:
        """End what is under way."""
        if self._telling is not None:
            await stop([self._telling])
        await self._flights.close()


def _ends(session: _Session) -> float:
    """Unix seconds."""
    ends = session.expires_at
    return (ends if ends.tzinfo else ends.replace(tzinfo=UTC)).timestamp()


def _take(x: Exchange, found: Found) -> Problem | None:
    if isinstance(found, Problem):
        return found
    x.identity = found
    return None


async def _take_later(x: Exchange, found: Awaitable[Found]) -> Problem | None:
    return _take(x, await found)


def _identity(session: _Session, asked: float, expires: float) -> Identity:
    """Who comes with `session` and nothing else."""
    name: Id = session.session_id
    claims = Claims(
        exp=expires,
        iat=asked,
        iss=DEMO_SESSION,
        type="access",
        user_id=name,
        email=f"{name}@demo.internal",
        tenant_id=session.virtual_tenant_id,
        tenant_role="owner",
        subscription=session.subscription,
        is_demo=True,
        demo_session_id=name,
        demo_account_type=session.account_type,
    )
    return access_identity(claims, name, DEMO_SESSION)
