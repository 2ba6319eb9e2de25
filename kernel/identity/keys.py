"""Verification keys. Each key verifies exactly one algorithm, and only that one (RFC 8725 sections 3.1, 3.2).

SECURITY: the algorithm is a property of the key, never of the token: a token's `alg` can only pick among keys that were
configured for it. So `none` finds no key, and HS256 never meets a public key's text.
"""

from __future__ import annotations

import hashlib
import hmac
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt.algorithms import Algorithm, get_default_algorithms
from jwt.exceptions import InvalidKeyError

from kernel.http.problems import TOKEN_ALGORITHM, TOKEN_KEY_UNKNOWN
from kernel.identity.errors import TokenError

PublicKey = RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey | Ed448PublicKey

ASYMMETRIC = frozenset(
    ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
)
SYMMETRIC = frozenset(("HS256", "HS384", "HS512"))

_RSA_BITS = range(2048, 8193)  # a longer modulus makes each verification a burden
_MAX_TRIED = 4  # signatures computed for one token that names no key


class KeyConfigError(ValueError):
    """A key that cannot be used; the message tells the operator why and never quotes the key."""


def algorithm(name: str) -> Algorithm:
    """PyJWT's implementation of an algorithm we allow. Raises `KeyConfigError`."""
    if name not in ASYMMETRIC and name not in SYMMETRIC:
        allowed = ", ".join(sorted(ASYMMETRIC | SYMMETRIC))
        raise KeyConfigError(f"algorithm {name!r} is not one of {allowed}")
    return get_default_algorithms()[name]


class Key:
    """One key bound to one algorithm.

    `kid` None matches tokens of any `kid` that no named key claims. `access` tells whether it may sign users' tokens,
    `issuer` the only `iss` it may sign for (None: any configured one). `digest` (of a public key its RFC 7638
    thumbprint) and `trust` (the same with the algorithm) identify the key without revealing it.
    """

    __slots__ = ("_material", "_verify", "access", "algorithm", "digest", "issuer", "kid", "trust")

    def __init__(
        self, alg: str, material: Any, digest: str, *, kid: str | None, access: bool, issuer: str | None
    ) -> None:
        self.algorithm = alg
        self.kid = kid
        self.access = access
        self.issuer = issuer
        self.digest = digest
        self.trust = f"{alg}:{digest}"
        self._material = material
        self._verify: Callable[[bytes, Any, bytes], bool] = algorithm(alg).verify

    def verify(self, signed: bytes, signature: bytes) -> bool:
        """True when `signature` is this key's over `signed`."""
        return self._verify(signed, self._material, signature)

    def __repr__(self) -> str:
        return f"Key({self.trust}, kid={self.kid!r})"


def public_key(alg: str, material: PublicKey, *, kid: str | None = None, issuer: str | None = None) -> Key:
    """A key for users' and services' tokens. Raises `KeyConfigError` when `material` does not fit `alg`."""
    if alg not in ASYMMETRIC:
        raise KeyConfigError(f"algorithm {alg!r} takes no public key")
    implementation = algorithm(alg)
    try:
        prepared = implementation.prepare_key(material)
    except (InvalidKeyError, TypeError, ValueError):
        raise KeyConfigError(f"a {_family(material)} key does not fit algorithm {alg}") from None
    if isinstance(material, RSAPublicKey) and material.key_size not in _RSA_BITS:
        raise KeyConfigError(f"an RSA key of {material.key_size} bits is refused: use 2048 to 8192")
    return Key(alg, prepared, thumbprint(implementation, material), kid=kid, access=True, issuer=issuer)


def secret_key(secret: str, alg: str = "HS256", *, access: bool = False) -> Key:
    """A shared secret, by default for service tokens only. Raises `KeyConfigError`."""
    if alg not in SYMMETRIC:
        raise KeyConfigError(f"algorithm {alg!r} takes no shared secret")
    raw = secret.encode()
    try:
        material = algorithm(alg).prepare_key(raw)
    except InvalidKeyError:
        raise KeyConfigError(
            "an empty text, public key, certificate or JWK cannot be a shared secret"
        ) from None
    digest = hmac.new(raw, b"bakery-gateway key id", hashlib.sha256).hexdigest()[:32]
    return Key(alg, material, digest, kid=None, access=access, issuer=None)


def thumbprint(implementation: Algorithm, material: PublicKey) -> str:
    """RFC 7638 thumbprint (SHA-256, base64url) of a public key."""
    jwk = implementation.to_jwk(material, as_dict=True)
    required = {name: jwk[name] for name in sorted(("kty", "crv", "x", "y", "n", "e")) if name in jwk}
    digest = hashlib.sha256(msgspec.json.encode(required)).digest()
    return urlsafe_b64encode(digest).rstrip(b"=").decode()


def _family(material: object) -> str:
    for family, name in ((RSAPublicKey, "RSA"), (EllipticCurvePublicKey, "EC")):
        if isinstance(material, family):
            return name
    return "Ed25519/Ed448" if isinstance(material, Ed25519PublicKey | Ed448PublicKey) else "foreign"


class KeySet:
    """The keys now trusted: those of the configuration, and those of sources that may change (JWKS)."""

    __slots__ = (
        "_by_algorithm",
        "_by_kid",
        "_configured",
        "_listeners",
        "_sources",
        "open_algorithms",
        "provisional",
        "trusted",
    )

    def __init__(self, keys: Iterable[Key] = (), *, provisional: bool = False) -> None:
        """`provisional`: these keys are a development run's own; the auth service signs with others."""
        self.provisional = provisional
        self._configured = tuple(keys)
        self._sources: dict[str, tuple[Key, ...]] = {}
        self._listeners: list[Callable[[], None]] = []
        # Algorithms a source may yet bring a key for: an unknown `kid` with one of them is worth a fetch.
        self.open_algorithms: frozenset[str] = frozenset()
        self._index()

    def _index(self) -> None:
        everything = [*self._configured, *(key for keys in self._sources.values() for key in keys)]
        self._by_kid: dict[tuple[str, str], tuple[Key, ...]] = {}
        self._by_algorithm: dict[str, tuple[Key, ...]] = {}
        for key in everything:
            # A key is also known by its thumbprint, which many issuers use as `kid`.
            for name in {key.kid or key.digest, key.digest}:
                slot = (key.algorithm, name)
                self._by_kid[slot] = (*self._by_kid.get(slot, ()), key)[:_MAX_TRIED]
            self._by_algorithm[key.algorithm] = (*self._by_algorithm.get(key.algorithm, ()), key)
        self.trusted: dict[str, Key] = {key.trust: key for key in everything}

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call `listener` whenever the keys change: what was verified with the old ones is to be forgotten."""
        self._listeners.append(listener)

    def replace(self, source: str, keys: Iterable[Key]) -> None:
        """Let `keys` be all that `source` (a JWKS address) vouches for."""
        new = tuple(keys)
        old = self._sources.get(source, ())
        self._sources[source] = new
        if {(k.kid, k.algorithm, k.trust, k.issuer) for k in old} == {
            (k.kid, k.algorithm, k.trust, k.issuer) for k in new
        }:
            return
        self._index()
        for listener in self._listeners:
            listener()

    def __bool__(self) -> bool:
        return bool(self.trusted)

    @property
    def algorithms(self) -> frozenset[str]:
        return frozenset(self._by_algorithm)

    @property
    def verifies_users(self) -> bool:
        """Whether any local key may vouch for a user (else the auth service must be asked)."""
        return not self.provisional and any(key.access for key in self.trusted.values())

    def named(self, alg: str, kid: str) -> bool:
        """Whether a key for `alg` has this `kid`."""
        return (alg, kid) in self._by_kid

    def candidates(self, alg: str, kid: str | None) -> tuple[Key, ...]:
        """The keys that may have signed a token with this header, at most four.

        Raises `TokenError`: TOKEN_ALGORITHM when no key may use `alg`, TOKEN_KEY_UNKNOWN when none has this `kid`.
        """
        if kid is not None:
            named = self._by_kid.get((alg, kid))
            if named is not None:
                return named
        usable = self._by_algorithm.get(alg, ())
        if kid is not None:
            usable = tuple(key for key in usable if key.kid is None)
        if usable:
            return usable[:_MAX_TRIED]
        if alg in self._by_algorithm or alg in self.open_algorithms:
            raise TokenError(TOKEN_KEY_UNKNOWN)
        raise TokenError(TOKEN_ALGORITHM)
