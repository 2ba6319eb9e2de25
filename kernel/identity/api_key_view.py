"""API keys as they are shown: everything but the secrets."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from msgspec import Meta, Struct

from kernel.identity.api_key_book import Entry, Made
from kernel.identity.api_key_record import Record
from kernel.primitives.api_key import PREFIX


class RateLimit(Struct, forbid_unknown_fields=True):
    """`requests` in each `window_seconds`."""

    requests: Annotated[int, Meta(ge=1, le=1_000_000)]
    window_seconds: Annotated[float, Meta(ge=1, le=86_400)]


class ApiKeySecret(Struct):
    """One secret of a key, told from the others by the first 8 digits of its SHA-256."""

    fingerprint: str
    created_at: str
    expires_at: str | None
    last_used_at: str | None


class ApiKey(Struct):
    """A key; `start` is how its secrets begin, the newest is the first of `secrets`."""

    key_id: str
    tenant_id: str
    name: str
    start: str
    scopes: list[str]
    role: str
    tier: str | None
    rate_limit: RateLimit | None
    created_at: str
    created_by: str
    expires_at: str | None
    last_used_at: str | None
    secrets: list[ApiKeySecret]


class NewApiKey(ApiKey):
    """A key with its new secret, `api_key`, which is shown this once."""

    api_key: str


class ApiKeys(Struct):
    """A tenant's keys, the oldest first."""

    api_keys: list[ApiKey]


def shown(entry: Entry) -> ApiKey:
    """A key that there is."""
    return ApiKey(**_fields(entry.record, entry.used))


def shown_once(made: Made) -> NewApiKey:
    """A key with its new secret."""
    return NewApiKey(**_fields(made.record, {}), api_key=made.key)


def _fields(record: Record, used: dict[str, float]) -> dict[str, Any]:
    limit = record.limit
    return {
        "key_id": record.id,
        "tenant_id": record.tenant,
        "name": record.name,
        "start": PREFIX + record.id,
        "scopes": list(record.scopes),
        "role": record.role,
        "tier": record.tier or None,
        "rate_limit": RateLimit(limit.requests, limit.window) if limit is not None else None,
        "created_at": date(record.created_at),
        "created_by": record.created_by,
        "expires_at": _date(record.expires_at),
        "last_used_at": _date(max(used.values(), default=None)),
        "secrets": [
            ApiKeySecret(
                each.fingerprint, date(each.since), _date(record.end(each)), _date(used.get(each.fingerprint))
            )
            for each in record.secrets
        ],
    }


def date(seconds: float) -> str:
    """A moment as RFC 3339 writes it."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _date(seconds: float | None) -> str | None:
    return None if seconds is None else date(seconds)
