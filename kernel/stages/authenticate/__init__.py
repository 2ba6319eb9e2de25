"""Authentication: whose request is this. A token this worker knows costs one dict hit (already made by the limiter).

Any other one goes to the authority; an expired one may be exchanged there for a new one (see refresh.py). Whoever it proves
pays for the request from here on, and no longer the address.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Final

from kernel.config import Settings
from kernel.exchange.exchange import Exchange, Stage
from kernel.exchange.phase import Phase
from kernel.http.problems import SERVICE_ONLY, TOKEN_MALFORMED, TOKEN_MISSING, GatewayError, Problem
from kernel.identity.errors import REALM, challenge
from kernel.identity.expiry import TokenExpired
from kernel.identity.identity import Identity
from kernel.primitives.api_key import HEADER as API_KEY
from kernel.primitives.api_key import PREFIX
from kernel.routing.catalog import LOGOUT, RouteRow
from kernel.stages.authenticate import api_keys, refresh, tickets
from kernel.stages.limit import Payers
from kernel.state import State
from kernel.tenancy.demo_sessions import named

NAME: Final = Phase("authenticate")

_RETRY_SOON = ((b"retry-after", b"1"),)


def describe(settings: Settings, row: RouteRow) -> str:
    """What the stage demands of a request, in words; empty where it has no part in the route."""
    if not row.identified:
        return ""
    if row.service_only:
        return "a service token"
    issuers = ", ".join(settings.jwt_issuer)
    keys = api_keys.demanded(row)
    return f"a token of {issuers}, or a demo session; an expired one is refreshed if it can be; {keys}"


def make(state: State, row: RouteRow) -> Stage | None:
    """The stage of a route that needs a token; public routes have none."""
    if not row.identified:
        return None
    visit = state.demo.enter
    recognise = state.authority.recognise
    renew = refresh.make(state, row)
    turn_over = Payers(state, row).turn_over
    metrics = state.metrics
    service_only = row.service_only
    by_key = api_keys.make(state, row)

    async def first_seen(x: Exchange, token: bytes) -> Problem | None:
        """A token that this worker has not verified, or not yet."""
        if token.startswith(PREFIX.encode()):
            metrics.auth_failure += 1
            return _refused(
                GatewayError(TOKEN_MALFORMED("API keys are sent in X-API-Key, not in Authorization."))
            )
        try:
            try:
                identity = await recognise(token)
            except TokenExpired as error:
                renewal = refresh.presented(x)
                if renewal is None:
                    raise
                identity = await renew(x, error.identity, renewal)
        except GatewayError as error:
            metrics.auth_failure += 1
            return _refused(error)
        return await admit(x, identity)

    async def admit(x: Exchange, identity: Identity) -> Problem | None:
        metrics.auth_success += 1
        x.identity = identity
        outcome = turn_over(x, identity)
        refused = await outcome if isinstance(outcome, Awaitable) else outcome
        if refused is not None:
            return refused
        if service_only and identity.kind != "service":
            return SERVICE_ONLY()
        return None

    def authenticate(x: Exchange) -> Problem | Awaitable[Problem | None] | None:
        identity = x.cached_identity
        if identity is not None:
            metrics.auth_cache_hits += 1
            metrics.auth_success += 1
            x.identity = identity
            return SERVICE_ONLY() if service_only and identity.kind != "service" else None
        token = x.token
        if token is not None:
            return first_seen(x, token)
        if API_KEY in x.captured:
            return by_key(x)
        session = named(x)
        if session is not None and not service_only:
            return visit(x, session)
        metrics.auth_failure += 1
        return TOKEN_MISSING(headers=((b"www-authenticate", REALM),))

    if row.effect == LOGOUT:
        leave = refresh.make_leave(state)

        async def leaving(x: Exchange) -> Problem | None:
            await leave(x)
            outcome = authenticate(x)
            return await outcome if isinstance(outcome, Awaitable) else outcome

        return leaving
    if not row.browser:
        return authenticate
    redeem = tickets.make(state, row)

    async def by_ticket(x: Exchange, ticket: bytes) -> Problem | None:
        try:
            redeemed = await redeem(x, ticket)
        except GatewayError as error:
            metrics.auth_failure += 1
            return _refused(error)
        if isinstance(redeemed, Identity):
            return await admit(x, redeemed)
        if service_only:
            return SERVICE_ONLY()
        visited = visit(x, redeemed)
        return await visited if isinstance(visited, Awaitable) else visited

    def with_tickets(x: Exchange) -> Problem | Awaitable[Problem | None] | None:
        return authenticate(x) if x.ticket is None else by_ticket(x, x.ticket)

    return with_tickets


def _refused(error: GatewayError) -> Problem:
    """The problem of a token that is not accepted, or cannot be judged now."""
    problem = error.problem
    kind = problem.kind
    if kind.status == 401:
        return kind(problem.detail, challenge("invalid_token", kind.title))
    return kind(problem.detail, _RETRY_SOON if kind.status == 503 else ())
