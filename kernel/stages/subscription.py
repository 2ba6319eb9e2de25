"""Subscription: what the token's own claims say of status, expiry and tier. No call is made."""

from __future__ import annotations

from time import time

from kernel.catalog import TIERS, RouteRow
from kernel.exchange import Exchange
from kernel.problems import SUBSCRIPTION_EXPIRED, SUBSCRIPTION_REQUIRED, TIER_REQUIRED, Problem
from kernel.route import Stage
from kernel.state import State

USABLE = frozenset({"active", "trialing", "pending_cancellation"})
# Billing holds: everything can be read, nothing written (the read-only stage refuses the writes).
READ_ONLY = frozenset({"past_due", "read_only"})
_RANK = {tier: rank for rank, tier in enumerate(TIERS)}
_DAY = 86_400


def make(state: State, row: RouteRow) -> Stage | None:
    """The stage of every route that needs a token, except those with which a customer can pay."""
    if row.public or row.admin or row.always_writable:
        return None
    grace = state.settings.subscription_grace_days * _DAY
    passing = USABLE | READ_ONLY
    needed = _RANK[row.min_tier] if row.min_tier else -1

    def subscription(x: Exchange) -> Problem | None:
        identity = x.identity
        if identity.kind == "service":
            return None
        status = identity.status
        if status not in passing and (status or x.grant.access == "direct"):
            if not status:
                return SUBSCRIPTION_REQUIRED("The token names no subscription.")
            return SUBSCRIPTION_REQUIRED(f"The subscription is {status}.")
        until = identity.valid_until
        if until is not None:
            over = time() - until
            if over > 0:
                if over > grace:
                    return SUBSCRIPTION_EXPIRED()
                left = int((grace - over) // _DAY)
                x.extra.append((b"x-subscription-status", b"grace"))
                text = b'299 bakery-gateway "Subscription expired; %d days of grace left"' % left
                x.extra.append((b"warning", text))
                x.context = x.grant.encode(identity, "grace")
        if needed >= 0 and _RANK.get(x.grant.tier, -1) < needed:
            return TIER_REQUIRED(f"This needs the {row.min_tier} tier.")
        return None

    return subscription
