"""The stub auth service's keys and tokens.

Signed with PyJWT and not with the gateway's own code, so that one mistake cannot cancel another out.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import time
import uuid
from collections.abc import Mapping
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from demo.platform.messages import Refusal, Request
from demo.platform.service import is_service

ISSUER = "bakery-auth"
ACCESS_SECONDS = 30 * 60
SERVICE_SECONDS = 60 * 60
REFRESH_SECONDS = 7 * 24 * 3600


class Keys:
    """An RSA pair for users' tokens and a secret for services' tokens, both made anew at every start."""

    def __init__(self) -> None:
        self._private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.secret = secrets.token_urlsafe(48)
        public = self._private.public_key()
        self.public_pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
        numbers = public.public_numbers()
        members = {"e": _base64_integer(numbers.e), "kty": "RSA", "n": _base64_integer(numbers.n)}
        # RFC 7638: the digest of exactly these members, in this order.
        canonical = json.dumps(members, separators=(",", ":")).encode()
        self.kid = base64.urlsafe_b64encode(hashlib.sha256(canonical).digest()).rstrip(b"=").decode()
        self.jwks = {"keys": [{**members, "kid": self.kid, "alg": "RS256", "use": "sig"}]}

    def sign(self, claims: Mapping[str, Any]) -> str:
        """A user's token: RS256 over `claims`, with the key's `kid`."""
        return jwt.encode(dict(claims), self._private, "RS256", {"kid": self.kid})

    def user_token(self, claims: Mapping[str, Any], kind: str, lifetime: int) -> str:
        """`claims` with `type`, `jti`, `iss` and the times; `lifetime` in seconds."""
        # With its fraction (RFC 7519, NumericDate): a token issued in the second of a change must tell on which side.
        now = time.time()
        times = {"iat": now, "exp": now + lifetime}
        return self.sign({**claims, "type": kind, "jti": uuid.uuid4().hex, "iss": ISSUER, **times})

    def service_token(self, service: str, tenant_id: str = "") -> str:
        """A service's token (HS256), for one tenant or for all."""
        now = int(time.time())
        claims = {
            "sub": service,
            "user_id": f"{service}-service",
            "email": f"{service}-service@internal",
            "service": service,
            "type": "service",
            "role": "admin",
            "jti": uuid.uuid4().hex,
            "iss": ISSUER,
            "iat": now,
            "exp": now + SERVICE_SECONDS,
        }
        if tenant_id:
            claims["tenant_id"] = tenant_id
        return jwt.encode(claims, self.secret, "HS256")

    def verify(self, token: str) -> dict[str, Any]:
        """The claims of a user's or service's token; raises `jwt.InvalidTokenError`."""
        symmetric = jwt.get_unverified_header(token).get("alg") == "HS256"
        key = self.secret if symmetric else self._private.public_key()
        claims: dict[str, Any] = jwt.decode(
            token,
            key,
            algorithms=["HS256" if symmetric else "RS256"],
            issuer=ISSUER,
            options={"require": ["exp", "iat", "iss", "type"]},
        )
        if symmetric != (claims["type"] == "service"):
            raise jwt.InvalidTokenError("wrong key for this type of token")
        return claims

    def require_service(self, request: Request) -> None:
        """Passes calls of services: by a service token of their own, or because the gateway says so."""
        scheme, _, token = request.header("authorization").partition(" ")
        if is_service(request):
            return
        if scheme.lower() == "bearer":
            try:
                if self.verify(token.strip())["type"] == "service":
                    return
            except jwt.InvalidTokenError:
                pass
        raise Refusal(403, "service-only", "Only services may call this: send a service token.")


def _base64_integer(number: int) -> str:
    octets = number.to_bytes((number.bit_length() + 7) // 8, "big")
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode()
