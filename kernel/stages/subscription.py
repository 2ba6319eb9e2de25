"""Subscription: what the token's own claims say of status, expiry and tier. No call is made.

- `active`, `trialing`, `pending_cancellation` pass; `past_due` and `read_only` are billing holds: everything can be read,
  nothing written (the read-only stage refuses the writes). Any other status is 402.
- Past `valid_until` the grace period begins: the service is told `x-subscription-status: grace`, so is the client, with a
  `Warning` that says how many days are left. After it, 402.
- Where a customer pays or logs in (`always_writable`) neither counts. A route's minimum tier counts everywhere.
- The status is that of the token's own subscription, in listed tenants and outlets too: nothing else of it is known here. A
  token without any (a guest who only has entries) is judged by the entry's tier alone.
"""

from __future__ import annotations

from time import time
from typing import Final

from kernel.config import Settings
from kernel.exchange.exchange import Exchange, Stage
from kernel.exchange.phase import Phase
from kernel.http.problems import SUBSCRIPTION_EXPIRED, SUBSCRIPTION_REQUIRED, TIER_REQUIRED, Problem
from kernel.identity.identity import Identity, TenantContext
from kernel.routing.catalog import TIERS, RouteRow
from kernel.state import State

NAME: Final = Phase("subscription")

USABLE = frozenset({"active", "trialing", "pending_cancellation"})
READ_ONLY = frozenset({"past_due", "read_only"})
_RANK = {tier: rank for rank, tier in enumerate(TIERS)}
_DAY = 86_400
# Access that rests on the token's own subscription and on nothing else.
_OWN = frozenset({"direct", ""})


def describe(settings: Settings, row: RouteRow) -> str:
    """What the stage demands of a request, in words; empty where it has no part in the route."""
    if not row.identified or row.service_only or (row.always_writable and row.min_tier is None):
        return ""
    parts = []
    if not row.always_writable:
        parts.append(
            f"active or trialing, or expired for less than {settings.subscription_grace_days:g} days"
        )
    if row.min_tier:
        parts.append(f"{row.min_tier} tier or above")
    return "; ".join(parts)


def make(state: State, row: RouteRow) -> Stage | None:
    """The stage of every route that asks a user for anything of this."""
    if not row.identified or row.service_only or (row.always_writable and row.min_tier is None):
        return None
    grace = state.settings.subscription_grace_days * _DAY
    passing = USABLE | READ_ONLY
    needed = _RANK[row.min_tier] if row.min_tier else -1
    lapses = not row.always_writable

    def grant_grace(x: Exchange, identity: Identity, context: TenantContext, left: float) -> None:
        """Let a request pass with `left` seconds of grace, and say so on both sides."""
        x.extra.append((b"x-subscription-status", b"grace"))
        text = b'299 bakery-gateway "Subscription expired; %d days of grace left"' % (left // _DAY)
        x.extra.append((b"warning", text))
        if not context.grace_block:
            context.grace_block = context.encode(identity, "grace")
        x.context = context.grace_block

    def subscription(x: Exchange) -> Problem | None:
        identity, context = x.identity, x.grant
        assert identity is not None
        assert context is not None
        if identity.kind == "service":
            return None
        if lapses:
            status = identity.status
            if status not in passing and (status or context.access in _OWN):
                if not status:
                    return SUBSCRIPTION_REQUIRED("The token names no subscription.")
                return SUBSCRIPTION_REQUIRED(f"The subscription is {status}.")
            until = identity.valid_until
            if until is not None:
                over = time() - until
                if over > 0:
                    if over > grace:
                        return SUBSCRIPTION_EXPIRED()
                    grant_grace(x, identity, context, grace - over)
        if needed >= 0 and _RANK.get(context.tier, -1) < needed:
            return TIER_REQUIRED(f"This needs the {row.min_tier} tier.")
        return None

    return subscription
