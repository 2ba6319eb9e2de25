"""What a running platform says of itself."""

from __future__ import annotations

from msgspec import Struct


class Account(Struct):
    """Someone who can log in."""

    label: str
    user_id: str
    name: str
    email: str
    password: str
    tenant_id: str
    tenant: str
    role: str
    tier: str
    status: str


class Info(Struct):
    """What a gateway, a test or a developer must know of a running platform.

    `urls`: service -> URL. `environment`: the variables for the gateway. `tokens`: access tokens by account label, and
    `service` (the orchestrator's service token). `tenants`: tenant ids by account label. `page`: the front end's origin; it
    shows the alerts of `#gateway=URL`.
    `beside`: variables for what demo/gateway.toml has beside the services.
    """

    pid: int
    urls: dict[str, str]
    environment: dict[str, str]
    tokens: dict[str, str]
    tenants: dict[str, str]
    accounts: list[Account]
    page: str
    jwks_url: str
    beside: dict[str, str]
