"""The 19 stub services together, each on a loopback port of its own."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator

from demo.platform.auth import Auth
from demo.platform.collection import Collection
from demo.platform.demo_sessions import DemoSessions
from demo.platform.front import Front
from demo.platform.info import Account, Info
from demo.platform.inventory_next import inventory_next
from demo.platform.inventory_v2 import inventory_v2
from demo.platform.loyalty import Loyalty, installed
from demo.platform.nominatim import Nominatim
from demo.platform.notifications import Notifications
from demo.platform.producer import Producer
from demo.platform.seeds import COLLECTIONS
from demo.platform.seeds_office import notifications
from demo.platform.service import Service
from demo.platform.tenants import Tenants
from demo.platform.tokens import Keys
from demo.platform.tools import equip
from demo.platform.training import Training
from demo.platform.world import World

# Name -> prefixes, where they differ from the name.
SERVICES: dict[str, tuple[str, ...]] = {
    "auth": ("auth",),
    "tenant": ("tenants", "tenant", "subscriptions"),
    "inventory": ("inventory",),
    "production": ("production",),
    "recipes": ("recipes",),
    "suppliers": ("suppliers",),
    "orders": ("orders",),
    "sales": ("sales",),
    "procurement": ("procurement",),
    "pos": ("pos",),
    "forecasting": ("forecasting",),
    "training": ("training",),
    "ai-insights": ("ai-insights",),
    "orchestrator": ("orchestrator",),
    "notification": ("notifications",),
    "alert-processor": ("alerts",),
    "demo-session": ("demo",),
    "external": ("external",),
    "distribution": ("distribution",),
}


class Platform:
    """All services; `start` opens their ports. The keys' private halves stay in here."""

    def __init__(self) -> None:
        self.world = World()
        self.keys = Keys()
        self.services = {name: Service(name, *prefixes) for name, prefixes in SERVICES.items()}
        self.collections: list[Collection] = []
        self.auth = Auth(self.services["auth"], self.world, self.keys)
        Tenants(self.services["tenant"], self.world, self.keys, self._forget)
        DemoSessions(self.services["demo-session"], self.world, self.keys, self._forget)
        jobs = Collection("jobs", (), lambda _: (), self._is_seeded)
        Training(self.services["training"], jobs)
        sent = Collection("notifications", ("channel", "message"), notifications, self._is_seeded)
        Notifications(self.services["notification"], sent)
        self.collections += [jobs, sent]
        for service, suffix, name, required, seed in COLLECTIONS:
            collection = Collection(name, required, seed, self._is_seeded)
            collection.serve(self.services[service], suffix)
            self.collections.append(collection)
        alerts = next(each for each in self.collections if each.name == "alerts")
        self.producer = Producer(alerts, [user.tenant_id for user in self.world.users.values()])
        stock = {f"/{each.name}": each for each in self.collections if each.name in {"items", "movements"}}
        coming = inventory_next(stock)
        # What demo/gateway.toml has beside the services, by the variable that tells a gateway where it is.
        self.beside = {
            "INVENTORY_SERVICE_URL_V2": inventory_v2(stock["/items"]),
            "INVENTORY_SERVICE_URL_CANARY": coming,
            "INVENTORY_SERVICE_URL_MIRROR": coming,
        }
        for each in {*self.services.values(), *self.beside.values()}:
            equip(each)
        # Not one of the platform's services: what the gateway asks for addresses.
        self.nominatim = Nominatim()
        self.loyalty = Loyalty() if installed() else None
        self.urls: dict[str, str] = {}
        self.beside_urls: dict[str, str] = {}
        self.front = Front(self.world.account("owner"))
        self.page = ""

    async def start(self, host: str = "127.0.0.1") -> None:
        """Opens every service's port."""
        for name in self.services:
            await self.start_service(name, host)
        for service in set(self.beside.values()):
            url = f"http://{host}:{await service.server.start(host, 0)}"
            self.beside_urls |= {variable: url for variable, each in self.beside.items() if each is service}
        if self.loyalty is not None:
            self.beside_urls["LOYALTY_SERVICE_URL"] = f"grpc://{host}:{await self.loyalty.start(host)}"
        await self.nominatim.start(host)
        self.page = f"http://{host}:{await self.front.server.start(host, 0)}"

    async def start_service(self, name: str, host: str = "127.0.0.1") -> None:
        """Opens one service's port; one that was stopped comes back on the port it had."""
        port = int(self.urls[name].rpartition(":")[2]) if name in self.urls else 0
        port = await self.services[name].server.start(host, port)
        self.urls[name] = f"http://{host}:{port}"

    async def stop_service(self, name: str) -> None:
        """Closes one service's port and connections, as if it had crashed."""
        await self.services[name].server.stop()

    async def stop(self) -> None:
        """Closes everything."""
        for name in self.services:
            await self.stop_service(name)
        for service in set(self.beside.values()):
            await service.server.stop()
        if self.loyalty is not None:
            await self.loyalty.stop()
        await self.nominatim.stop()
        await self.front.server.stop()

    def environment(self) -> dict[str, str]:
        """The variables that make a gateway work with this platform."""
        urls = {self.services[name].variable: url for name, url in self.urls.items()}
        return {
            **urls,
            "JWT_PUBLIC_KEY": self.keys.public_pem,
            "JWT_SECRET_KEY": self.keys.secret,
            "NOMINATIM_URL": self.nominatim.url,
            "CORS_ORIGINS": self.page,
        }

    def token(self, label: str) -> str:
        """A fresh access token of one of the first accounts: "owner", "second_owner", "staff", ..."""
        return self.auth.access_token(self.world.account(label))

    def service_token(self, service: str = "orchestrator", tenant_id: str = "") -> str:
        """A fresh service token."""
        return self.keys.service_token(service, tenant_id)

    def info(self) -> Info:
        """Everything others must know, with fresh tokens."""
        users = [user for user in self.world.users.values() if user.label]
        accounts = []
        for user in users:
            tenant = self.world.tenant(user.tenant_id)
            accounts.append(
                Account(
                    user.label,
                    user.id,
                    user.name,
                    user.email,
                    user.password,
                    tenant.id,
                    tenant.name,
                    user.role,
                    tenant.tier,
                    tenant.status,
                )
            )
        return Info(
            pid=os.getpid(),
            urls=dict(self.urls),
            environment=self.environment(),
            tokens={
                **{user.label: self.token(user.label) for user in users},
                "service": self.service_token(),
            },
            tenants={user.label: user.tenant_id for user in users},
            accounts=accounts,
            page=self.page,
            jwks_url=f"{self.urls['auth']}/.well-known/jwks.json",
            beside=dict(self.beside_urls),
        )

    def _is_seeded(self, tenant_id: str) -> bool:
        return tenant_id in self.world.seeded

    def _forget(self, tenant_id: str) -> None:
        self.world.seeded.discard(tenant_id)
        for collection in self.collections:
            collection.drop(tenant_id)


@contextlib.asynccontextmanager
async def running_platform() -> AsyncIterator[Platform]:
    """A platform in this process and loop, for tests."""
    platform = Platform()
    await platform.start()
    try:
        yield platform
    finally:
        await platform.stop()
