"""Signing tokens: the gateway's own service token, and tokens for demos, tests and the command line."""

from __future__ import annotations

import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from uuid import uuid4

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from jwt.exceptions import InvalidKeyError

from kernel.identity.keys import SYMMETRIC, KeyConfigError, algorithm, secret_key, thumbprint

SERVICE_LIFETIME = 3600.0
ACCESS_LIFETIME = 1800.0
# Renewed when this much is left, so that no call sets out with a token about to expire.
_RENEW_BEFORE = 300.0


class Signer:
    """A private key (PEM text) or shared secret, bound to `alg`. Raises `KeyConfigError`.

    `kid` defaults to the RFC 7638 thumbprint of a public key, to none with a secret.
    """

    __slots__ = ("_head", "_implementation", "_material", "algorithm", "kid")

    def __init__(self, key: str, alg: str, *, kid: str | None = None, typ: str = "JWT") -> None:
        self.algorithm = alg
        self._implementation = algorithm(alg)
        if alg in SYMMETRIC:
            secret_key(key, alg)  # refuses what is no secret
            self._material: Any = key.encode()
        else:
            try:
                private: Any = load_pem_private_key(key.encode(), password=None)
                self._implementation.check_crypto_key_type(private)
                self._material = self._implementation.prepare_key(private)
            except (InvalidKeyError, TypeError, ValueError, UnsupportedAlgorithm):
                raise KeyConfigError(f"not a PEM private key for {alg}") from None
            kid = kid or thumbprint(self._implementation, private.public_key())
        self.kid = kid
        header = {"alg": alg, "typ": typ} | ({"kid": kid} if kid else {})
        self._head = _segment(msgspec.json.encode(header))

    def sign(self, claims: Mapping[str, Any]) -> str:
        """The compact JWS of `claims`, taken as they are."""
        signed = self._head + b"." + _segment(msgspec.json.encode(claims))
        return (signed + b"." + _segment(self._implementation.sign(signed, self._material))).decode()


def _segment(raw: bytes) -> bytes:
    return urlsafe_b64encode(raw).rstrip(b"=")


def _envelope(issuer: str, audience: str | None, now: float, lifetime: float) -> dict[str, Any]:
    claims: dict[str, Any] = {
        "iss": issuer,
        "iat": int(now),
        "exp": int(now + lifetime),
        "jti": uuid4().hex,
    }
    if audience:
        claims["aud"] = audience
    return claims


def service_claims(
    service: str,
    *,
    issuer: str,
    audience: str | None = None,
    tenant_id: str | None = None,
    lifetime: float = SERVICE_LIFETIME,
    now: float | None = None,
) -> dict[str, Any]:
    """Payload of a service token. Times in seconds."""
    claims = _envelope(issuer, audience, time.time() if now is None else now, lifetime) | {
        "sub": service,
        "user_id": f"{service}-service",
        "email": f"{service}-service@internal",
        "service": service,
        "type": "service",
        "role": "admin",
    }
    if tenant_id:
        claims["tenant_id"] = tenant_id
    return claims


def access_claims(
    user_id: str,
    *,
    issuer: str,
    audience: str | None = None,
    email: str = "",
    tenant_id: str | None = None,
    tenant_role: str = "owner",
    tier: str = "professional",
    status: str = "active",
    valid_until: str | None = None,
    tenant_access: Sequence[Mapping[str, Any]] = (),
    lifetime: float = ACCESS_LIFETIME,
    now: float | None = None,
    extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Payload of a user's access token; `extra` adds or replaces claims. Times in seconds."""
    subscription = {"tier": tier, "status": status}
    if valid_until:
        subscription["valid_until"] = valid_until
    claims = _envelope(issuer, audience, time.time() if now is None else now, lifetime) | {
        "sub": user_id,
        "user_id": user_id,
        "email": email,
        "type": "access",
        "tenant_role": tenant_role,
        "subscription": subscription,
        "tenant_access": list(tenant_access),
    }
    if tenant_id:
        claims["tenant_id"] = tenant_id
    return claims | dict(extra or {})


class Minter:
    """The gateway's own service token, signed anew shortly before it expires. `clock` gives Unix seconds."""

    __slots__ = (
        "_audience",
        "_clock",
        "_issuer",
        "_lifetime",
        "_minted_at",
        "_renew_at",
        "_service",
        "_signer",
        "_token",
    )

    def __init__(
        self,
        signer: Signer,
        *,
        issuer: str,
        audience: str | None = None,
        service: str = "gateway",
        lifetime: float = SERVICE_LIFETIME,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._signer = signer
        self._issuer = issuer
        self._audience = audience
        self._service = service
        self._lifetime = lifetime
        self._clock = clock
        self._token = ""
        self._minted_at = self._renew_at = float("-inf")

    def token(self) -> str:
        """A service token with at least five minutes (or half its lifetime) left."""
        now = self._clock()
        # A clock that was set back makes it a token of the future, which nobody takes.
        if not self._minted_at <= now < self._renew_at:
            claims = service_claims(
                self._service,
                issuer=self._issuer,
                audience=self._audience,
                lifetime=self._lifetime,
                now=now,
            )
            self._token = self._signer.sign(claims)
            self._minted_at = now
            self._renew_at = now + self._lifetime - min(_RENEW_BEFORE, self._lifetime / 2)
        return self._token
