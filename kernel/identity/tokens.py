"""The verifier: from a token's bytes to an `Identity`, and the cache that makes it cheap the second time.

Order of work: size and shape, header, key, signature, claims' types, policy, expiry. Nothing of the payload is looked
at before the signature is good.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from kernel.identity.claims import Claims, Identity, decode_claims, decode_header
from kernel.identity.errors import TokenError
from kernel.identity.jws import Compact, parse, parse_head
from kernel.identity.keys import Key, KeySet
from kernel.identity.policy import Policy, identify
from kernel.problems import TOKEN_SIGNATURE, ProblemKind

_NEGATIVE_SECONDS = 1.0
_NEGATIVE_ENTRIES = 256
_HEADERS = 64


class IdentityCache:
    """Bounded map of token -> identity in two generations: what is not used while one fills is dropped with it.

    Keyed by the whole token: two tokens that share a prefix, or differ in their signature only, are strangers.
    """

    __slots__ = ("_clock", "_generation", "_old", "_young")

    def __init__(self, generation: int, clock: Callable[[], float]) -> None:
        self._generation = generation
        self._clock = clock
        self._young: dict[bytes, Identity] = {}
        self._old: dict[bytes, Identity] = {}

    def get(self, token: bytes) -> Identity | None:
        """The identity of a token verified before and not expired since."""
        # PERF: 0.3 us of this is hashing the token.
        identity = self._young.get(token)
        if identity is None:
            identity = self._old.pop(token, None)
            if identity is None:
                return None
            self.put(token, identity)
        if identity.exp <= self._clock():
            self.discard(token)
            return None
        return identity

    def put(self, token: bytes, identity: Identity) -> None:
        if len(self._young) >= self._generation:
            self._old = self._young
            self._young = {}
        self._young[token] = identity

    def discard(self, token: bytes) -> None:
        self._young.pop(token, None)
        self._old.pop(token, None)

    def clear(self) -> None:
        self._young.clear()
        self._old.clear()

    def __len__(self) -> int:
        return len(self._young) + len(self._old)


class Verifier:
    """Verifies tokens with the local keys. `clock` gives Unix seconds; `generation` is half the cache's capacity."""

    __slots__ = ("_clock", "_headers", "_refused", "cache", "cached", "keys", "policy")

    def __init__(
        self, keys: KeySet, policy: Policy, *, generation: int = 8192, clock: Callable[[], float] = time.time
    ) -> None:
        self.keys = keys
        self.policy = policy
        self._clock = clock
        self.cache = IdentityCache(generation, clock)
        self.cached: Callable[[bytes], Identity | None] = self.cache.get
        self._refused: dict[bytes, tuple[float, ProblemKind, str, Identity | None]] = {}
        self._headers: dict[bytes, tuple[Key, ...]] = {}
        keys.on_change(self.forget)

    def forget(self) -> None:
        """Drop all that was concluded with keys that are no longer the same."""
        self.cache.clear()
        self._refused.clear()
        self._headers.clear()

    def verify(self, token: bytes) -> Identity:
        """The identity of `token`, kept for `cached`. Raises `TokenError`, which is remembered for a second."""
        now = self._clock()
        refused = self._refused.get(token)
        if refused is not None:
            until, kind, detail, expired = refused
            if 0 < until - now <= _NEGATIVE_SECONDS:
                raise TokenError(kind, detail, expired_identity=expired)
            del self._refused[token]
        compact = parse(token)
        # PERF: headers that have led to a good signature are few; finding one again saves 6 us.
        candidates = self._headers.get(compact.head) or self._candidates(compact.head)
        try:
            key = self.signer(compact, candidates)
            identity = self.admit(decode_claims(compact.payload), key, key.trust)
        except TokenError as error:
            if len(self._refused) >= _NEGATIVE_ENTRIES:
                self._refused.clear()
            self._refused[token] = (now + _NEGATIVE_SECONDS, error.kind, error.detail, error.expired_identity)
            raise
        if compact.head not in self._headers and len(self._headers) < _HEADERS:
            self._headers[compact.head] = candidates
        self.cache.put(token, identity)
        return identity

    def _candidates(self, head: bytes) -> tuple[Key, ...]:
        header = decode_header(parse_head(head))
        return self.keys.candidates(header.alg, header.kid)

    def signer(self, compact: Compact, candidates: tuple[Key, ...]) -> Key:
        """The key that signed. Raises `TokenError`: TOKEN_SIGNATURE."""
        for key in candidates:
            if key.verify(compact.signed, compact.signature):
                return key
        raise TokenError(TOKEN_SIGNATURE)

    def admit(self, claims: Claims, key: Key | None, trust: str) -> Identity:
        """The identity of claims whose signature is known to be good. Raises `TokenError`."""
        return identify(self.policy, claims, key, trust, self._clock())
