"""Verification by the auth service, for a gateway without a key of its own (`POST /api/v1/auth/verify`).

The auth service says whether the token is good; what it says is read by us, under the same rules as ever.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple

import msgspec
from msgspec import Struct

from kernel.http.problems import AUTH_UNAVAILABLE, TOKEN_ALGORITHM, TOKEN_SIGNATURE, GatewayError
from kernel.identity.claims import Header, decode_claims, decode_header
from kernel.identity.errors import TokenError
from kernel.identity.identity import Identity
from kernel.identity.jws import Compact, parse, parse_head
from kernel.identity.keys import ASYMMETRIC, SYMMETRIC
from kernel.identity.l2_cache import REMOTE
from kernel.identity.tokens import Verifier
from kernel.primitives.single_flight import SingleFlight


class Answer(NamedTuple):
    """An answer of the auth service; `shared`: it was given to another request."""

    status: int
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()
    shared: bool = False


Call = Callable[[str], Awaitable[Answer]]


class Verdict(Struct, frozen=True):
    """The auth service's answer: `active` as in RFC 7662, or `valid`. Neither may be false."""

    active: bool | None = None
    valid: bool | None = None
    user_id: str | None = None

    @property
    def said(self) -> frozenset[bool]:
        return frozenset(each for each in (self.active, self.valid) if each is not None)


_verdict_decoder = msgspec.json.Decoder(Verdict)


class RemoteVerifier:
    """Asks `call(token)`, which posts the token and may raise when the service is out of reach.

    Shares the caches of `verifier`, which also verifies whatever it has a key for (service tokens).
    """

    __slots__ = ("_call", "_flight", "_verifier")

    def __init__(self, verifier: Verifier, call: Call) -> None:
        self._verifier = verifier
        self._call = call
        self._flight: SingleFlight[bytes, Answer] = SingleFlight()

    async def verify(self, token: bytes) -> Identity:
        """The identity of `token`. Raises `TokenError`, or `GatewayError` AUTH_UNAVAILABLE."""
        verifier = self._verifier
        verifier.refusals.check(token, verifier.clock())
        compact = parse(token)
        header = decode_header(parse_head(compact.head))
        if header.alg in verifier.keys.algorithms and self._ours(compact, header):
            return verifier.verify(token)
        if header.alg not in ASYMMETRIC and header.alg not in SYMMETRIC:
            raise TokenError(TOKEN_ALGORITHM)
        try:
            # A token that its own words condemn is not worth a call.
            identity = verifier.admit(decode_claims(compact.payload), None, REMOTE)
        except TokenError as error:
            # SECURITY: nobody has vouched for the signature, so an expired token must not open the way to a refresh.
            raise TokenError(error.kind, error.detail) from None
        try:
            answer = await self._flight.run(token, lambda: self._ask(token))
            self._judge(answer, identity)
        except TokenError as error:
            verifier.refusals.remember(token, error, verifier.clock())
            raise
        verifier.cache.put(token, identity)
        return identity

    def _ours(self, compact: Compact, header: Header) -> bool:
        """Whether a local key has the last word: always, unless it is a development run's own and signed nothing here."""
        keys = self._verifier.keys
        if not keys.provisional or header.alg not in ASYMMETRIC:
            return True
        try:
            self._verifier.signer(compact, self._verifier.candidates(compact))
        except TokenError:
            return False
        return True

    async def _ask(self, token: bytes) -> Answer:
        try:
            return await self._call(token.decode("ascii"))
        except Exception:
            raise GatewayError(AUTH_UNAVAILABLE()) from None

    def _judge(self, answer: Answer, identity: Identity) -> None:
        if answer.status in (400, 401, 403, 422):
            raise TokenError(TOKEN_SIGNATURE, "The auth service refused the token.")
        if answer.status != 200:
            raise GatewayError(AUTH_UNAVAILABLE())
        try:
            verdict = _verdict_decoder.decode(answer.body)
        except (ValueError, RecursionError):
            raise GatewayError(AUTH_UNAVAILABLE()) from None
        if not verdict.said:
            raise GatewayError(AUTH_UNAVAILABLE())
        if False in verdict.said or verdict.user_id not in (None, identity.user_id):
            raise TokenError(TOKEN_SIGNATURE, "The auth service refused the token.")

    async def close(self) -> None:
        await self._flight.close()
