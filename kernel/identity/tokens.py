"""The verifier: from a token's bytes to an `Identity`.

Order of work: size and shape, header, key, signature, claims' types, policy, expiry. Nothing of the payload is looked
at before the signature is good.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from kernel.http.problems import TOKEN_SIGNATURE
from kernel.identity.cache import IdentityCache, Refusals
from kernel.identity.claims import Claims, decode_claims, decode_header
from kernel.identity.errors import TokenError
from kernel.identity.identity import Identity
from kernel.identity.jws import Compact, parse, parse_head
from kernel.identity.keys import Key, KeySet
from kernel.identity.policy import Policy, identify

__all__ = ["TokenError", "Verifier"]

_HEADERS = 64


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
        self._headers: dict[bytes, tuple[Key, ...]] = {}
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
        # PERF: headers that have led to a good signature are few; finding one again saves 6 us.
        candidates = self._headers.get(compact.head) or self.candidates(compact.head)
        try:
            key = self.signer(compact, candidates)
            identity = self.admit(decode_claims(compact.payload), key, key.trust)
        except TokenError as error:
            self.refusals.remember(token, error, now)
            raise
        if len(self._headers) < _HEADERS:
            self._headers[compact.head] = candidates
        self.cache.put(token, identity)
        return identity

    def candidates(self, head: bytes) -> tuple[Key, ...]:
        """The keys that a token with this header segment may be signed with. Raises `TokenError`."""
        header = decode_header(parse_head(head))
        return self.keys.candidates(header.alg, header.kid)

    def signer(self, compact: Compact, candidates: tuple[Key, ...]) -> Key:
        """The key that signed. Raises `TokenError`: TOKEN_SIGNATURE."""
        for key in candidates:
            if key.verify(compact.signed, compact.signature):
                return key
        raise TokenError(TOKEN_SIGNATURE)

    def admit(self, claims: Claims, key: Key | None, trust: str) -> Identity:
        """The identity of claims that `key` (None: the auth service) vouches for. Raises `TokenError`."""
        return identify(self.policy, claims, key, trust, self.clock())
