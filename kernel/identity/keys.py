"""Verification keys. Each key verifies exactly one algorithm, and only that one (RFC 8725 sections 3.1, 3.2).

SECURITY: the algorithm is a property of the key, never of the token: a token's `alg` can only pick among keys that were
configured for it. So `none` finds no key, and HS256 never meets a public key's text.
"""

from __future__ import annotations

import hashlib
import hmac
from base64 import urlsafe_b64encode
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import msgspec
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt.algorithms import Algorithm, get_default_algorithms
from jwt.exceptions import InvalidKeyError

from kernel.http.problems import TOKEN_ALGORITHM, TOKEN_KEY_UNKNOWN
from kernel.identity.errors import TokenError

_Slot = TypeVar("_Slot")
PublicKey = RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey | Ed448PublicKey

ASYMMETRIC = frozenset(
    ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
)
SYMMETRIC = frozenset(("HS256", "HS384", "HS512"))

_RSA_BITS = range(2048, 8193)  # a longer modulus makes each verification a burden
MAX_TRIED = 4  # signatures of one source's keys that are computed for one token


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
    `service` whether services'; `issuer` is the only `iss` it may sign for (None: any configured one). `digest` (of a public
    key its RFC 7638 thumbprint) names the key without revealing it, `trust` the key with all that it may do.
    """

    __slots__ = ("_material", "_verify", "access", "algorithm", "digest", "issuer", "kid", "service", "trust")

    def __init__(
        self,
        alg: str,
        material: Any,
        digest: str,
        *,
        kid: str | None,
        access: bool,
        service: bool,
        issuer: str | None,
    ) -> None:
        self.algorithm = alg
        self.kid = kid
        self.access = access
        self.service = service
        self.issuer = issuer
        self.digest = digest
        # SECURITY: what another issuer publishes as its own, our public keys included, is another trust.
        self.trust = f"{alg}:{digest}" + ("" if issuer is None else f"@{issuer}")
        if service and alg in ASYMMETRIC:
            self.trust += " for services"
        self._material = material
        self._verify: Callable[[bytes, Any, bytes], bool] = algorithm(alg).verify

    def verify(self, signed: bytes, signature: bytes) -> bool:
        """True when `signature` is this key's over `signed`."""
        return self._verify(signed, self._material, signature)

    def __repr__(self) -> str:
        return f"Key({self.trust}, kid={self.kid!r})"


def public_key(
    alg: str,
    material: PublicKey,
    *,
    kid: str | None = None,
    issuer: str | None = None,
    service: bool = False,
) -> Key:
    """A key for users' tokens, or for services' alone. Raises `KeyConfigError` when `material` does not fit `alg`."""
    if alg not in ASYMMETRIC:
        raise KeyConfigError(f"algorithm {alg!r} takes no public key")
    implementation = algorithm(alg)
    try:
        prepared = implementation.prepare_key(material)
    except (InvalidKeyError, TypeError, ValueError):
        raise KeyConfigError(f"a {_family(material)} key does not fit algorithm {alg}") from None
    if isinstance(material, RSAPublicKey) and material.key_size not in _RSA_BITS:
        raise KeyConfigError(f"an RSA key of {material.key_size} bits is refused: use 2048 to 8192")
    digest = thumbprint(implementation, material)
    return Key(alg, prepared, digest, kid=kid, access=not service, service=service, issuer=issuer)


def secret_key(secret: str, alg: str = "HS256", *, access: bool = False) -> Key:
    """A shared secret, for services' tokens and by default for no others. Raises `KeyConfigError`."""
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
    return Key(alg, material, digest, kid=None, access=access, service=True, issuer=None)


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


class _Choice:
    """The keys among which a token of one issuer chooses; `unnamed` are for any `kid` that no key claims."""

    __slots__ = ("by_algorithm", "by_kid", "unnamed")

    def __init__(self, sources: Iterable[Iterable[Key]]) -> None:
        self.by_kid: dict[tuple[str, str], tuple[Key, ...]] = {}
        self.by_algorithm: dict[str, tuple[Key, ...]] = {}
        self.unnamed: dict[str, tuple[Key, ...]] = {}
        for keys in sources:
            named: defaultdict[tuple[str, str], list[Key]] = defaultdict(list)
            usable: defaultdict[str, list[Key]] = defaultdict(list)
            unnamed: defaultdict[str, list[Key]] = defaultdict(list)
            for key in keys:
                # A key is also known by its thumbprint, which many issuers use as `kid`.
                for name in {key.kid or key.digest, key.digest}:
                    named[key.algorithm, name].append(key)
                usable[key.algorithm].append(key)
                if key.kid is None:
                    unnamed[key.algorithm].append(key)
            _add(self.by_kid, named)
            _add(self.by_algorithm, usable)
            _add(self.unnamed, unnamed)


def _add(choice: dict[_Slot, tuple[Key, ...]], found: Mapping[_Slot, list[Key]]) -> None:
    # Each source has its own share of tries: one that has many keys does not crowd out the others'. Secrets cost nothing.
    for slot, keys in found.items():
        tried = keys if keys[0].algorithm in SYMMETRIC else keys[:MAX_TRIED]
        choice[slot] = (*choice.get(slot, ()), *tried)


class KeySet:
    """The keys now trusted: those of the configuration, and those of sources that may change (JWKS).

    `issuers` are those for which some key, or some source's keys, are kept apart: a token of one of them chooses among its
    own and the keys of any issuer, every other token among the latter. SECURITY: so what a partner publishes, be it our
    `kid`, is never tried for a token of ours.
    """

    __slots__ = (
        "_choices",
        "_configured",
        "_listeners",
        "_open",
        "_sources",
        "issuers",
        "provisional",
        "trusted",
    )

    def __init__(self, keys: Iterable[Key] = (), *, provisional: bool = False) -> None:
        """`provisional`: these keys are a development run's own; the auth service signs with others."""
        self.provisional = provisional
        self._configured = tuple(keys)
        self._sources: dict[str, tuple[Key, ...]] = {}
        self._listeners: list[Callable[[], None]] = []
        # Issuers of sources that may yet bring a key for any algorithm of ASYMMETRIC; None: for any issuer.
        self._open: set[str | None] = set()
        self._index()

    def _index(self) -> None:
        users = [key for key in self._configured if key.access]
        services = [key for key in self._configured if not key.access]
        sources = (users, services, *self._sources.values())
        everything = [key for keys in sources for key in keys]
        self.issuers = frozenset(
            issuer for issuer in (*(key.issuer for key in everything), *self._open) if issuer is not None
        )
        self._choices: dict[str | None, _Choice] = {
            issuer: _Choice([key for key in keys if key.issuer in (None, issuer)] for keys in sources)
            for issuer in (None, *self.issuers)
        }
        self.trusted: dict[str, Key] = {key.trust: key for key in everything}

    def expect(self, issuer: str | None) -> None:
        """A source may bring keys at any time, for `issuer` or (None) for all: an unknown `kid` is worth a fetch."""
        self._open.add(issuer)
        self._index()

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call `listener` whenever the keys change: what was verified with the old ones is to be forgotten."""
        self._listeners.append(listener)

    def replace(self, source: str, keys: Iterable[Key]) -> None:
        """Let `keys` be all that `source` (a JWKS address) vouches for."""
        new = tuple(keys)
        old = self._sources.get(source, ())
        self._sources[source] = new
        if {(k.kid, k.trust) for k in old} == {(k.kid, k.trust) for k in new}:
            return
        self._index()
        for listener in self._listeners:
            listener()

    def __bool__(self) -> bool:
        return bool(self.trusted)

    @property
    def algorithms(self) -> frozenset[str]:
        return frozenset(key.algorithm for key in self.trusted.values())

    @property
    def verifies_users(self) -> bool:
        """Whether any local key may vouch for a user (else the auth service must be asked)."""
        return not self.provisional and any(key.access for key in self.trusted.values())

    def _choice(self, issuer: str | None) -> _Choice:
        return self._choices.get(issuer) or self._choices[None]

    def may_come(self, alg: str, kid: str | None, issuer: str | None) -> bool:
        """Whether a fetch may bring the key that a token with this header and `iss` names."""
        if alg not in ASYMMETRIC or not (None in self._open or issuer in self._open):
            return False
        choice = self._choice(issuer)
        return (alg, kid) not in choice.by_kid if kid is not None else alg not in choice.by_algorithm

    def candidates(self, alg: str, kid: str | None, issuer: str | None = None) -> tuple[Key, ...]:
        """The keys that may have signed a token with this header and `iss`, at most four of each source.

        Raises `TokenError`: TOKEN_ALGORITHM when no key may use `alg`, TOKEN_KEY_UNKNOWN when none has this `kid`.
        """
        choice = self._choice(issuer)
        if kid is not None:
            named = choice.by_kid.get((alg, kid))
            if named is not None:
                return named
        usable = (choice.by_algorithm if kid is None else choice.unnamed).get(alg)
        if usable:
            return usable
        if alg in self.algorithms or (self._open and alg in ASYMMETRIC):
            raise TokenError(TOKEN_KEY_UNKNOWN)
        raise TokenError(TOKEN_ALGORITHM)
