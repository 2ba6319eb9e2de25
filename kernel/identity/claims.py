"""Claims of access and service tokens as narrow typed Structs.

SECURITY: claims become header values, limiter keys and store keys downstream, so each has its alphabet and length here:
a CR, LF or NUL that an issuer lets through (a user's own e-mail address, say) would split a header further on.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType
from msgspec.structs import force_setattr

from kernel.http.problems import TOKEN_CLAIMS, TOKEN_CRITICAL_HEADER, TOKEN_MALFORMED, TOKEN_TYPE, ProblemKind
from kernel.identity.errors import TokenError
from kernel.primitives.tenant_id import PATTERN, canonical

_Struct = TypeVar("_Struct")

MAX_TENANTS = 512

# `\Z`, not `$`: `$` also matches before a trailing line feed.
Text = Annotated[str, Meta(max_length=256, pattern=r"\A(?:[!-~](?:[ -~]*[!-~])?)?\Z")]
Id = Annotated[str, Meta(pattern=r"\A[!-~]{1,256}\Z")]
# Structs that have one fold it to its one spelling when they are made: see `fold_tenant`.
TenantId = Annotated[str, Meta(pattern=PATTERN)]
# Addresses may be international (RFC 6532); as a header value they are UTF-8, never latin-1.
Email = Annotated[str, Meta(max_length=256, pattern=r"\A[^ ]*\Z")]


def fold_tenant(struct: Struct, field: str, given: str) -> None:
    """Set a field to the canonical spelling of the tenant `given`. Raises ValueError, which names the field."""
    try:
        tenant = canonical(given)
    except ValueError as error:
        raise ValueError(f"`{field}`: {error}") from None
    if tenant != given:
        force_setattr(struct, field, tenant)


class Header(Struct, frozen=True):
    """JOSE header. Every other member (jku, x5u, jwk, x5c, ...) is ignored: keys come from configuration only."""

    alg: str
    typ: str | None = None
    kid: Annotated[str, Meta(max_length=256, pattern=r"\A[ -~]*\Z")] | None = None
    crit: Raw | UnsetType = UNSET
    b64: Raw | UnsetType = UNSET


class Subscription(Struct, frozen=True, omit_defaults=True):
    """Part of an access token; `valid_until` is RFC 3339 (UTC without an offset) or Unix seconds."""

    tier: Text | None = None
    status: Text | None = None
    valid_until: datetime | float | None = None


class Access(Struct, frozen=True, omit_defaults=True):
    """One entry of `tenant_access`."""

    id: TenantId
    role: Text | None = None
    tier: Text | None = None
    can_view_children: bool | None = None

    def __post_init__(self) -> None:
        fold_tenant(self, "id", self.id)


class Claims(Struct, frozen=True, omit_defaults=True):
    """Payload of an access or service token. Numeric dates are Unix seconds and finite (JSON has no other)."""

    exp: float
    iat: float
    iss: str
    aud: str | Annotated[list[str], Meta(max_length=64)] | None = None
    nbf: float | None = None
    type: str | None = None
    sub: Id | None = None
    user_id: Id | None = None
    email: Email | None = None
    service: Text | None = None
    role: Text | None = None
    jti: Id | None = None
    tenant_id: TenantId | None = None
    tenant_role: Text | None = None
    subscription: Subscription | None = None
    tenant_access: Annotated[list[Access], Meta(max_length=MAX_TENANTS)] | None = None
    is_demo: bool | None = None
    demo_session_id: Id | None = None
    demo_account_type: Text | None = None

    def __post_init__(self) -> None:
        if self.tenant_id is not None:
            fold_tenant(self, "tenant_id", self.tenant_id)
        if self.email is not None and not self.email.isprintable():
            raise ValueError("`email` has characters that cannot be printed")


class Grant(Struct, frozen=True):
    """What an entry of `tenant_access` gives in that tenant."""

    role: str
    tier: str
    can_view_children: bool


_header_decoder = msgspec.json.Decoder(Header)
_claims_decoder = msgspec.json.Decoder(Claims)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("duplicate member name")
    return members


_strict_json = json.JSONDecoder(object_pairs_hook=_unique)


def _decode(decoder: msgspec.json.Decoder[_Struct], raw: bytes, kind: ProblemKind, what: str) -> _Struct:
    try:
        value = decoder.decode(raw)
        # SECURITY: of a member given twice, we might believe one and a service behind us the other (RFC 8725 2.4).
        _strict_json.decode(raw.decode())
    except msgspec.ValidationError as error:
        raise TokenError(kind, f"The {what} is not acceptable: {error}.") from None
    except (ValueError, RecursionError):
        raise TokenError(kind, f"The {what} is not one JSON object with unique members.") from None
    return value


def decode_header(raw: bytes) -> Header:
    """The JOSE header. Raises `TokenError`: TOKEN_MALFORMED, TOKEN_CRITICAL_HEADER, TOKEN_TYPE."""
    header = _decode(_header_decoder, raw, TOKEN_MALFORMED, "token's header")
    if header.crit is not UNSET or header.b64 is not UNSET:
        raise TokenError(TOKEN_CRITICAL_HEADER)
    if header.typ is not None and header.typ.lower().removeprefix("application/") not in ("jwt", "at+jwt"):
        raise TokenError(TOKEN_TYPE, "The token's header does not say typ JWT.")
    return header


def decode_claims(raw: bytes) -> Claims:
    """The payload, of types and alphabets as declared above. Raises `TokenError`: TOKEN_CLAIMS."""
    return _decode(_claims_decoder, raw, TOKEN_CLAIMS, "token's payload")


def seconds(value: datetime | float | None) -> float | None:
    """A date of the claims in Unix seconds."""
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
    return value
