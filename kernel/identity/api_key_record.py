"""What is kept of an API key: one record in the store, which is all the truth about it.

The key's secrets are in it as SHA-256 of the whole key. A fast hash is enough for what has 131 random bits (NIST SP 800-63B
section 5.1.2.2 asks for a slow one below 112), and nothing in it tells a secret. Changing, rotating and revoking a key is
therefore one atomic write of one key of the store, in a cluster too.

SECURITY: who can write to the store cannot make keys: a record that no gateway has stamped is none (see stamp.py).
"""

from __future__ import annotations

import hmac
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from kernel.identity.claims import Claims, TenantId, Text
from kernel.identity.identity import Identity
from kernel.identity.scopes import Rights
from kernel.identity.stamp import Stamp
from kernel.primitives.api_key import ID_PATTERN
from kernel.routing.catalog import TIERS, Limit
from kernel.store.keys import api_key

VERSION = 1
# One line that people read.
Name = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"\A[^\x00-\x1f\x7f]+\Z")]
# `x-user-role` of its requests; no key is its tenant's owner.
Role = Annotated[str, Meta(pattern=r"\A(?!owner\Z)[a-z][a-z0-9_-]{0,31}\Z")]
# The `trust` of identities that an API key proves, and their `kind`.
API_KEY: Final = "api-key"


class Secret(Struct, frozen=True, omit_defaults=True):
    """One secret: good from `since` until `until` (Unix seconds; None: for as long as the key)."""

    sha256: Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")]
    since: float
    until: float | None = None

    @property
    def fingerprint(self) -> str:
        """What tells it from the key's other secrets, and tells nothing else."""
        return self.sha256[:8]


class Plan(Struct, frozen=True, omit_defaults=True):
    """The tenant's subscription as it was known at `since` (Unix seconds); `valid_until` likewise."""

    since: float
    tier: Text = ""
    status: Text = ""
    valid_until: float | None = None


class Record(Struct, frozen=True, omit_defaults=True):
    """A key. `secrets`: the newest first, then those that are still good after a rotation."""

    v: int
    id: Annotated[str, Meta(pattern=ID_PATTERN)]
    tenant: TenantId
    name: Name
    scopes: tuple[str, ...]
    role: Role
    plan: Plan
    created_at: float
    created_by: str
    secrets: tuple[Secret, ...]
    limit: Limit | None = None
    expires_at: float | None = None
    # The tier that the key is held to, when the tenant's is higher.
    tier: Text = ""

    def secret(self, sha256: str) -> Secret | None:
        """The secret with this digest."""
        return next((each for each in self.secrets if hmac.compare_digest(each.sha256, sha256)), None)

    def end(self, secret: Secret) -> float | None:
        """When `secret` is good no longer; None: it has no end."""
        ends = [each for each in (secret.until, self.expires_at) if each is not None]
        return min(ends, default=None)


_decoder = msgspec.json.Decoder(Record)


def encode(record: Record, stamp: Stamp) -> bytes:
    """As the store keeps it."""
    return stamp.put(api_key(record.id), msgspec.json.encode(record))


def decode(key_id: str, stored: bytes | None, stamp: Stamp) -> Record | None:
    """The record of `key_id`; None for what is absent, or no gateway's."""
    raw = stamp.take(api_key(key_id), stored) if stored is not None else None
    if raw is None:
        return None
    try:
        record = _decoder.decode(raw)
    except (ValueError, RecursionError):
        return None
    return record if record.v == VERSION and record.id == key_id else None


def identity(record: Record, secret: Secret) -> Identity:
    """Who calls with `secret`."""
    end = record.end(secret)
    plan = record.plan
    claims = Claims(
        exp=float("inf") if end is None else end,
        iat=plan.since,
        iss="",
        type=API_KEY,
        tenant_id=record.tenant,
    )
    made = Identity(
        claims,
        API_KEY,
        kind=API_KEY,
        user_id=f"key:{record.id}",
        role=record.role,
        tier=_lower(record.tier, plan.tier),
        status=plan.status,
        valid_until=plan.valid_until,
    )
    made.bucket = f"key:{record.id}"
    made.rights = Rights(frozenset(record.scopes), record.limit, api_key(record.id), secret.sha256)
    return made


def _lower(held: str, tier: str) -> str:
    """The lower of two tiers; one that is not known counts as none."""
    if not held:
        return tier
    return held if held in TIERS and tier in TIERS and TIERS.index(held) < TIERS.index(tier) else tier
