"""Authentication: whose request is this. A token this worker knows costs one dict hit (already made by the limiter)."""

from __future__ import annotations

from collections.abc import Awaitable

from kernel.catalog import RouteRow
from kernel.demo import named
from kernel.exchange import Exchange
from kernel.identity.errors import TokenError
from kernel.problems import SERVICE_ONLY, TOKEN_MISSING, Problem
from kernel.route import Stage
from kernel.state import State

_REALM = b'Bearer realm="bakery-gateway"'


def challenge(error: str, description: str) -> tuple[tuple[bytes, bytes], ...]:
    """The `WWW-Authenticate` of a refused token (RFC 6750 section 3)."""
    value = b'%b, error="%b", error_description="%b"' % (_REALM, error.encode(), description.encode())
    return ((b"www-authenticate", value),)


def make(state: State, row: RouteRow) -> Stage | None:
    """The stage of a route that needs a token; public routes have none."""
    if not row.identified:
        return None
    visit = state.demo.enter
    verify = state.verifier.verify
    metrics = state.metrics
    service_only = row.service_only

    def authenticate(x: Exchange) -> Problem | Awaitable[Problem | None] | None:
        identity = x.cached_identity
        if identity is None:
            token = x.token
            if token is None:
                session = named(x)
                if session is not None and not service_only:
                    return visit(x, session)
                metrics.auth_failure += 1
                return TOKEN_MISSING(headers=((b"www-authenticate", _REALM),))
            metrics.auth_cache_misses += 1
            try:
                identity = verify(token)
            except TokenError as refused:
                metrics.auth_failure += 1
                kind = refused.kind
                return kind(
                    refused.detail, challenge("invalid_token", kind.title) if kind.status == 401 else ()
                )
        else:
            metrics.auth_cache_hits += 1
        metrics.auth_success += 1
        x.identity = identity
        if service_only and identity.kind != "service":
            return SERVICE_ONLY()
        return None

    return authenticate
