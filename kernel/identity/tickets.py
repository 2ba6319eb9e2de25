"""Tickets: one-time credentials for clients that can send nothing but a URL.

A ticket is 256 random bits, good for half a minute and one use, on any instance. The store holds, under the ticket's
SHA-256, who asked for it: the verified claims and the tenant, never the token, encrypted with a key made from the ticket.
So neither the store nor a log that caught a spent URL gives anybody a credential.

The identity it stands for is the token's own, judged anew with the keys of that moment: it ends at the token's `exp`, and
what revokes the token or makes it stale does so to the ticket and to the stream that it opened.

Resuming. `EventSource` reconnects by itself, to the same URL, with a ticket that is spent. So a stream's first request
leaves a grant behind, until the token expires (an hour at most): the same ticket opens the stream again, but only for who
opened it first, known by either of

- a cookie of 256 random bits that the first answer set (same origin, or a page that opens its stream with credentials),
- for a page of another origin, as long as its browser has sent no cookie: its origin, user agent and address together.

SECURITY: a URL that leaks after its first use is worth nothing without the cookie; where a page of another origin sends no
credentials, it is worth something only to who shares the user's address and forges origin and user agent, and not past the
token's expiry. Sockets leave no grant: a page that opens one again can ask for a new ticket.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections import defaultdict
from contextlib import suppress
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from kernel.http.problems import STORE_UNAVAILABLE, TICKET_INVALID, GatewayError
from kernel.identity.aead import seal, unseal
from kernel.identity.claims import Claims
from kernel.identity.identity import DEMO_SESSION, Identity
from kernel.identity.l2_cache import revive
from kernel.identity.tokens import Verifier
from kernel.store.errors import StoreError
from kernel.store.keys import ticket_grant, ticket_name
from kernel.store.redis import Store

TICKET_SECONDS = 30
RESUME_SECONDS = 3600
_BYTES = 32
_FORM = re.compile(rb"[A-Za-z0-9_-]{43}")
_VERSION = 1
_RETRY_SOON = ((b"retry-after", b"1"),)


class _Record(Struct, frozen=True, omit_defaults=True):
    """What the store keeps, sealed. `cookie` and `place` are those of whoever opened the stream first."""

    v: int
    trust: str
    claims: Claims
    tenant: str | None
    cookie: str = ""
    place: str = ""


class Holder(NamedTuple):
    """Who presents a ticket: the cookie that came ("" for none) and the place (origin, user agent, address; "" for a
    request that no page of another origin sent)."""

    cookie: str
    place: str


class Redeemed(NamedTuple):
    """Whose ticket it was: an identity, or the id of a demo session that vouches for it. `tenant`: the one asked for.

    `cookie` is what the holder has to send to resume, "" for what cannot be resumed.
    """

    identity: Identity | None
    session: str
    tenant: str | None
    cookie: str = ""


_decoder = msgspec.json.Decoder(_Record)


class Tickets:
    """One a worker."""

    def __init__(self, store: Store, verifier: Verifier) -> None:
        self._store = store
        self._verifier = verifier
        self._counts: defaultdict[str, int] = defaultdict(int)

    async def issue(self, identity: Identity, tenant: str | None) -> tuple[str, int]:
        """A ticket for `identity` in `tenant`, and the seconds it is good for.

        Raises:
            GatewayError: STORE_UNAVAILABLE.
        """
        ticket = secrets.token_urlsafe(_BYTES)
        # What a demo session left of its token, not what the token says; and the name that a nameless token goes by, or its
        # revocation would pass the ticket over.
        claims = replace(
            identity.claims, exp=identity.exp, jti=identity.jti, demo_session_id=identity.demo_session_id
        )
        record = _Record(_VERSION, identity.trust, claims, tenant)
        seconds = max(1, min(TICKET_SECONDS, int(identity.exp - self._verifier.clock())))
        await self._write(ticket_name(_digest(ticket.encode())), ticket.encode(), record, seconds)
        self._counts["issued"] += 1
        return ticket, seconds

    async def redeem(self, ticket: bytes, holder: Holder | None) -> Redeemed:
        """Spend `ticket`, or resume what it opened; `holder` None: there is nothing to resume.

        Raises:
            TokenError: the token behind it has expired, or is not accepted any more.
            GatewayError: TICKET_INVALID, STORE_UNAVAILABLE.
        """
        try:
            redeemed = await self._redeem(ticket, holder)
        except GatewayError:
            self._counts["refused"] += 1
            raise
        return redeemed

    def families(self) -> dict[str, Any]:
        """For metrics."""
        return {"gateway_tickets_total": dict(self._counts)}

    async def _redeem(self, ticket: bytes, holder: Holder | None) -> Redeemed:
        if not _FORM.fullmatch(ticket):
            raise _refused()
        digest = _digest(ticket)
        fresh, granted = await self._take(digest, holder is not None)
        record = _open(ticket, fresh if fresh is not None else granted)
        if record is None:
            raise _refused()
        if fresh is None and not _same(record, holder):
            raise _refused()
        session = ""
        identity = None
        if record.trust == DEMO_SESSION:
            session = record.claims.demo_session_id or ""
        else:
            identity = revive(record.trust, record.claims, self._verifier)
            if identity is None:
                raise _refused()
        if holder is None:
            self._counts["redeemed"] += 1
            return Redeemed(identity, session, record.tenant)
        lifetime = min(RESUME_SECONDS, int(record.claims.exp - self._verifier.clock()))
        cookie = holder.cookie or secrets.token_urlsafe(_BYTES)
        # A browser that sends a cookie is known by that alone.
        if fresh is None:
            self._counts["resumed"] += 1
            bound = replace(record, place="") if _by_cookie(record, holder) else record
        else:
            self._counts["redeemed"] += 1
            place = "" if holder.cookie else holder.place
            bound = replace(record, cookie=_digest(cookie.encode()), place=place)
        if bound != record and lifetime > 0:
            # Without it the stream opens all the same; it only cannot be resumed.
            with suppress(GatewayError):
                await self._write(ticket_grant(digest), ticket, bound, lifetime)
        return Redeemed(identity, session, record.tenant, cookie)

    async def _take(self, digest: str, resumable: bool) -> tuple[bytes | None, bytes | None]:
        """The ticket, which is gone with that, and the grant it left when it was spent before. One trip.

        A connection that breaks before the reply may have the command executed twice: then the ticket is lost, not used
        twice.
        """
        try:
            taken = self._store.execute("GETDEL", ticket_name(digest))
            granted = self._store.execute("GET", ticket_grant(digest)) if resumable else None
            fresh = await taken
            return fresh, await granted if granted is not None else None
        except StoreError:
            raise GatewayError(STORE_UNAVAILABLE(headers=_RETRY_SOON)) from None

    async def _write(self, key: str, ticket: bytes, record: _Record, seconds: int) -> None:
        try:
            await self._store.execute("SET", key, seal(ticket, msgspec.json.encode(record)), "EX", seconds)
        except StoreError:
            raise GatewayError(STORE_UNAVAILABLE(headers=_RETRY_SOON)) from None


def _digest(secret: bytes) -> str:
    return hashlib.sha256(secret).hexdigest()


def _refused() -> GatewayError:
    return GatewayError(TICKET_INVALID())


def _open(ticket: bytes, sealed: bytes | None) -> _Record | None:
    plain = unseal(ticket, sealed) if sealed is not None else None
    if plain is None:
        return None
    try:
        record = _decoder.decode(plain)
    except (ValueError, RecursionError):
        return None
    return record if record.v == _VERSION else None


def _same(record: _Record, holder: Holder | None) -> bool:
    """Whether `holder` is the one that opened the stream first."""
    if holder is None:
        return False
    return _by_cookie(record, holder) or (bool(record.place) and record.place == holder.place)


def _by_cookie(record: _Record, holder: Holder) -> bool:
    return bool(holder.cookie) and hmac.compare_digest(record.cookie, _digest(holder.cookie.encode()))
