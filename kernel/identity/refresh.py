"""Automatic refresh: an expired session goes on with new tokens, fetched once however many requests it has open."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Awaitable, Callable
from typing import Annotated, NamedTuple

import msgspec
from msgspec import Meta, Struct

from kernel.http.problems import AUTH_UNAVAILABLE, TOKEN_EXPIRED, GatewayError
from kernel.identity.errors import TokenError
from kernel.identity.identity import Identity
from kernel.identity.remote import Answer, Call
from kernel.identity.tokens import Verifier
from kernel.primitives.single_flight import SingleFlight

# A refresh token is spent by its use, but a browser's other requests still carry it for a moment.
_SHARED_SECONDS = 10.0
_SHARED_SESSIONS = 1024
_REFRESH_TOKEN = re.compile(r"[!-~]{1,4096}")
_COOKIE = b"set-cookie"


Recognise = Callable[[bytes], Awaitable[Identity]]


class Refreshed(NamedTuple):
    """New tokens of a session. `cookies` are the auth service's own `Set-Cookie` values."""

    identity: Identity
    access_token: str
    refresh_token: str | None
    cookies: tuple[bytes, ...]


class Issued(Struct, frozen=True):
    access_token: Annotated[str, Meta(max_length=8192)]
    refresh_token: Annotated[str, Meta(pattern=r"\A[!-~]{1,4096}\Z")] | None = None


_issued_decoder = msgspec.json.Decoder(Issued)


class Refresher:
    """Asks `call(refresh_token)`, which posts it to the auth service and may raise when that is out of reach.

    `recognise` verifies the new token; without it, `verifier` does with the keys at hand.
    """

    __slots__ = ("_call", "_flight", "_recent", "_recognise", "_verifier")

    def __init__(self, verifier: Verifier, call: Call, recognise: Recognise | None = None) -> None:
        self._verifier = verifier
        self._recognise = recognise
        self._call = call
        self._flight: SingleFlight[bytes, Refreshed] = SingleFlight()
        self._recent: dict[bytes, tuple[float, Refreshed]] = {}

    async def refresh(self, expired: Identity, refresh_token: str) -> Refreshed:
        """New tokens for the user of `expired`, whose signature was good (`TokenExpired.identity`).

        Raises `TokenError` TOKEN_EXPIRED when there is no way to refresh, `GatewayError` AUTH_UNAVAILABLE.
        """
        if expired.kind != "access" or not _REFRESH_TOKEN.fullmatch(refresh_token):
            raise TokenError(TOKEN_EXPIRED)
        # The token itself is a credential: only its digest is kept.
        session = hashlib.sha256(refresh_token.encode()).digest()
        refreshed = self._shared(session)
        if refreshed is None:
            refreshed = await self._flight.run(session, lambda: self._exchange(session, refresh_token))
        # SECURITY: an expired token of one user with the refresh token of another is two users.
        if refreshed.identity.user_id != expired.user_id:
            raise TokenError(TOKEN_EXPIRED, "The refresh token belongs to another session.")
        return refreshed

    def _shared(self, session: bytes) -> Refreshed | None:
        recent = self._recent.get(session)
        if recent is None:
            return None
        until, refreshed = recent
        now = self._verifier.clock()
        return refreshed if now < until and now < refreshed.identity.exp else None

    async def _exchange(self, session: bytes, refresh_token: str) -> Refreshed:
        try:
            answer = await self._call(refresh_token)
        except Exception:
            raise GatewayError(AUTH_UNAVAILABLE()) from None
        refreshed = await self._read(answer)
        if len(self._recent) >= _SHARED_SESSIONS:
            self._recent.clear()
        self._recent[session] = (self._verifier.clock() + _SHARED_SECONDS, refreshed)
        return refreshed

    async def _read(self, answer: Answer) -> Refreshed:
        if answer.status in (400, 401, 403, 404, 422):
            raise TokenError(TOKEN_EXPIRED, "The token expired and could not be refreshed: log in again.")
        if answer.status not in (200, 201):
            raise GatewayError(AUTH_UNAVAILABLE())
        try:
            issued = _issued_decoder.decode(answer.body)
            token = issued.access_token.encode()
            identity = await self._recognise(token) if self._recognise else self._verifier.verify(token)
        except (ValueError, RecursionError, TokenError):
            # A new token that we refuse is the auth service's fault, not the client's.
            raise GatewayError(
                AUTH_UNAVAILABLE("The auth service issued a token that is not usable.")
            ) from None
        if identity.kind != "access":
            raise GatewayError(AUTH_UNAVAILABLE("The auth service issued a token that is not usable."))
        cookies = tuple(value for name, value in answer.headers if name.lower() == _COOKIE)
        return Refreshed(identity, issued.access_token, issued.refresh_token, cookies)

    async def close(self) -> None:
        await self._flight.close()
