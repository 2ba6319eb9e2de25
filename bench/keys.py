"""The key pair, tokens and claims of one benchmark run: made afresh, used by every peer alike."""

from __future__ import annotations

import base64
import json
import time
import uuid
from collections.abc import Iterator
from typing import Any

import jwt
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

ISSUER = "bakery-auth"
USER = "7d0f4a52-5c1e-4b5e-9d5e-0d7c6f1a2b3c"
EMAIL = "marta@panaderia-sol.example"
TENANT = "b1a2c3d4-0001-4000-8000-00000000beef"
BRANCH = "b1a2c3d4-0002-4000-8000-00000000beef"


def _segment(value: bytes) -> bytes:
    return base64.urlsafe_b64encode(value).rstrip(b"=")


class Keys:
    """One RSA-2048 pair (the size the platform signs with) and the tokens signed by it."""

    def __init__(self) -> None:
        self._private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.public_pem = (
            self._private.public_key()
            .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
            .decode()
        )

    def jwks(self) -> dict[str, Any]:
        """The public key as a JWK set (RFC 7517), for peers that take no PEM."""
        numbers = self._private.public_key().public_numbers()
        modulus = numbers.n.to_bytes(256, "big")
        exponent = numbers.e.to_bytes(3, "big")
        return {
            "keys": [
                {
                    "kty": "RSA",
                    "alg": "RS256",
                    "use": "sig",
                    "n": _segment(modulus).decode(),
                    "e": _segment(exponent).decode(),
                }
            ]
        }

    def sign(self, payload: dict[str, Any], *, algorithm: str = "RS256") -> str:
        """A compact JWS (RFC 7515) of `payload`."""
        header = _segment(json.dumps({"alg": algorithm, "typ": "JWT"}, separators=(",", ":")).encode())
        signed = header + b"." + _segment(json.dumps(payload, separators=(",", ":")).encode())
        signature = self._private.sign(signed, padding.PKCS1v15(), hashes.SHA256())
        return (signed + b"." + _segment(signature)).decode()

    def token(self, **changes: Any) -> str:
        """The run's access token, or one that differs from it in `changes`."""
        return self.sign({**claims(), **changes})

    def users(self, count: int) -> Iterator[str]:
        """`count` tokens of as many users; about 0.6 ms each to sign."""
        base = claims()
        for index in range(count):
            yield self.sign({**base, "user_id": str(uuid.UUID(int=index + 1)), "jti": f"user-{index}"})

    def refused(self) -> dict[str, str]:
        """Tokens that every peer doing authentication must answer with 401, by what is wrong with them."""
        good = self.token()
        head, payload, signature = good.split(".")
        now = int(time.time())
        flipped = ("A" if signature[20] != "A" else "B").join((signature[:20], signature[21:]))
        forged = _segment(json.dumps({**claims(), "user_id": "attacker"}).encode()).decode()
        none = _segment(b'{"alg":"none","typ":"JWT"}').decode()
        symmetric = _segment(b'{"alg":"HS256","typ":"JWT"}').decode()
        mac = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256)
        confused = _segment(mac.sign(f"{symmetric}.{payload}".encode(), self.public_pem.encode())).decode()
        return {
            "signature changed": f"{head}.{payload}.{flipped}",
            "payload changed": f"{head}.{forged}.{signature}",
            "expired": self.token(iat=now - 7200, exp=now - 3600),
            "other issuer": self.token(iss="someone-else"),
            "alg none": f"{none}.{payload}.",
            "HS256 signed with the public key": f"{symmetric}.{payload}.{confused}",
        }


def claims() -> dict[str, Any]:
    """The payload of an owner's access token as the auth service issues it, good for two hours."""
    now = int(time.time())
    return {
        "user_id": USER,
        "email": EMAIL,
        "type": "access",
        "tenant_id": TENANT,
        "tenant_role": "owner",
        "subscription": {"tier": "professional", "status": "active", "valid_until": "2099-12-31T23:59:59Z"},
        "tenant_access": [{"id": BRANCH, "role": "admin", "tier": "starter"}],
        "jti": "bench-token",
        "iat": now,
        "exp": now + 7200,
        "iss": ISSUER,
    }
