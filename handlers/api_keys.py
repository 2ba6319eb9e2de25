"""API keys, managed: by a tenant's owners and admins, and by services.

    GET    /api/v1/tenants/{tenant_id}/api-keys                   the tenant's keys, without any secret
    POST   /api/v1/tenants/{tenant_id}/api-keys                   a new key; its secret is in this answer and nowhere else
    GET    /api/v1/tenants/{tenant_id}/api-keys/{key_id}
    DELETE /api/v1/tenants/{tenant_id}/api-keys/{key_id}          revoked, within 100 ms everywhere
    POST   /api/v1/tenants/{tenant_id}/api-keys/{key_id}/rotate   a new secret; the others are good for `overlap_seconds` more

The same below /internal/v1/api-keys for service tokens, where the tenant is `?tenant_id=` or a field of the body.

SECURITY: only who logged in manages keys, never a key: one that leaked could otherwise make itself a successor. A tenant
gives no more than it has: not the owner's role, no higher tier, no larger limit than any client's. Taking a key away is
possible in read-only mode and without a subscription, for it cannot wait.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal
from urllib.parse import parse_qsl

import msgspec
from msgspec import Meta, Struct

from kernel.exchange.exchange import Exchange, Handler
from kernel.exchange.json_body import read_json
from kernel.http.key_problems import API_KEY_REFUSED, API_KEY_UNKNOWN, ROLE_REQUIRED
from kernel.http.problems import (
    BODY_INVALID,
    DEMO_FORBIDDEN,
    PARAMETER_INVALID,
    TENANT_FORBIDDEN,
    GatewayError,
)
from kernel.identity.api_key_book import MAX_OVERLAP, OVERLAP, ApiKeyBook, Draft
from kernel.identity.api_key_record import Name, Plan, Record, Role
from kernel.identity.api_key_view import ApiKey, ApiKeys, NewApiKey, RateLimit, shown, shown_once
from kernel.identity.scopes import check
from kernel.openapi.own import Answer, Operation, Operations, Query
from kernel.primitives.tenant_id import PATTERN, canonical
from kernel.routing.catalog import Limit, RouteRow
from kernel.stages.authenticate.api_keys import scope_names
from kernel.state import Factories, State
from kernel.telemetry.audit import API_KEY

_JSON = (b"content-type", b"application/json")
_NO_STORE = (b"cache-control", b"no-store")
_MANAGERS = frozenset({"owner", "admin"})
_LONGEST = 5 * 366 * 86_400

Tier = Literal["starter", "professional", "enterprise"]
Scope = Annotated[str, Meta(max_length=80)]


class _NewKey(Struct, forbid_unknown_fields=True, kw_only=True):
    """What a key is for, and what it may do; `expires_in` is in seconds, `tier` holds it below the tenant's own."""

    name: Name
    scopes: Annotated[list[Scope], Meta(min_length=1, max_length=32)]
    role: Role = "member"
    tier: Tier | None = None
    rate_limit: RateLimit | None = None
    expires_in: Annotated[int, Meta(ge=60, le=_LONGEST)] | None = None


class _NewTenantKey(_NewKey, forbid_unknown_fields=True, kw_only=True):
    """The same, for the tenant named; `subscription_tier` is what is known of its subscription."""

    tenant_id: Annotated[str, Meta(pattern=PATTERN)]
    subscription_tier: Tier = "starter"


class _Rotate(Struct, forbid_unknown_fields=True):
    """For how long the secrets there are go on: 0 ends them at once."""

    overlap_seconds: Annotated[int, Meta(ge=0, le=MAX_OVERLAP)] = OVERLAP


_new_decoder = msgspec.json.Decoder(_NewKey)
_internal_decoder = msgspec.json.Decoder(_NewTenantKey)
_rotate_decoder = msgspec.json.Decoder(_Rotate)
_TENANT_ID = (Query("tenant_id", "Whose keys."),)
_TAG = "api-keys"
_LISTED = Answer("The keys, the oldest first", ApiKeys)
_MADE = Answer("The key, with its secret", NewApiKey)

OPERATIONS: Operations = {
    "GET api-keys": Operation("A tenant's API keys", _TAG, {200: _LISTED}),
    "POST api-keys": Operation("A new API key", _TAG, {201: _MADE}, body=_NewKey),
    "GET api-key": Operation("An API key", _TAG, {200: Answer("The key", ApiKey)}),
    "DELETE api-key": Operation(
        "Revoke an API key", _TAG, {204: Answer("It is refused everywhere", media="")}
    ),
    "POST api-key-rotate": Operation("A new secret for an API key", _TAG, {200: _MADE}, body=_Rotate),
    "GET internal-api-keys": Operation(
        "A tenant's API keys", "internal", {200: _LISTED}, parameters=_TENANT_ID
    ),
    "POST internal-api-keys": Operation("A new API key", "internal", {201: _MADE}, body=_NewTenantKey),
}


async def _answer(x: Exchange, status: int, document: Struct) -> None:
    await x.respond(status, [_JSON, _NO_STORE], msgspec.json.encode(document))


# Who asks, for which tenant: None is any. Raises GatewayError.
_Admit = Callable[[Exchange], str | None]


def _manager(x: Exchange) -> str:
    """The tenant whose keys the caller manages."""
    caller, granted = x.caller, x.granted
    if caller.kind != "access":
        raise GatewayError(API_KEY_REFUSED("Keys are managed by users; services use /internal/v1/api-keys."))
    if caller.is_demo:
        raise GatewayError(DEMO_FORBIDDEN("A key would outlive the demo."))
    if granted.role not in _MANAGERS:
        raise GatewayError(ROLE_REQUIRED(f"API keys are managed by {' and '.join(sorted(_MANAGERS))}s."))
    assert x.tenant is not None
    return x.tenant


def _service(x: Exchange) -> str | None:
    """The one tenant whose keys a service manages; None: all."""
    return x.caller.tenant_id


def _named_tenant(x: Exchange, given: str) -> str:
    """The tenant that a service names. Raises GatewayError: PARAMETER_INVALID, TENANT_FORBIDDEN."""
    try:
        tenant = canonical(given)
    except ValueError as error:
        raise GatewayError(PARAMETER_INVALID(f"tenant_id: {error}.")) from None
    if _service(x) not in (None, tenant):
        raise GatewayError(TENANT_FORBIDDEN("This service token is bound to another tenant."))
    return tenant


def _key_id(x: Exchange) -> str:
    """The id in the path. Raises GatewayError: API_KEY_UNKNOWN."""
    given = x.params[-1]
    if not given.isalnum() or len(given) != 8:
        raise GatewayError(API_KEY_UNKNOWN())
    return given.decode()


class _Desk:
    """What all handlers here do alike."""

    def __init__(self, state: State) -> None:
        settings = state.settings
        self.patience = settings.body_timeout_seconds
        self.book = ApiKeyBook(state.store, state.stamp, settings.api_keys_per_tenant)
        self._audit = state.audit
        self._names = scope_names(settings)
        self._largest = Limit(settings.rate_limit_requests, settings.rate_limit_window_seconds)

    def told(self, x: Exchange, status: int, record: Record) -> None:
        """Put it into the audit trail; the secret is not there."""
        x.tenant = record.tenant
        self._audit.exchange(API_KEY, x, status, subject=f"key:{record.id}")

    def draft(self, new: _NewKey, tenant: str, plan: Plan, by: str, *, bounded: bool) -> Draft:
        """Raises GatewayError: BODY_INVALID."""
        for place, scope in enumerate(new.scopes):
            try:
                check(scope, self._names)
            except ValueError as error:
                raise GatewayError(BODY_INVALID(f"`scopes[{place}]`: {error}.")) from None
        limit = None
        if new.rate_limit is not None:
            limit = Limit(new.rate_limit.requests, new.rate_limit.window_seconds)
            most = self._largest
            pace = limit.requests * most.window > most.requests * limit.window
            if bounded and (limit.requests > most.requests or pace):
                raise GatewayError(BODY_INVALID(f"`rate_limit`: at most that of any client, {most.text}."))
        scopes = tuple(dict.fromkeys(new.scopes))
        return Draft(tenant, new.name, scopes, new.role, plan, by, new.tier or "", limit, new.expires_in)


def _plan(x: Exchange) -> Plan:
    """What the caller's token says of the tenant's subscription, and since when."""
    caller = x.caller
    return Plan(caller.iat, x.granted.tier, caller.status, caller.valid_until)


def tenant_keys(state: State, row: RouteRow) -> Handler:
    """The handler of a tenant's list."""
    desk = _Desk(state)

    async def handle(x: Exchange) -> None:
        tenant = _manager(x)
        if x.method != "POST":
            await _answer(x, 200, ApiKeys([shown(entry) for entry in await desk.book.entries(tenant)]))
            return
        new = await read_json(x, _new_decoder, desk.patience)
        if new.role == "admin" and x.granted.role != "owner":
            raise GatewayError(ROLE_REQUIRED("Only an owner makes a key with the role admin."))
        made = await desk.book.create(desk.draft(new, tenant, _plan(x), x.caller.user_id, bounded=True))
        desk.told(x, 201, made.record)
        await _answer(x, 201, shown_once(made))

    return handle


def internal_keys(state: State, row: RouteRow) -> Handler:
    """The handler of services' list."""
    desk = _Desk(state)

    async def handle(x: Exchange) -> None:
        if x.method != "POST":
            given = dict(parse_qsl(x.query.decode("latin-1"), max_num_fields=16)).get("tenant_id")
            if given is None:
                raise GatewayError(PARAMETER_INVALID("tenant_id: say whose keys."))
            entries = await desk.book.entries(_named_tenant(x, given))
            await _answer(x, 200, ApiKeys([shown(entry) for entry in entries]))
            return
        new = await read_json(x, _internal_decoder, desk.patience)
        tenant = _named_tenant(x, new.tenant_id)
        plan = Plan(x.caller.iat, new.subscription_tier, "active")
        made = await desk.book.create(desk.draft(new, tenant, plan, x.caller.user_id, bounded=False))
        desk.told(x, 201, made.record)
        await _answer(x, 201, shown_once(made))

    return handle


def _admission(row: RouteRow) -> _Admit:
    return _service if row.service_only else _manager


def one_key(state: State, row: RouteRow) -> Handler:
    """The handler of a key."""
    desk = _Desk(state)
    admit = _admission(row)

    async def handle(x: Exchange) -> None:
        tenant = admit(x)
        if x.method != "DELETE":
            await _answer(x, 200, shown(await desk.book.entry(_key_id(x), tenant)))
            return
        record = await desk.book.revoke(_key_id(x), tenant)
        desk.told(x, 204, record)
        await x.respond(204, [_NO_STORE], b"")

    return handle


def rotate(state: State, row: RouteRow) -> Handler:
    """The handler of `rotate`."""
    desk = _Desk(state)
    admit = _admission(row)

    async def handle(x: Exchange) -> None:
        tenant = admit(x)
        asked = await read_json(x, _rotate_decoder, desk.patience)
        # Of a tenant that is only listed, a token does not say whether its subscription is active.
        plan = _plan(x) if x.granted.access == "direct" else None
        made = await desk.book.rotate(_key_id(x), tenant, float(asked.overlap_seconds), plan)
        desk.told(x, 200, made.record)
        await _answer(x, 200, shown_once(made))

    return handle


FACTORIES: Factories = {
    "api-keys": tenant_keys,
    "api-key": one_key,
    "api-key-rotate": rotate,
    "internal-api-keys": internal_keys,
}
