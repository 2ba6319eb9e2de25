"""The policies as one table: every combination of caller, tenant, subscription, tier and route, and what must come of it.

Written from the specification and not from the stages: nothing of the gateway is imported.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

OWN, LISTED, OUTLET, STRANGE = "t-own", "t-listed", "t-outlet", "t-strange"
VIRTUAL = "t-virtual"

RANK = {"starter": 0, "professional": 1, "enterprise": 2}
# Name -> status, days until (or since) it ends.
SUBSCRIPTIONS: dict[str, tuple[str, int]] = {
    "active": ("active", 30),
    "trialing": ("trialing", 30),
    "leaving": ("pending_cancellation", 30),
    "past_due": ("past_due", 30),
    "read_only": ("read_only", 30),
    "suspended": ("suspended", 30),
    "none": ("", 30),
    "grace": ("active", -3),
    "lapsed": ("active", -30),
    "held_in_grace": ("past_due", -3),
}
# The listed tenant's and the group's entries.
LISTED_GRANT = ("baker", "starter")
GROUP_GRANT = ("manager", "professional")

PHASES = ("open", "tenant locked", "platform locked", "changed")
_STATUS = {
    "token-missing": 401,
    "token-stale": 401,
    "service-only": 403,
    "tenant-forbidden": 403,
    "demo-forbidden": 403,
    "subscription-required": 402,
    "subscription-expired": 402,
    "tier-required": 403,
    "tenant-read-only": 403,
    "platform-read-only": 403,
    "critical-denied": 403,
}


@dataclass(frozen=True)
class Endpoint:
    """A route as far as policies see it; `{t}` is the tenant asked for."""

    method: str
    path: str
    min_tier: str = ""
    exempt: bool = False  # from lapse and read-only: the customer can pay
    verified: str = ""  # "allowed" or "denied" by the tenant service
    services: bool = False

    @property
    def writes(self) -> bool:
        return self.method in {"POST", "PUT", "PATCH", "DELETE"}


ENDPOINTS = (
    Endpoint("GET", "/api/v1/tenants/{t}/inventory/items"),
    Endpoint("POST", "/api/v1/tenants/{t}/inventory/items"),
    Endpoint("GET", "/api/v1/tenants/{t}/forecasting/next", min_tier="professional"),
    Endpoint("PUT", "/api/v1/tenants/{t}/forecasting/next", min_tier="professional"),
    Endpoint("GET", "/api/v1/tenants/{t}/ai-insights/all", min_tier="enterprise"),
    Endpoint("GET", "/api/v1/tenants/{t}/billing/invoices", exempt=True),
    Endpoint("POST", "/api/v1/tenants/{t}/billing/payments", exempt=True),
    Endpoint("PATCH", "/api/v1/tenants/{t}/subscription", exempt=True, verified="allowed"),
    Endpoint("DELETE", "/api/v1/tenants/{t}", verified="denied"),
    Endpoint("POST", "/api/v1/tenants/{t}/external/import", services=True),
)


@dataclass(frozen=True)
class Case:
    """One row. `caller`: user, visitor (a demo session and no token), demo token, service, bound service."""

    caller: str
    tenant: str
    subscription: str
    tier: str
    endpoint: Endpoint

    @property
    def home(self) -> str:
        """The caller's own tenant."""
        return VIRTUAL if self.demo else OWN

    @property
    def demo(self) -> bool:
        return self.caller in {"visitor", "demo token"}

    @property
    def service(self) -> bool:
        return self.caller in {"service", "bound service"}


@dataclass(frozen=True)
class Verdict:
    """`code` is "" for a request that reaches its service."""

    code: str
    grace: bool = False

    @property
    def status(self) -> int:
        return _STATUS[self.code]


def cases() -> Iterator[Case]:
    """Every row of one phase."""
    for endpoint in ENDPOINTS:
        for subscription, tier in product(SUBSCRIPTIONS, RANK):
            for tenant in (OWN, LISTED, OUTLET, STRANGE):
                yield Case("user", tenant, subscription, tier, endpoint)
            for caller, tenant in product(("visitor", "demo token"), (VIRTUAL, OWN)):
                yield Case(caller, tenant, subscription, tier, endpoint)
        for caller, tenant in product(("service", "bound service"), (OWN, LISTED, VIRTUAL)):
            yield Case(caller, tenant, "none", "starter", endpoint)


def verdict(case: Case, phase: str) -> Verdict:
    """What must come of `case`."""
    endpoint = case.endpoint
    if endpoint.services and not case.service:
        return Verdict("token-missing" if case.caller == "visitor" else "service-only")
    if case.caller == "bound service" and case.tenant != OWN:
        return Verdict("tenant-forbidden")
    if case.demo and case.tenant != VIRTUAL:
        return Verdict("demo-forbidden")
    if case.caller == "user" and case.tenant == STRANGE:
        return Verdict("tenant-forbidden")
    # The mark is on OWN and VIRTUAL: whatever a token says rests on its own tenant's subscription.
    if phase == "changed" and case.caller in {"user", "demo token"}:
        return Verdict("token-stale")
    status, days = SUBSCRIPTIONS[case.subscription]
    grace = False
    if not case.service:
        if not endpoint.exempt:
            if status in {"suspended"} or (not status and (case.demo or case.tenant == OWN)):
                return Verdict("subscription-required")
            if days < -7:
                return Verdict("subscription-expired")
            grace = days < 0
        if endpoint.min_tier and RANK[granted(case)[1]] < RANK[endpoint.min_tier]:
            return Verdict("tier-required", grace)
    if endpoint.writes and not endpoint.exempt:
        if not case.service and status in {"past_due", "read_only"}:
            return Verdict("tenant-read-only", grace)
        if phase == "platform locked":
            return Verdict("platform-read-only", grace)
        if phase == "tenant locked":
            return Verdict("tenant-read-only", grace)
    return Verdict("critical-denied" if endpoint.verified == "denied" else "", grace)


def granted(case: Case) -> tuple[str, str]:
    """Role and tier in the tenant asked for."""
    if case.service:
        return "admin", ""
    if case.tenant == LISTED:
        return LISTED_GRANT
    if case.tenant == OUTLET:
        return GROUP_GRANT
    return "owner", case.tier


def context(case: Case, *, grace: bool) -> dict[str, str]:
    """The context headers a request that is let through must carry, and no others."""
    role, tier = granted(case)
    headers = {"x-user-role": role, "x-tenant-id": case.tenant}
    if case.service:
        return headers | {
            "x-user-id": "sales-service",
            "x-user-email": "sales-service@internal",
            "x-user-type": "service",
            "x-service-name": "sales",
            "x-tenant-access-type": "service",
        }
    status = "grace" if grace else SUBSCRIPTIONS[case.subscription][0]
    headers |= {"x-user-type": "access", "x-subscription-tier": tier}
    headers |= {"x-subscription-status": status} if status else {}
    if case.demo:
        session = f"demo_{case.subscription}_{case.tier}"
        visitor = case.caller == "visitor"
        return headers | {
            "x-user-id": session if visitor else "demo-user",
            "x-user-email": f"{session}@demo.internal" if visitor else "user@example.com",
            "x-tenant-access-type": "direct",
            "x-is-demo": "true",
            "x-demo-session-id": session,
            "x-demo-account-type": "individual_bakery",
        }
    headers |= {"x-user-id": "user-1", "x-user-email": "user@example.com"}
    access = {OWN: "direct", LISTED: "listed", OUTLET: "hierarchical"}[case.tenant]
    headers["x-tenant-access-type"] = access
    if case.tenant != LISTED:
        headers["x-can-view-children"] = "true"
    if case.tenant == OUTLET:
        headers["x-parent-tenant-id"] = OWN
    return headers
