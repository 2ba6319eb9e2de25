"""Keys and forged tokens for every test. Keys are made once per process; `forge` gives full control of the bytes."""

from __future__ import annotations

import hashlib
import json
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable
from functools import cache
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from jwt.algorithms import get_default_algorithms

ISSUER = "bakery-auth"
SECRET = "test-secret-of-the-service-tokens-0123456789"  # what the services and the gateway share
TENANT = "6f1c9f0e-0000-4000-8000-000000000001"
OTHER_TENANT = "6f1c9f0e-0000-4000-8000-000000000002"

Private = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey
Sign = Callable[[bytes], bytes]


@cache
def private_key(name: str = "rsa") -> Private:
    """One key per name and process: rsa, rsa-2, rsa-3072, rsa-1024, p256, p256-2, p384, p521, ed25519, ed448, or any
    `<kind>-<anything>` for another key of that kind."""
    kind, _, rest = name.partition("-")
    if kind == "rsa":
        bits = int(rest) if rest.isdigit() and int(rest) >= 512 else 2048
        return rsa.generate_private_key(public_exponent=65537, key_size=bits)
    curves: dict[str, ec.EllipticCurve] = {
        "p256": ec.SECP256R1(),
        "p384": ec.SECP384R1(),
        "p521": ec.SECP521R1(),
    }
    if kind in curves:
        return ec.generate_private_key(curves[kind])
    return ed25519.Ed25519PrivateKey.generate() if kind == "ed25519" else ed448.Ed448PrivateKey.generate()


@cache
def private_pem(name: str = "rsa") -> str:
    return (
        private_key(name)
        .private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        .decode()
    )


@cache
def public_pem(name: str = "rsa") -> str:
    return (
        private_key(name)
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        .decode()
    )


def b64(raw: bytes) -> bytes:
    """Unpadded base64url."""
    return urlsafe_b64encode(raw).rstrip(b"=")


def signer(alg: str, key: Any) -> Sign:
    """`key` is a name for `private_key`, a key object, or bytes (an HMAC secret; nothing stops it being a PEM)."""
    implementation = get_default_algorithms()[alg]
    material = private_key(key) if isinstance(key, str) else key
    return lambda message: implementation.sign(message, material)


def forge(
    header: dict[str, Any] | bytes,
    claims: dict[str, Any] | bytes,
    key: Sign | None = None,
    *,
    signature: bytes | None = None,
) -> bytes:
    """A compact token. `header` and `claims` as bytes are taken as they are (any JSON, or none).

    `key` signs the signing input (see `signer`); `signature` overrides it; with neither the signature is empty.
    """
    head = header if isinstance(header, bytes) else json.dumps(header, separators=(",", ":")).encode()
    body = claims if isinstance(claims, bytes) else json.dumps(claims, separators=(",", ":")).encode()
    signed = b64(head) + b"." + b64(body)
    if signature is None:
        signature = key(signed) if key else b""
    return signed + b"." + b64(signature)


def access_payload(**changes: Any) -> dict[str, Any]:
    """The brief's user payload (plus `type`), valid now; a change to `...` drops the claim."""
    now = int(time.time())
    payload = {
        "user_id": "user-1",
        "email": "user@example.com",
        "type": "access",
        "tenant_id": TENANT,
        "tenant_role": "owner",
        "subscription": {"tier": "professional", "status": "active", "valid_until": "2999-12-31T23:59:59Z"},
        "tenant_access": [{"id": OTHER_TENANT, "role": "admin", "tier": "starter"}],
        "exp": now + 1800,
        "iat": now,
        "iss": ISSUER,
    } | changes
    return {name: value for name, value in payload.items() if value is not ...}


def service_payload(service: str = "demo-session", **changes: Any) -> dict[str, Any]:
    """The brief's service payload, valid now; a change to `...` drops the claim."""
    now = int(time.time())
    payload = {
        "sub": service,
        "user_id": f"{service}-service",
        "email": f"{service}-service@internal",
        "service": service,
        "type": "service",
        "role": "admin",
        "exp": now + 3600,
        "iat": now,
        "iss": ISSUER,
    } | changes
    return {name: value for name, value in payload.items() if value is not ...}


def access_token(key: str = "rsa", alg: str = "RS256", kid: str | None = None, **changes: Any) -> bytes:
    """A user's token that the gateway accepts, but for `changes` to its payload."""
    header = {"alg": alg, "typ": "JWT"} | ({"kid": kid} if kid is not None else {})
    return forge(header, access_payload(**changes), signer(alg, key))


def service_token(service: str = "demo-session", secret: str = SECRET, **changes: Any) -> bytes:
    """A service's HS256 token that the gateway accepts, but for `changes` to its payload."""
    return forge(
        {"alg": "HS256", "typ": "JWT"}, service_payload(service, **changes), signer("HS256", secret.encode())
    )


def name_without_jti(token: bytes) -> str:
    """What a token that has no `jti` is revoked by."""
    return hashlib.sha256(token.rpartition(b".")[0]).hexdigest()
