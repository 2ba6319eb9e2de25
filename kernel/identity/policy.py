"""What verified claims must say to be accepted, check by check."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from msgspec import Struct

from kernel.http.problems import (
    SERVICE_UNKNOWN,
    TOKEN_ALGORITHM,
    TOKEN_AUDIENCE,
    TOKEN_CLAIMS,
    TOKEN_ISSUER,
    TOKEN_NOT_YET_VALID,
    TOKEN_TYPE,
)
from kernel.identity.claims import Claims
from kernel.identity.errors import TokenError
from kernel.identity.expiry import TokenExpired
from kernel.identity.identity import Identity, access_identity, service_identity
from kernel.identity.keys import Key


class Policy(Struct, frozen=True, kw_only=True):
    """The gateway's demands. `leeway` (seconds) forgives clocks that run behind the issuer's: it applies to `nbf` and
    `iat`. `exp` is kept to the second, cached or not. `services` are the names that may hold service tokens."""

    issuers: frozenset[str]
    services: frozenset[str]
    audience: str | None = None
    leeway: float = 5.0
    require_type: bool = True

    def kind(self, claims: Claims) -> str | None:
        """The token's type; a missing one counts as `access` where the configuration allows it."""
        if claims.type is None and not self.require_type:
            return "access"
        return claims.type


# None: the token was vouched for by the auth service, not by a key of ours.
Signer = Key | None
Check = Callable[[Policy, Claims, Signer, float], None]


def check_issuer(policy: Policy, claims: Claims, key: Signer, _now: float) -> None:
    # SECURITY: equality, never containment: "bakery" must not pass for "bakery-auth".
    if claims.iss not in policy.issuers:
        raise TokenError(TOKEN_ISSUER)
    if key is not None and key.issuer is not None and key.issuer != claims.iss:
        raise TokenError(TOKEN_ISSUER, "This key does not sign for the token's issuer.")


def check_audience(policy: Policy, claims: Claims, _key: Signer, _now: float) -> None:
    wanted = policy.audience
    if wanted is None:
        return
    given = claims.aud
    if wanted != given and not (isinstance(given, list) and wanted in given):
        raise TokenError(TOKEN_AUDIENCE)


def check_type(policy: Policy, claims: Claims, key: Signer, _now: float) -> None:
    kind = policy.kind(claims)
    if kind not in ("access", "service"):
        raise TokenError(TOKEN_TYPE)
    if kind == "access" and claims.service is not None:
        raise TokenError(TOKEN_TYPE, "An access token may not name a service.")
    # SECURITY: every service holds the shared secret; none of them may speak for a user.
    if kind == "access" and key is not None and not key.access:
        raise TokenError(TOKEN_ALGORITHM, "This key signs service tokens only.")
    # SECURITY: a service is an admin everywhere. Whoever signs for users, a partner say, makes none; nor does the auth
    # service's word, which may rest on such a key.
    if kind == "service" and (key is None or not key.service):
        raise TokenError(
            TOKEN_ALGORITHM,
            "Service tokens are signed with JWT_SECRET_KEY or a key of JWT_SERVICE_PUBLIC_KEY.",
        )


def check_subject(policy: Policy, claims: Claims, _key: Signer, _now: float) -> None:
    if policy.kind(claims) == "service":
        if not claims.service:
            raise TokenError(TOKEN_CLAIMS, "A service token names its service.")
        if claims.service not in policy.services:
            raise TokenError(SERVICE_UNKNOWN)
    elif claims.user_id is None and claims.sub is None:
        raise TokenError(TOKEN_CLAIMS, "An access token names its user in user_id or sub.")


def check_not_before(policy: Policy, claims: Claims, _key: Signer, now: float) -> None:
    if claims.nbf is not None and claims.nbf > now + policy.leeway:
        raise TokenError(TOKEN_NOT_YET_VALID)


def check_issued_at(policy: Policy, claims: Claims, _key: Signer, now: float) -> None:
    if claims.iat > now + policy.leeway:
        raise TokenError(TOKEN_NOT_YET_VALID, "The token was issued in the future: check the clocks.")


def expired(claims: Claims, now: float) -> bool:
    return claims.exp <= now


# In this order; expiry comes last, so that an expired token is known to be good in all else.
CHECKS: tuple[tuple[str, Check], ...] = (
    ("iss", check_issuer),
    ("aud", check_audience),
    ("type", check_type),
    ("subject", check_subject),
    ("nbf", check_not_before),
    ("iat", check_issued_at),
)


def identify(policy: Policy, claims: Claims, key: Signer, trust: str, now: float) -> Identity:
    """The identity that `claims` prove at `now` (Unix seconds), `key` having signed them.

    Raises `TokenError` of the first check that fails; last of all `TokenExpired`.
    """
    for _, check in CHECKS:
        check(policy, claims, key, now)
    kind: Literal["access", "service"] = "service" if policy.kind(claims) == "service" else "access"
    if kind == "service":
        identity = service_identity(claims, str(claims.service), trust)
    else:
        identity = access_identity(claims, str(claims.user_id or claims.sub), trust)
    if expired(claims, now):
        raise TokenExpired(identity)
    return identity
