"""`/internal/v1/**`: what services tell the gateway. For service tokens only; one bound to a tenant acts on that one only.

    POST   /internal/v1/tenants/{tenant_id}/subscription-changed   tokens issued until now are stale
    PUT    /internal/v1/tenants/{tenant_id}/read-only              {"reason"}: no writes in the tenant
    DELETE /internal/v1/tenants/{tenant_id}/read-only              204, also when it was not locked
    PUT    /internal/v1/platform/read-only                         {"reason"}: no writes anywhere
    DELETE /internal/v1/platform/read-only

Each is in force when it is answered with 2xx, in every worker within 100 ms. Without the store it is 503.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from kernel.exchange.exchange import Exchange, Handler
from kernel.exchange.json_body import read_json
from kernel.http.problems import STORE_UNAVAILABLE, TENANT_FORBIDDEN, GatewayError
from kernel.openapi.own import Answer, Operation, Operations
from kernel.routing.catalog import RouteRow
from kernel.state import Factories, State
from kernel.store.errors import StoreError
from kernel.store.keys import PLATFORM_READ_ONLY, tenant_read_only
from kernel.telemetry.audit import ADMIN

_JSON = (b"content-type", b"application/json")
_NO_STORE = (b"cache-control", b"no-store")
_RETRY_SOON = ((b"retry-after", b"1"),)


class _Lock(Struct, forbid_unknown_fields=True):
    """Why nobody may write: one line that users are shown."""

    reason: Annotated[str, Meta(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+\Z")]


class _Nothing(Struct, forbid_unknown_fields=True):
    """No field is known."""


_lock_decoder = msgspec.json.Decoder(_Lock)
_nothing_decoder = msgspec.json.Decoder(_Nothing)


async def _stored(command: Awaitable[Any]) -> Any:
    try:
        return await command
    except StoreError:
        raise GatewayError(STORE_UNAVAILABLE(headers=_RETRY_SOON)) from None


async def _answer(x: Exchange, document: dict[str, Any]) -> None:
    await x.respond(200, [_JSON, _NO_STORE], msgspec.json.encode(document))


class _Changed(Struct):
    """Tokens of the tenant issued before this (Unix seconds) are stale."""

    tenant_id: str
    subscription_changed_at: float


class _Locked(Struct, omit_defaults=True):
    """`tenant_id` is absent when it is the whole platform."""

    read_only: bool
    reason: str
    tenant_id: str = ""


OPERATIONS: Operations = {
    "POST subscription-changed": Operation(
        "A tenant's subscription has changed",
        "internal",
        {200: Answer("Since when its tokens are stale", _Changed)},
    ),
    "PUT read-only": Operation(
        "No more writes", "internal", {200: Answer("It is locked", _Locked)}, body=_Lock
    ),
    "DELETE read-only": Operation("Writes again", "internal", {204: Answer("It is not locked", media="")}),
}


def subscription_changed(state: State, row: RouteRow) -> Handler:
    """The handler of `subscription-changed`."""
    patience = state.settings.body_timeout_seconds

    async def handle(x: Exchange) -> None:
        await read_json(x, _nothing_decoder, patience)
        moment = await _stored(state.tenants.mark_changed(x.tenant or ""))
        state.audit.exchange(ADMIN, x, 200)
        await _answer(x, {"tenant_id": x.tenant, "subscription_changed_at": moment})

    return handle


def read_only(state: State, row: RouteRow) -> Handler:
    """The handler of both `read-only` routes: the tenant's when the pattern has one, else the platform's."""
    whole_platform = "{tenant_id}" not in row.pattern
    patience = state.settings.body_timeout_seconds

    async def execute(*command: str) -> Any:
        return await state.store.execute(*command)

    async def handle(x: Exchange) -> None:
        if whole_platform and x.caller.tenant_id is not None:
            raise GatewayError(TENANT_FORBIDDEN("This service token is bound to a tenant."))
        key = PLATFORM_READ_ONLY if whole_platform else tenant_read_only(x.tenant or "")
        if x.method == "DELETE":
            await _stored(execute("DEL", key))
            state.audit.exchange(ADMIN, x, 204)
            await x.respond(204, [], b"")
            return
        lock = await read_json(x, _lock_decoder, patience)
        await _stored(execute("SET", key, lock.reason))
        state.audit.exchange(ADMIN, x, 200)
        subject: dict[str, Any] = {} if whole_platform else {"tenant_id": x.tenant}
        await _answer(x, {**subject, "read_only": True, "reason": lock.reason})

    return handle


FACTORIES: Factories = {"read-only": read_only, "subscription-changed": subscription_changed}
