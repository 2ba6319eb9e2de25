"""The verifier: from a token's bytes to an `Identity`.

Order of work: size and shape, header, key, signature, claims' types, policy, expiry. Of the payload nothing is looked at
before the signature is good, but for `iss` where issuers have keys of their own: it says which keys to try.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec
from msgspec import Struct

from kernel.http.problems import TOKEN_ISSUER, TOKEN_SIGNATURE
from kernel.identity.cache import IdentityCache, Refusals
from kernel.identity.claims import Claims, decode_claims, decode_header
from kernel.identity.errors import TokenError
from kernel.identity.identity import Identity
from kernel.identity.jws import Compact, parse, parse_head
from kernel.identity.keys import Key, KeySet
from kernel.identity.policy import Policy, identify

__all__ = ["TokenError", "Verifier"]

_HEADERS = 64


class _Issuer(Struct, frozen=True):
    iss: str | None = None


_issuer_decoder = msgspec.json.Decoder(_Issuer)


class Verifier:
    """Verifies tokens with the local keys. `clock` gives Unix seconds; `generation` is half the cache's capacity.

    `cached(token)` is the identity of a token verified before, or None; `cache` and `refusals` are shared with whoever
    else learns what a token is worth (the auth service, the second-level cache).
    """

    __slots__ = ("_headers", "cache", "cached", "clock", "keys", "policy", "refusals")

    def __init__(
        self,
        keys: KeySet,
        policy: Policy,
        *,
        generation: int = 16_384,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.keys = keys
        self.policy = policy
        self.clock = clock
        self.cache = IdentityCache(generation, clock)
        # PERF: bound once, a call to the cache and not to a method that calls it (0.1 us).
        self.cached: Callable[[bytes], Identity | None] = self.cache.get
        self.refusals = Refusals()
        self._headers: dict[tuple[bytes, str | None], tuple[Key, ...]] = {}
        keys.on_change(self.forget)

    def forget(self) -> None:
        """Drop all that was concluded with keys that are no longer the same."""
        self.cache.clear()
        self.refusals.clear()
        self._headers.clear()

    def verify(self, token: bytes) -> Identity:
        """The identity of `token`, kept for `cached`. Raises `TokenError`, which is remembered for a second."""
        now = self.clock()
        self.refusals.check(token, now)
        compact = parse(token)
        issuer = self._issuer(compact)
        # PERF: headers that have led to a good signature are few; finding one again saves 6 us.
        candidates = self._headers.get((compact.head, issuer)) or self._candidates(compact.head, issuer)
        try:
            key = self.signer(compact, candidates)
            identity = self.admit(decode_claims(compact.payload), key, key.trust)
        except TokenError as error:
            self.refusals.remember(token, error, now)
            raise
        if len(self._headers) < _HEADERS:
            self._headers[compact.head, issuer] = candidates
        self.cache.put(token, identity)
        return identity

    def candidates(self, compact: Compact) -> tuple[Key, ...]:
        """The keys that a token may be signed with by its header and issuer. Raises `TokenError`."""
        return self._candidates(compact.head, self._issuer(compact))

    def may_learn(self, compact: Compact) -> tuple[str | None, str | None] | None:
        """The `kid` and the issuer of a token whose key a fetch of key sets may bring; None for others."""
        header = decode_header(parse_head(compact.head))
        issuer = self._issuer(compact)
        return (header.kid, issuer) if self.keys.may_come(header.alg, header.kid, issuer) else None

    def _candidates(self, head: bytes, issuer: str | None) -> tuple[Key, ...]:
        header = decode_header(parse_head(head))
        return self.keys.candidates(header.alg, header.kid, issuer)

    def _issuer(self, compact: Compact) -> str | None:
        """The `iss` that a token's payload gives itself, where that decides which keys are tried."""
        if not self.keys.issuers:
            return None
        try:
            issuer = _issuer_decoder.decode(compact.payload).iss
        except (ValueError, RecursionError):
            return None
        if issuer is not None and issuer not in self.policy.issuers:
            raise TokenError(TOKEN_ISSUER)
        return issuer

    def signer(self, compact: Compact, candidates: tuple[Key, ...]) -> Key:
        """The key that signed. Raises `TokenError`: TOKEN_SIGNATURE."""
        for key in candidates:
            if key.verify(compact.signed, compact.signature):
                return key
        raise TokenError(TOKEN_SIGNATURE)

    def admit(self, claims: Claims, key: Key | None, trust: str) -> Identity:
        """The identity of claims that `key` (None: the auth service) vouches for. Raises `TokenError`."""
        return identify(self.policy, claims, key, trust, self.clock())
