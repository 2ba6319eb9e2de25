"""What each stage of a route would demand, in words: for `gateway explain`. A test holds it against the compiled stages."""

from __future__ import annotations

from collections.abc import Callable

from kernel.config import Settings
from kernel.exchange.route import PROBES
from kernel.routing.catalog import WRITES, Limit, RouteRow

Words = Callable[[Settings, RouteRow], str]


def _limit(limit: Limit) -> str:
    return f"{limit.requests} requests in {limit.window:g} s"


def _cors(settings: Settings, row: RouteRow) -> str:
    origins = ", ".join(settings.cors_origins) or "no origin"
    return f"pages of {origins} may read the answer"


def _edge(settings: Settings, row: RouteRow) -> str:
    hosts = ", ".join(settings.allowed_hosts) or "any host"
    body = row.max_body or settings.max_body_bytes
    https = "HTTPS only; " if settings.https_only else ""
    return f"{https}{hosts}; head up to {settings.max_header_bytes} bytes, body up to {body} bytes"


def _handshake(settings: Settings, row: RouteRow) -> str:
    return "a WebSocket handshake, from a page of those origins or from no browser" if row.websocket else ""


def _credentials(settings: Settings, row: RouteRow) -> str:
    return (
        "a ticket or token may come in the query, a token as a WebSocket subprotocol" if row.browser else ""
    )


def _rate(settings: Settings, row: RouteRow) -> str:
    if row.handler in PROBES:
        return ""
    client = Limit(settings.rate_limit_requests, settings.rate_limit_window_seconds)
    text = f"{_limit(client)} of a user whose token is known, else of an address"
    if settings.service_rate_limit_requests:
        services = Limit(settings.service_rate_limit_requests, settings.rate_limit_window_seconds)
        text += f"; services: {_limit(services)}"
    else:
        text += "; services: no limit"
    return f"{text}; this route: {_limit(row.limit)}" if row.limit else text


def _admin(settings: Settings, row: RouteRow) -> str:
    if not row.admin or settings.environment == "dev":
        return ""
    return "from the networks of ADMIN_ALLOW, or with a service token; else 404"


def _authenticate(settings: Settings, row: RouteRow) -> str:
    if not row.identified:
        return ""
    if row.service_only:
        return "a service token"
    return f"a token of {', '.join(settings.jwt_issuer)}, or a demo session; an expired one is refreshed if it can be"


def _demo(settings: Settings, row: RouteRow) -> str:
    return "a demo's token only while its session lasts" if row.identified else ""


def _tenancy(settings: Settings, row: RouteRow) -> str:
    if not row.identified:
        return ""
    asked = "the path's tenant" if "{tenant_id}" in row.pattern else "X-Tenant-ID, else the token's tenant"
    return f"access to {asked}: its own, one it lists, or one below a group it oversees"


def _quota(settings: Settings, row: RouteRow) -> str:
    if not row.identified or row.service_only or not (settings.tier_limits or settings.tenant_limits):
        return ""
    limits = {**settings.tier_limits, **settings.tenant_limits}
    return "of the whole tenant: " + "; ".join(f"{name} {_limit(limit)}" for name, limit in limits.items())


def _freshness(settings: Settings, row: RouteRow) -> str:
    return "not revoked, and issued after the tenant's subscription last changed" if row.identified else ""


def _subscription(settings: Settings, row: RouteRow) -> str:
    if not row.identified or row.service_only or (row.always_writable and row.min_tier is None):
        return ""
    parts = []
    if not row.always_writable:
        parts.append(
            f"active or trialing, or expired for less than {settings.subscription_grace_days:g} days"
        )
    if row.min_tier:
        parts.append(f"{row.min_tier} tier or above")
    return "; ".join(parts)


def _read_only(settings: Settings, row: RouteRow) -> str:
    writes = WRITES if row.methods is None else WRITES & row.methods
    if row.admin or row.safe or row.always_writable or not (writes or row.websocket):
        return ""
    if row.websocket:
        return "only while neither the tenant nor the platform is locked"
    return f"{', '.join(sorted(writes))} only while neither the tenant nor the platform is locked"


def _critical(settings: Settings, row: RouteRow) -> str:
    if row.critical is None or not row.identified:
        return ""
    return f"the tenant service confirms {row.critical}; refused when it cannot"


WORDS: dict[str, Words] = {
    "cors": _cors,
    "edge": _edge,
    "handshake": _handshake,
    "credentials": _credentials,
    "limit": _rate,
    "admin": _admin,
    "authenticate": _authenticate,
    "demo": _demo,
    "tenancy": _tenancy,
    "quota": _quota,
    "freshness": _freshness,
    "subscription": _subscription,
    "readonly": _read_only,
    "critical": _critical,
}


def in_words(settings: Settings, row: RouteRow) -> list[tuple[str, str]]:
    """(stage, what it demands) of each stage a route has, in order."""
    return [(name, text) for name, words in WORDS.items() if (text := words(settings, row))]
