"""Identity assertions: what a service is told of its caller, signed, so that it need not trust the network.

`x-gateway-assertion` is a compact JWS (RFC 7515) of type `gateway-assertion+jwt`:

    iss             bakery-gateway
    aud             the service it is for
    sub             as x-user-id
    user_type       as x-user-type
    tenant_id, role, tier, demo_session_id      as the headers; absent where these are
    iat, exp        Unix seconds, 60 apart

It is signed with the first key of ASSERTION_PRIVATE_KEY (Ed25519; all are published at /.well-known/jwks.json), or else with
HS256 and a key made from the first JWT_SECRET_KEY.

SECURITY: not with that secret itself. Whoever takes service tokens might take an assertion for one (RFC 8725 section 3.11).

PERF: made once for an identity, a tenant and a service, and used for half its life.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable, Sequence
from time import perf_counter, time
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from kernel.identity.identity import Identity, TenantContext
from kernel.identity.keys import KeyConfigError, algorithm
from kernel.identity.mint import Signer

ISSUER = "bakery-gateway"
HEADER = b"x-gateway-assertion"
TYPE = "gateway-assertion+jwt"
LIFETIME = 60
REUSED = 30.0
_ABOUT = b"bakery-gateway identity assertion"
_BLOCK = re.compile(r"-----BEGIN (?P<label>[A-Z0-9 ]+)-----.*?-----END (?P=label)-----", re.DOTALL)
_MOST_KEYS = 8


def derived_key(secret: str) -> str:
    """What assertions are signed with by HS256, of a JWT_SECRET_KEY: HMAC-SHA-256 in hexadecimal."""
    return hmac.digest(secret.encode(), _ABOUT, "sha256").hex()


def signers(
    private_keys: str | None, secrets: Sequence[str]
) -> tuple[tuple[Signer, ...], list[dict[str, Any]]]:
    """The first signs; and the public keys as JWKs, none with HS256. Raises `KeyConfigError`."""
    if private_keys is None:
        if not secrets:
            raise KeyConfigError("is needed with IDENTITY_ASSERTION, or JWT_SECRET_KEY")
        return (Signer(derived_key(secrets[0]), "HS256", typ=TYPE),), []
    found: list[Signer] = []
    published: list[dict[str, Any]] = []
    for block in _BLOCK.finditer(private_keys.replace("\\n", "\n")):
        try:
            private = load_pem_private_key(block[0].encode(), password=None)
        except (TypeError, ValueError, UnsupportedAlgorithm):
            raise KeyConfigError("is no PEM private key without a passphrase") from None
        if not isinstance(private, Ed25519PrivateKey):
            raise KeyConfigError("is no Ed25519 key: openssl genpkey -algorithm ed25519")
        signer = Signer(block[0], "EdDSA", typ=TYPE)
        found.append(signer)
        jwk = algorithm("EdDSA").to_jwk(private.public_key(), as_dict=True)
        published.append({**jwk, "kid": signer.kid, "alg": "EdDSA", "use": "sig"})
    if not found:
        raise KeyConfigError("holds no PEM block of a private key")
    if len(found) > _MOST_KEYS or len({signer.kid for signer in found}) != len(found):
        raise KeyConfigError(f"holds more than {_MOST_KEYS} keys, or one twice")
    return tuple(found), published


class Assertions:
    """One a worker. `clock` gives Unix seconds."""

    __slots__ = ("_clock", "_signer", "published")

    def __init__(
        self, signer: Signer, published: Sequence[dict[str, Any]], clock: Callable[[], float] = time
    ) -> None:
        self._signer = signer
        self._clock = clock
        self.published = tuple(published)

    def make(self, identity: Identity, context: TenantContext, service: str) -> bytes:
        """A new header line for `service`, kept with the context until half its life is over by perf_counter()."""
        now = int(self._clock())
        claims: dict[str, Any] = {
            "iss": ISSUER,
            "aud": service,
            "sub": identity.user_id,
            "user_type": identity.kind,
            "tenant_id": context.tenant,
            "role": context.role,
            "tier": context.tier,
            "demo_session_id": identity.demo_session_id,
            "iat": now,
            "exp": now + LIFETIME,
        }
        token = self._signer.sign({name: value for name, value in claims.items() if value})
        line = b"%b: %b\r\n" % (HEADER, token.encode())
        if context.assertions is None:
            context.assertions = {}
        context.assertions[service] = line, perf_counter() + REUSED
        return line
