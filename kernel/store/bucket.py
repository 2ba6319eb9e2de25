"""Bucket: what one worker knows of one token bucket. Plain arithmetic on a clock that is passed in."""

from __future__ import annotations

import asyncio
from math import ceil

from kernel.routing.catalog import Limit
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
        "alone",
        "asked",
        "blocked",
        "capacity",
        "charged",
        "due",
        "epoch",
        "flight",
        "granted",
        "guess",
        "guessed",
        "held",
        "holding",
        "key",
        "left",
        "limit",
        "low",
        "number",
        "pace",
        "per_token",
        "queued",
        "reported",
        "rest",
        "retry",
        "returned",
        "seen",
        "share",
        "shared",
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
        # --- the lease: totals since this object was made, and what there is of it now ---
        self.granted = 0
        self.returned = 0
        self.reported = 0  # of those used: what the store knows
        self.left = 0
        self.held = 0  # taken, but to be given back perhaps: to the store they are not used yet
        self.until = 0.0
        # --- the last reply: when it came (0.0: none yet), the store's tokens, and `left` just after it ---
        self.told = 0.0
        self.rest = 0
        self.stock = 0
        self.pace = 0.0  # tokens a second, before it came
        self.blocked = 0.0  # refuse without asking until then
        self.retry = 0.0  # when the next token comes
        self.epoch = epoch  # of the store's connection that it came by
        # --- the renewal ---
        self.low = -1  # renew in the background when `left` falls to this
        self.flight: asyncio.Future[None] | None = None
        self.waiting = 0
        self.holding = 0  # how many of those wait for a token to hold
        self.seen = now  # the last token was taken
        self.asked = now  # the last request came that found none
        self.queued = False
        self.due = 0.0
        # --- alone: without the store, this worker's share of the limit, and what it believes of the whole ---
        self.alone = False  # whether requests were admitted of which the store does not know
        self.share: float | None = None  # charged with all that this worker admits; None: not yet needed
        self.shared = now  # when it was reckoned, ...
        self.charged = 0  # ... and how many uses of leases have been charged to it
        self.guess = float(limit.requests)
        self.guessed = now

    @property
    def used(self) -> int:
        """How many tokens of leases requests have used for good, since this object was made."""
        return self.granted - self.returned - self.left - self.held

    @property
    def touched(self) -> float:
        """When the last request came."""
        return max(self.seen, self.asked)

    def estimate(self, now: float) -> float:
        """The tokens there should be in the store, by what this worker knows."""
        return min(self.capacity, self.guess + (now - self.guessed) / self.per_token)

    def keep(self, fleet: int) -> int:
        """How many tokens this worker may hold although they are not used."""
        return min(int(self.capacity * _KEEP_PART / fleet), _KEEP_MOST)

    def wanted(self, now: float, fleet: int) -> int:
        """How many tokens to ask for: a second's worth at the present pace, and one for each who waits."""
        spent = self.stock - self.left
        self.pace = spent / max(now - self.told, 0.1) if self.told else 0.0
        held = self.left if now < self.until else 0
        return max(self.waiting, ceil(self.pace), 1, self.keep(fleet) + (self.waiting > 0)) - held

    def land(
        self, granted: int, rest: int, wait: float, now: float, until: float, fleet: int, gone: int = 0
    ) -> None:
        """Take in the store's reply: totals, its tokens, seconds until it has one, and when the lease ends here.

        `gone`: how many tokens count as used there that nobody here will use.
        """
        self._reckon(now, fleet)
        self.left = max(0, self.left + granted - self.granted - gone)
        self.granted = granted
        self.charged = self.used
        self.rest = rest
        self.guess = float(rest)
        self.guessed = now
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
        low = self.stock // 2
        if self.far and self.pace < 1.0:
            low = 0  # one that comes now and then: with its last token is soon enough
        self.low = low if early and not wait else -1

    @property
    def far(self) -> bool:
        """Whether the client is far from its limit, by the last reply."""
        return self.rest * 2 >= self.capacity

    def refuse(self, now: float) -> Verdict:
        """The verdict while the bucket is known to be empty."""
        # Rounded: a stray 1e-9 would become a whole second in a header.
        retry = max(round(self.retry - now, 6), 0.0)
        return False, 0, max(self.told + self.capacity * self.per_token - now, retry), retry

    def take_alone(self, now: float, fleet: int) -> Verdict:
        """A token of this worker's share: the limit divided by the live workers, less what it has admitted itself, and
        at first no more than its part of what the store had left at last."""
        share = self._reckon(now, fleet)
        guess = self.estimate(now)
        if not self.alone:
            self.alone = True
            share = min(share, guess / fleet)
        admitted = share >= 1
        if admitted:
            share -= 1
            guess = max(0.0, guess - fleet)  # the others are taken to admit as much
        self.share = share
        self.guess = guess
        self.guessed = now
        pace = self.per_token * fleet
        reset = (self.capacity / fleet - share) * pace
        return admitted, int(share), max(reset, 0.0), 0.0 if admitted else (1 - share) * pace

    def give_alone(self, fleet: int) -> None:
        """Put a token back that `take_alone` gave."""
        if self.share is not None:
            self.share += 1
            self.guess += fleet

    def _reckon(self, now: float, fleet: int) -> float:
        """This worker's share now: refilled, and charged with the lease's use since it was last reckoned."""
        used = self.used
        share = self.capacity / fleet if self.share is None else self.share
        # A share below one token may grow to one, or a small limit would admit nothing at all.
        share = min(max(self.capacity / fleet, 1.0), share + (now - self.shared) / (self.per_token * fleet))
        self.share = max(0.0, share - used + self.charged)
        self.shared = now
        self.charged = used
        return self.share
