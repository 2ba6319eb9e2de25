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
from kernel.identity.jws import parse
from kernel.identity.remote import Answer, Call
from kernel.identity.tokens import Verifier
from kernel.primitives.memo import keep
from kernel.primitives.single_flight import SingleFlight

# A refresh token is spent by its use, but a browser's other requests still carry it for a moment.
_SHARED_SECONDS = 10.0
_SHARED_SESSIONS = 1024
_REFRESH_TOKEN = re.compile(r"[!-~]{1,4096}")
_COOKIE = b"set-cookie"


Recognise = Callable[[bytes], Awaitable[Identity]]


class Refreshed(NamedTuple):
    """New tokens of a session. `cookies` are the auth service's own `Set-Cookie` values.

    `shared`: somebody has them already.
    """

    identity: Identity
    access_token: str
    refresh_token: str | None
    cookies: tuple[bytes, ...]
    shared: bool


class Issued(Struct, frozen=True):
    access_token: Annotated[str, Meta(max_length=8192)]
    refresh_token: Annotated[str, Meta(pattern=r"\A[!-~]{1,4096}\Z")] | None = None


class AnotherSession(TokenError):
    """The refresh token was another user's, which only its exchange showed: whoever presented it must get what came of it,
    or the owner's session ends with the next use of a token that is spent (RFC 9700 section 4.14.2)."""

    def __init__(self, refreshed: Refreshed) -> None:
        super().__init__(TOKEN_EXPIRED, _ANOTHER)
        self.refreshed = refreshed


class _Owner(Struct, frozen=True):
    """Whose a refresh token says it is."""

    sub: str | None = None
    user_id: str | None = None


_issued_decoder = msgspec.json.Decoder(Issued)
_owner_decoder = msgspec.json.Decoder(_Owner)
_ANOTHER = "The refresh token belongs to another session."


def issued_refresh_token(answer: Answer) -> str | None:
    """The new refresh token in the auth service's answer."""
    try:
        return _issued_decoder.decode(answer.body).refresh_token if answer.status in (200, 201) else None
    except (ValueError, RecursionError):
        return None


def _session(refresh_token: str) -> bytes:
    # The token itself is a credential: only its digest is kept.
    return hashlib.sha256(refresh_token.encode()).digest()


def _is_anothers(refresh_token: str, expired: Identity) -> bool:
    """Whether a refresh token says of itself that it is not that of `expired`'s user. Most say nothing, or are no JWT."""
    try:
        owner = _owner_decoder.decode(parse(refresh_token.encode()).payload)
    except (TokenError, ValueError, RecursionError):
        return False
    said = {owner.sub, owner.user_id} - {None}
    return bool(said) and said.isdisjoint((expired.user_id, expired.claims.sub, expired.claims.user_id))


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

        Raises `TokenError` TOKEN_EXPIRED when there is no way to refresh (`AnotherSession`: the new tokens are another's),
        `GatewayError` AUTH_UNAVAILABLE.
        """
        if expired.kind != "access" or not _REFRESH_TOKEN.fullmatch(refresh_token):
            raise TokenError(TOKEN_EXPIRED)
        # SECURITY: an expired token of one user with the refresh token of another is two users. Better known before it is
        # spent; and what its owner has already got is for nobody else.
        if _is_anothers(refresh_token, expired):
            raise TokenError(TOKEN_EXPIRED, _ANOTHER)
        session = _session(refresh_token)
        known = self._shared(session)
        if known is None:
            refreshed = await self._flight.run(session, lambda: self._exchange(session, refresh_token))
        else:
            refreshed = known
        if refreshed.identity.user_id != expired.user_id:
            if known is not None or refreshed.shared:
                raise TokenError(TOKEN_EXPIRED, _ANOTHER)
            raise AnotherSession(refreshed)
        return refreshed

    def successor(self, refresh_token: str) -> str | None:
        """The refresh token that this worker got for one it has just spent."""
        refreshed = self._shared(_session(refresh_token))
        return refreshed.refresh_token if refreshed is not None else None

    def forget(self, refresh_token: str) -> None:
        """The session is over: no request goes on with what was got for its token."""
        self._recent.pop(_session(refresh_token), None)

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
        keep(self._recent, session, (self._verifier.clock() + _SHARED_SECONDS, refreshed), _SHARED_SESSIONS)
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
        return Refreshed(identity, issued.access_token, issued.refresh_token, cookies, answer.shared)

    async def close(self) -> None:
        await self._flight.close()
