"""The stub tenant service.

    GET    /api/v1/tenants                          the caller's tenants
    GET    /api/v1/tenants/{id}                     one tenant
    PATCH  /api/v1/tenants/{id}                     {"name"?, "city"?}
    DELETE /api/v1/tenants/{id}                     204; owners only
    GET    /api/v1/tenants/{id}/children            the outlets of a group
    GET    /api/v1/tenants/{id}/hierarchy           {"tenant_id", "parent_id", "ancestors": [ids, nearest first],
                                                     "children": [ids]}
    GET    /api/v1/tenants/{id}/members             who works there
    GET    /api/v1/tenants/{id}/subscription        {"tier", "status", "valid_until"}
    PUT    /api/v1/tenants/{id}/subscription        {"tier"?, "status"?, "valid_until"?} -> the new one (or PATCH, POST)
                                                    both also at /api/v1/subscriptions, for the caller's tenant
    GET    /api/v1/tenants/{id}/billing             plan, price and the next invoice
    GET    /api/v1/tenants/{id}/billing/invoices    invoices
    POST   /api/v1/tenants/{id}/billing/payments    {"months"?: 1..24}: pays, which makes the subscription active
    POST   /api/v1/tenants/{id}/verify              {"operation", "user_id"}, for services only
                                                    -> {"allowed", "reason", "subscription"}
    POST   /api/v1/tenant/clone                     {"source_tenant_id", "name"?}, for services only -> 201

The operations that `verify` knows are "delete-tenant" and "change-subscription": only owners may do them.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from demo.platform.messages import Refusal, Request, Response, reply, text
from demo.platform.service import Service, is_service, tenant_of
from demo.platform.tokens import Keys
from demo.platform.world import STATUSES, TIERS, Tenant, World, stamp

_PRICE_EUR = {"starter": 29, "professional": 79, "enterprise": 249}
_OWNERS_ONLY = ("delete-tenant", "change-subscription")


class Tenants:
    """`forget` is called with the id of a tenant that was deleted."""

    def __init__(self, service: Service, world: World, keys: Keys, forget: Callable[[str], None]) -> None:
        self._world = world
        self._keys = keys
        self._forget = forget
        one = "/api/v1/tenants/{tenant_id}"
        service.add_path("GET", "/api/v1/tenants", self._list, "List the caller's tenants")
        service.add_path("POST", "/api/v1/tenant/clone", self._clone, "Copy a tenant; for services", 201)
        service.add_path("GET", one, self._read, "Read a tenant")
        service.add_path("PATCH PUT", one, self._change, "Change a tenant")
        service.add_path("DELETE", one, self._delete, "Delete a tenant", 204)
        service.add_path("GET", one + "/children", self._children, "List a group's outlets")
        service.add_path("GET", one + "/hierarchy", self._hierarchy, "Where a tenant stands")
        service.add_path("GET", one + "/members", self._members, "List who works there")
        for path in (one + "/subscription", "/api/v1/subscriptions"):
            service.add_path("GET", path, self._subscription, "The subscription")
            service.add_path("PUT POST PATCH", path, self._subscribe, "Change the subscription")
        service.add_path("GET", one + "/billing", self._billing, "Plan, price and next invoice")
        service.add_path("GET", one + "/billing/invoices", self._invoices, "List invoices")
        service.add_path("POST", one + "/billing/payments", self._pay, "Pay and reactivate", 201)
        service.add_path("POST", one + "/verify", self._verify, "Verify a critical operation; for services")

    def _named(self, request: Request) -> Tenant:
        return self._world.tenant(tenant_of(request))

    def _list(self, request: Request) -> Response:
        if is_service(request):
            return _page(list(self._world.tenants.values()))
        return _page(self._world.visible(self._world.user(request.header("x-user-id"))))

    def _read(self, request: Request) -> Response:
        tenant = self._named(request)
        return reply({**msgspec.to_builtins(tenant), "subscription": tenant.subscription()})

    async def _change(self, request: Request) -> Response:
        tenant = self._named(request)
        document = await request.json()
        tenant.name = str(document.get("name") or tenant.name)
        tenant.city = str(document.get("city") or tenant.city)
        return reply(tenant)

    def _delete(self, request: Request) -> Response:
        tenant = self._named(request)
        self._owners_only(request)
        if self._world.children(tenant.id):
            raise Refusal(409, "tenant-has-outlets", "Delete the group's outlets first.")
        del self._world.tenants[tenant.id]
        self._forget(tenant.id)
        return Response(204)

    def _children(self, request: Request) -> Response:
        return _page(self._world.children(self._named(request).id))

    def _hierarchy(self, request: Request) -> Response:
        # Before the gateway knows whether the caller may see this tenant, it asks here with a token of its own.
        self._trusted(request)
        tenant = self._world.tenant(request.params["tenant_id"])
        return reply(
            {
                "tenant_id": tenant.id,
                "parent_id": tenant.parent_id,
                "ancestors": [ancestor.id for ancestor in self._world.ancestors(tenant)],
                "children": [child.id for child in self._world.children(tenant.id)],
            }
        )

    def _members(self, request: Request) -> Response:
        tenant = self._named(request)
        rows = []
        for user in self._world.users.values():
            role = user.role if user.tenant_id == tenant.id else dict(user.access).get(tenant.id)
            if role:
                rows.append({"id": user.id, "name": user.name, "email": user.email, "role": role})
        return _page(rows)

    def _subscription(self, request: Request) -> Response:
        return reply(self._named(request).subscription())

    async def _subscribe(self, request: Request) -> Response:
        tenant = self._named(request)
        self._owners_only(request)
        document = await request.json()
        tier, status = document.get("tier", tenant.tier), document.get("status", tenant.status)
        if tier not in TIERS or status not in STATUSES:
            known = f"tiers: {', '.join(TIERS)}; statuses: {', '.join(STATUSES)}"
            raise Refusal(422, "subscription-invalid", f"Known {known}.")
        tenant.tier, tenant.status = tier, status
        tenant.valid_until = _moment(document.get("valid_until", tenant.valid_until))
        return reply(tenant.subscription())

    def _billing(self, request: Request) -> Response:
        tenant = self._named(request)
        price = _PRICE_EUR[tenant.tier]
        return reply(
            {"plan": tenant.tier, "price_eur_month": price, "next_invoice_on": tenant.valid_until[:10]}
        )

    def _invoices(self, request: Request) -> Response:
        tenant = self._named(request)
        today = datetime.now(UTC).date()
        rows = [
            {
                "number": f"F-{today.year}-{3 - back:03}",
                "date": str(today - timedelta(days=30 * back)),
                "total_eur": _PRICE_EUR[tenant.tier],
                "paid": back > 0,
            }
            for back in range(3)
        ]
        return _page(rows)

    async def _pay(self, request: Request) -> Response:
        tenant = self._named(request)
        months = (await request.json()).get("months", 1)
        if not isinstance(months, int) or not 1 <= months <= 24:
            raise Refusal(422, "field-invalid", "'months' must be an integer from 1 to 24.")
        tenant.status = "active"
        tenant.valid_until = stamp(datetime.now(UTC) + timedelta(days=30 * months))
        paid = months * _PRICE_EUR[tenant.tier]
        return reply({"paid_eur": paid, "subscription": tenant.subscription()}, 201)

    async def _verify(self, request: Request) -> Response:
        self._keys.require_service(request)
        document = await request.json()
        operation, user_id = text(document, "operation"), text(document, "user_id")
        tenant = self._world.tenant(request.params["tenant_id"])
        reason = ""
        if operation in _OWNERS_ONLY and not self._owns(user_id, tenant):
            reason = "only an owner of the tenant may do this"
        elif operation not in _OWNERS_ONLY:
            reason = f"unknown operation; known: {', '.join(_OWNERS_ONLY)}"
        return reply({"allowed": not reason, "reason": reason, "subscription": tenant.subscription()})

    async def _clone(self, request: Request) -> Response:
        self._keys.require_service(request)
        document = await request.json()
        source = self._world.tenant(text(document, "source_tenant_id"))
        name = str(document.get("name") or f"{source.name} (copia)")
        copy = self._world.found(name, source.kind, tier=source.tier)
        self._world.seeded.add(copy.id)
        return reply(copy, 201, (("location", f"/api/v1/tenants/{copy.id}"),))

    def _owns(self, user_id: str, tenant: Tenant) -> bool:
        if user_id.endswith("-service"):
            return True
        user = next((user for user in self._world.users.values() if user.id == user_id), None)
        if user is None:
            return False
        above = {tenant.id, *(ancestor.id for ancestor in self._world.ancestors(tenant))}
        return user.role == "owner" and (
            user.tenant_id == tenant.id or (user.sees_children and user.tenant_id in above)
        )

    def _trusted(self, request: Request) -> None:
        if request.header("x-tenant-id") != request.params["tenant_id"]:
            self._keys.require_service(request)

    @staticmethod
    def _owners_only(request: Request) -> None:
        if request.header("x-user-role") not in ("owner", "admin"):
            raise Refusal(403, "owner-only", "Only an owner of the tenant may do this.")


def _page(rows: list[Any]) -> Response:
    return reply({"items": rows, "total": len(rows), "limit": len(rows), "offset": 0, "next": None})


def _moment(value: object) -> str:
    try:
        moment = datetime.fromisoformat(str(value))
    except ValueError:
        raise Refusal(422, "field-invalid", "'valid_until' must be an RFC 3339 date and time.") from None
    return stamp(moment.astimezone(UTC) if moment.tzinfo else moment)
