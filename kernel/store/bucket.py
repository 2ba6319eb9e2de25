"""Bucket: what one worker knows of one token bucket. Plain arithmetic on a clock that is passed in."""

from __future__ import annotations

import asyncio
from math import ceil

from kernel.catalog import Limit
from kernel.store.keys import rate_limit

# (admitted, remaining requests, seconds until the bucket is full, seconds until the next token if refused else 0.0)
Verdict = tuple[bool, int, float, float]

# A worker may keep this part of a bucket for a client that comes now and then, shared among the workers, ...
_KEEP_PART = 0.03
# ... but not more than this.
_KEEP_MOST = 100
# A refused client's next question to the store: the next token's time is known, but leases may come back before.
_ASK_AGAIN = 0.5


class Bucket:
    """A lease on a shared bucket (`left` tokens until `until`), and the share to live on while there is no store."""

    __slots__ = (
        "blocked",
        "capacity",
        "due",
        "epoch",
        "flight",
        "granted",
        "key",
        "left",
        "level",
        "limit",
        "low",
        "number",
        "per_token",
        "queued",
        "rest",
        "retry",
        "returned",
        "seen",
        "stamp",
        "stock",
        "told",
        "until",
        "waiting",
        "window",
    )

    def __init__(self, key: str, limit: Limit, number: int, now: float, epoch: int) -> None:
        # --- for life ---
        self.key = rate_limit(key, limit.requests, limit.window)
        self.limit = limit
        self.capacity = limit.requests
        self.per_token = limit.window / limit.requests
        self.window = int(limit.window * 1e6)
        self.number = number  # tells its leases from those of an earlier object for the same key
        # --- the lease: totals since this object was made; used = granted - returned - left ---
        self.granted = 0
        self.returned = 0
        self.left = 0
        self.until = 0.0
        # --- the last reply: when it came (0.0: none yet), the store's tokens, and `left` just after it ---
        self.told = 0.0
        self.rest = 0
        self.stock = 0
        self.blocked = 0.0  # refuse without asking until then
        self.retry = 0.0  # when the next token comes
        self.epoch = epoch  # of the store's connection that it came by
        # --- the renewal ---
        self.low = -1  # renew in the background when `left` falls to this
        self.flight: asyncio.Future[None] | None = None
        self.waiting = 0
        self.seen = now
        self.queued = False
        self.due = 0.0
        # --- alone: this worker's own bucket while the store is out of reach; None: not in use ---
        self.level: float | None = None
        self.stamp = 0.0

    def estimate(self, now: float, fleet: int) -> float:
        """The tokens there should be in the store, by what this worker knows."""
        if self.level is not None:
            return self._refilled(now, fleet) * fleet
        if not self.told:
            return self.capacity
        return min(self.capacity, self.rest + (now - self.told) / self.per_token)

    def keep(self, fleet: int) -> int:
        """How many tokens this worker may hold although they are not used."""
        return min(int(self.capacity * _KEEP_PART / fleet), _KEEP_MOST)

    def wanted(self, now: float, fleet: int) -> int:
        """How many tokens to ask for: a second's worth at the present pace, and one for each who waits."""
        spent = self.stock - self.left
        pace = spent / max(now - self.told, 0.1) if self.told else 0
        return max(self.waiting, ceil(pace), self.keep(fleet), 1) - self.left

    def land(self, granted: int, rest: int, wait: float, now: float, until: float) -> None:
        """Take in the store's reply: totals, its tokens, seconds until it has one, and when the lease ends here."""
        self.left = max(0, self.left + granted - self.granted)
        self.granted = granted
        self.rest = rest
        self.told = now
        self.until = until
        self.stock = self.left
        if wait:
            self.retry = now + wait
            self.blocked = min(self.retry, now + _ASK_AGAIN)
        else:
            self.blocked = 0.0
        # Renewing early keeps a client from waiting; of a nearly empty bucket it would take what others need.
        early = self.stock >= 4 or (self.stock >= 2 and self.far)
        self.low = self.stock // 2 if early and not wait else -1

    @property
    def far(self) -> bool:
        """Whether the client is far from its limit, by the last reply."""
        return self.rest * 2 >= self.capacity

    def refuse(self, now: float) -> Verdict:
        """The verdict while the bucket is known to be empty."""
        retry = max(
            round(self.retry - now, 6), 0.0
        )  # a stray 1e-9 would round up to a whole second in a header
        return False, 0, max(self.told + self.capacity * self.per_token - now, retry), retry

    def take_alone(self, now: float, fleet: int) -> Verdict:
        """A token of this worker's share: the limit divided by the live workers, or of what was left at last."""
        level = self._refilled(now, fleet)
        admitted = level >= 1
        if admitted:
            level -= 1
        self.level = level
        self.stamp = now
        pace = self.per_token * fleet
        reset = (self.capacity / fleet - level) * pace
        return admitted, int(level), max(reset, 0.0), 0.0 if admitted else (1 - level) * pace

    def _refilled(self, now: float, fleet: int) -> float:
        if self.level is None:
            return self.estimate(now, fleet) / fleet
        # A share below one token may grow to one, or a small limit would admit nothing at all.
        share = max(self.capacity / fleet, 1.0)
        return max(self.level, min(share, self.level + (now - self.stamp) / (self.per_token * fleet)))
