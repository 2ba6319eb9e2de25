"""Every Redis key of the gateway, spelled once.

Keys that other programs set or read too (freshness, read-only, revocation) are a contract: never rename them. Braces
appear only in the keys of alerts, where they are hash tags: in a cluster the three keys of one tenant lie together, and
every other key lies where its own hash puts it. Everywhere else `{id}` in the documentation is a placeholder.
"""

from __future__ import annotations

# Prefixes whose keys every worker follows with client tracking (see tracked.py).
TENANT_PREFIX = "tenant:"
REVOKED_PREFIX = "token:revoked:"
PLATFORM_PREFIX = "platform:"
API_KEY_PREFIX = "apikey:"
TRACKED_PREFIXES = (TENANT_PREFIX, REVOKED_PREFIX, PLATFORM_PREFIX, API_KEY_PREFIX)

# String, the reason: nobody may write anywhere while it exists.
PLATFORM_READ_ONLY = "platform:read_only"
# Channels: services publish alerts on `alerts:tenant:{tenant_id}`; what was recorded is told on the second.
ALERT_CHANNEL_PREFIX = "alerts:tenant:"
ALERTS_RECORDED = "gateway:alerts:recorded"
# Sorted set: worker -> when it was last heard of, in microseconds of the store's clock.
WORKERS = "gateway:workers"
# String of a few seconds: written to see whether the store takes what is written. In a cluster one for each node.
PROBE = "gateway:probe"
# Hash: when Nominatim may be asked next, and who asks it now (see turn.lua).
GEOCODE_TURN = "gateway:geocode:turn"


def tenant_read_only(tenant_id: str) -> str:
    """String, the reason: nobody may write in this tenant while it exists."""
    return f"tenant:{tenant_id}:read_only"


def subscription_changed_at(tenant_id: str) -> str:
    """String, Unix seconds or ISO 8601: tokens issued before are stale."""
    return f"tenant:{tenant_id}:subscription_changed_at"


def tenant_demo(tenant_id: str) -> str:
    """String, a session's id: this is the virtual tenant of a demo session, which ends with the key."""
    return f"tenant:{tenant_id}:demo"


def tenant_ancestors(tenant_id: str) -> str:
    """String: what the tenant service said of the tenant's place, stamped. Not tracked: it is a cache."""
    return f"gateway:ancestors:{tenant_id}"


def token_revoked(jti: str) -> str:
    """String, any value: the token with this `jti` is refused. One without goes by the SHA-256, in hexadecimal, of its
    header and payload as they came, `<header>.<payload>`."""
    return f"token:revoked:{jti}"


def auth_token(sha256_hex: str) -> str:
    """String: the verified claims of the token with this SHA-256; the token itself is never stored."""
    return f"auth:token:{sha256_hex}"


def token_refresh(sha256_hex: str) -> str:
    """String: who asks the auth service for new tokens now, then its answer, sealed with the old refresh token."""
    return f"auth:refresh:{sha256_hex}"


def tenant_alerts(tenant_id: str) -> tuple[str, str, str]:
    """Of a tenant's alerts: the stream that keeps them, the sorted set of ids seen, the hash that describes the stream."""
    base = f"gateway:alerts:{{{tenant_id}}}"
    return base, f"{base}:seen", f"{base}:meta"


def ticket_name(sha256_hex: str) -> str:
    """String: who asked for the ticket with this SHA-256, sealed with the ticket. Gone with its first use."""
    return f"gateway:ticket:{sha256_hex}"


def ticket_grant(sha256_hex: str) -> str:
    """String: who opened a stream with the ticket and may resume it, sealed with the ticket."""
    return f"gateway:ticket-grant:{sha256_hex}"


def alert_dispatched(tenant_id: str, sha256_hex: str) -> str:
    """String: who delivers this alert of the tenant by this channel now, then that it is delivered."""
    return f"gateway:dispatched:{tenant_id}:{sha256_hex}"


def geocode_answer(sha256_hex: str) -> str:
    """String, JSON: what Nominatim answered to the question with this SHA-256."""
    return f"gateway:geocode:{sha256_hex}"


def idempotency(sha256_hex: str) -> str:
    """Hash: what became of the first request under an Idempotency-Key (see idempotency.py). The digest is of tenant, caller
    and key."""
    return f"gateway:idempotency:{sha256_hex}"


def api_key(key_id: str) -> str:
    """String: all there is to know of an API key, its secrets as SHA-256, stamped. Gone: it is revoked."""
    return f"apikey:{key_id}"


def tenant_api_keys(tenant_id: str) -> str:
    """Sorted set: the ids of a tenant's API keys, by when they were made (Unix seconds)."""
    return f"gateway:apikeys:{tenant_id}"


def api_key_used(key_id: str, fingerprint: str) -> str:
    """String, Unix seconds: when this secret of the key was used last, to the minute."""
    return f"gateway:apikey-used:{key_id}:{fingerprint}"


def rate_limit(bucket: str, requests: int, window: float) -> str:
    """Hash: one token bucket (see lease.lua). The limit is in the name: under another limit it is another bucket."""
    return f"ratelimit:{bucket}:{requests}/{window:g}"
