"""The platform's tenants and people, the same on every start.

Panadería La Espiga (group, professional)        Lucía owns it
 +-- La Espiga Centro, La Espiga Mercado          outlets she sees through the group; Marco works in the first
Horno San Martín (professional)                  Jordi owns it, Marco helps out there
Trigo Limpio (starter, trialing)                 Carmen owns it
Las Migas de Ana (starter, long expired)         Ana owns it
El Hojaldre (professional, expired, in grace)    Pablo owns it
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from msgspec import Struct

from demo.platform.messages import Refusal

TIERS = ("starter", "professional", "enterprise")
STATUSES = ("active", "trialing", "pending_cancellation", "past_due", "suspended", "inactive")

# Of the accounts the platform begins with; they exist nowhere else.
PASSWORD = "pan-con-tomate"


def stamp(moment: datetime) -> str:
    """RFC 3339, UTC, whole seconds."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


class Tenant(Struct):
    """A bakery. `valid_until` is RFC 3339."""

    id: str
    name: str
    kind: str
    city: str
    parent_id: str | None
    tier: str
    status: str
    valid_until: str

    def subscription(self) -> dict[str, str]:
        """As tokens carry it."""
        return {"tier": self.tier, "status": self.status, "valid_until": self.valid_until}


class User(Struct):
    """A person; `role` is that in `tenant_id`, `access` are the others."""

    id: str
    label: str
    email: str
    password: str
    name: str
    tenant_id: str
    role: str
    sees_children: bool = False
    access: tuple[tuple[str, str], ...] = ()


class World:
    """Tenants by id, users by e-mail address."""

    def __init__(self) -> None:
        self.tenants: dict[str, Tenant] = {}
        self.users: dict[str, User] = {}
        self.seeded: set[str] = set()
        self._populate()

    def tenant(self, tenant_id: str) -> Tenant:
        """A 404 `Refusal` when there is none."""
        try:
            return self.tenants[tenant_id]
        except KeyError:
            raise Refusal(404, "tenant-unknown", f"No tenant {tenant_id!r}.") from None

    def user(self, user_id: str) -> User:
        """A 404 `Refusal` when there is none."""
        for user in self.users.values():
            if user.id == user_id:
                return user
        raise Refusal(404, "user-unknown", "No such user.")

    def account(self, label: str) -> User:
        """One of the first users, by its label: "owner", "second_owner", ..."""
        return next(user for user in self.users.values() if user.label == label)

    def ancestors(self, tenant: Tenant) -> Iterator[Tenant]:
        """Its parent, that one's parent, and so on."""
        while tenant.parent_id in self.tenants:
            tenant = self.tenants[tenant.parent_id]
            yield tenant

    def children(self, tenant_id: str) -> list[Tenant]:
        """The tenants right below."""
        return [tenant for tenant in self.tenants.values() if tenant.parent_id == tenant_id]

    def claims(self, user: User) -> dict[str, Any]:
        """What an access token says of `user` now."""
        tenant = self.tenant(user.tenant_id)
        own: dict[str, Any] = {"id": tenant.id, "role": user.role, "tier": tenant.tier}
        if user.sees_children:
            own = {**own, "can_view_children": True}
        others = [{"id": t.id, "role": role, "tier": t.tier} for t, role in self._listed(user)]
        return {
            "user_id": user.id,
            "email": user.email,
            "tenant_id": tenant.id,
            "tenant_role": user.role,
            "subscription": tenant.subscription(),
            "tenant_access": [own, *others],
        }

    def visible(self, user: User) -> list[Tenant]:
        """Every tenant `user` may open."""
        tenants = [self.tenant(user.tenant_id), *(tenant for tenant, _role in self._listed(user))]
        if user.sees_children:
            tenants += self.children(user.tenant_id)
        return tenants

    def found(self, name: str, kind: str = "bakery", *, tier: str = "starter", days: int = 14) -> Tenant:
        """Adds a tenant on trial."""
        until = stamp(datetime.now(UTC) + timedelta(days=days))
        tenant = Tenant(str(uuid.uuid4()), name, kind, "", None, tier, "trialing", until)
        self.tenants[tenant.id] = tenant
        return tenant

    def _listed(self, user: User) -> Iterator[tuple[Tenant, str]]:
        for tenant_id, role in user.access:
            if tenant_id in self.tenants:
                yield self.tenants[tenant_id], role

    def _populate(self) -> None:
        group = self._begin("la-espiga", "Panadería La Espiga", "group", "Valladolid", "professional", 300)
        centro = self._begin(
            "la-espiga-centro", "La Espiga Centro", "outlet", "Valladolid", "professional", 300, parent=group
        )
        self._begin(
            "la-espiga-mercado", "La Espiga Mercado", "outlet", "Palencia", "professional", 300, parent=group
        )
        horno = self._begin("horno-san-martin", "Horno San Martín", "bakery", "Zaragoza", "professional", 120)
        trigo = self._begin("trigo-limpio", "Trigo Limpio", "bakery", "Málaga", "starter", 10, "trialing")
        migas = self._begin("las-migas", "Las Migas de Ana", "bakery", "Lugo", "starter", -60)
        hojaldre = self._begin("el-hojaldre", "El Hojaldre", "bakery", "Torrelavega", "professional", -3)
        self._employ("owner", "lucia@la-espiga.example", "Lucía Herrero", group, sees_children=True)
        self._employ("second_owner", "jordi@horno-san-martin.example", "Jordi Ferrer", horno)
        self._employ(
            "staff", "marco@la-espiga.example", "Marco Ríos", centro, "employee", access=((horno, "baker"),)
        )
        self._employ("starter", "carmen@trigo-limpio.example", "Carmen Vega", trigo)
        self._employ("expired", "ana@las-migas.example", "Ana Castro", migas)
        self._employ("grace", "pablo@el-hojaldre.example", "Pablo Cobo", hojaldre)

    def _begin(
        self,
        slug: str,
        name: str,
        kind: str,
        city: str,
        tier: str,
        days: int,
        status: str = "active",
        parent: str | None = None,
    ) -> str:
        tenant_id = _stable_id(slug)
        until = stamp(datetime.now(UTC) + timedelta(days=days))
        self.tenants[tenant_id] = Tenant(tenant_id, name, kind, city, parent, tier, status, until)
        self.seeded.add(tenant_id)
        return tenant_id

    def _employ(
        self,
        label: str,
        email: str,
        name: str,
        tenant_id: str,
        role: str = "owner",
        *,
        sees_children: bool = False,
        access: tuple[tuple[str, str], ...] = (),
    ) -> None:
        self.users[email] = User(
            _stable_id(email), label, email, PASSWORD, name, tenant_id, role, sees_children, access
        )


def _stable_id(name: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_DNS, f"{name}.bakery.example"))
