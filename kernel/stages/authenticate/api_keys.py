"""Authentication by an API key: whose it is, and whether its scopes reach this route.

A key this worker knows was found by the limiter, and has paid already. Any other one goes to `ApiKeys`, at the expense of the
address it came from, as guessed tokens are.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from kernel.config import Settings
from kernel.exchange.exchange import Exchange
from kernel.http.key_problems import API_KEY_REFUSED, API_KEY_SCOPE, CREDENTIALS_AMBIGUOUS
from kernel.http.problems import SERVICE_ONLY, GatewayError, Problem
from kernel.identity.scopes import accepted
from kernel.primitives.api_key import HEADER
from kernel.routing.catalog import NO_KEYS, RouteRow
from kernel.stages.limit import Payers
from kernel.state import State

Outcome = Problem | Awaitable[Problem | None] | None

_RETRY_SOON = ((b"retry-after", b"1"),)
# RFC 9110 section 11.6.1: a 401 has a challenge. No scheme is registered for keys in a header of their own.
_CHALLENGE = b'ApiKey realm="bakery-gateway", header="X-API-Key"'


def scope_names(settings: Settings) -> frozenset[str]:
    """What scopes may name."""
    services = {service.name for service in settings.service_catalog} - NO_KEYS
    return frozenset(services | {row.scope for row in settings.routes if row.scope})


def demanded(row: RouteRow) -> str:
    """The scopes a route demands of a key, in words."""
    needed = sorted({row.key_scope(method) for method in row.answered} - {""})
    return f"or an API key with {', '.join(needed)}" if needed else "no API key"


def make(state: State, row: RouteRow) -> Callable[[Exchange], Outcome]:
    """How a route takes keys."""
    recognise = state.api_keys.recognise
    turn_over = Payers(state, row).turn_over
    metrics = state.metrics
    needed = {method: row.key_scope(method) for method in row.answered}
    enough = {method: accepted(scope) for method, scope in needed.items()}

    def scoped(x: Exchange) -> Problem | None:
        rights = x.caller.rights
        assert rights is not None
        if row.service_only:
            return SERVICE_ONLY()
        scope = needed[x.method]
        if not scope:
            return API_KEY_REFUSED()
        if rights.scopes.isdisjoint(enough[x.method]):
            value = b'%b, error="insufficient_scope", scope="%b"' % (_CHALLENGE, scope.encode())
            return API_KEY_SCOPE(f"The key does not have the scope {scope}.", ((b"www-authenticate", value),))
        return None

    async def first_seen(x: Exchange) -> Problem | None:
        if b"authorization" in x.captured:
            metrics.auth_failure += 1
            return CREDENTIALS_AMBIGUOUS()
        try:
            identity = await recognise(x.captured[HEADER])
        except GatewayError as error:
            metrics.auth_failure += 1
            return _refused(error)
        metrics.auth_success += 1
        x.identity = identity
        outcome = turn_over(x, identity)
        refused = await outcome if isinstance(outcome, Awaitable) else outcome
        return refused if refused is not None else scoped(x)

    def by_key(x: Exchange) -> Outcome:
        if x.identity is None:
            return first_seen(x)
        metrics.auth_success += 1
        return scoped(x)

    return by_key


def _refused(error: GatewayError) -> Problem:
    problem = error.problem
    kind = problem.kind
    if kind.status == 401:
        value = b'%b, error="invalid_key", error_description="%b"' % (_CHALLENGE, kind.title.encode())
        return kind(problem.detail, ((b"www-authenticate", value),))
    return kind(problem.detail, _RETRY_SOON if kind.status == 503 else ())
