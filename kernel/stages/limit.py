"""Rate limit: a request pays before any expensive work is done for it.

One with a token or an API key that this worker has already verified pays from its user's (service's, key's) bucket; every
other one from its address's bucket, before a signature is looked at. When it turns out to be good the address gets it back,
and its user pays: any number of users behind one address have their own limits, and guessing is paid for by the address. A
route with a limit of its own is paid for in a second bucket.

Headers: `RateLimit-Policy` and `RateLimit` (draft-ietf-httpapi-ratelimit-headers-10) name every limit that applied; the
three `X-RateLimit-*` tell the one with the least left, their reset in seconds, as Envoy's do: until the bucket is full again,
or, on a refusal, until there is a token, as `Retry-After` says.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from math import ceil
from typing import Final

from kernel.config import Settings
from kernel.exchange.exchange import Exchange, Stage
from kernel.exchange.phase import Phase
from kernel.http.addresses import address_key
from kernel.http.problems import RATE_LIMIT_UNAVAILABLE, RATE_LIMITED, Problem
from kernel.identity.identity import Identity
from kernel.primitives.api_key import HEADER as API_KEY
from kernel.primitives.memo import keep
from kernel.routing.catalog import Limit, RouteRow
from kernel.state import State
from kernel.store.errors import StoreDown
from kernel.store.limiter import Verdict

NAME: Final = Phase("limit")

_READY = 4096
_NUMBERS = tuple(b"%d" % number for number in range(_READY))
_LEFT = tuple((b"x-ratelimit-remaining", number) for number in _NUMBERS)
_RESET = tuple((b"x-ratelimit-reset", number) for number in _NUMBERS)
_RETRY_SOON = ((b"retry-after", b"1"),)
_MOST_LIMITS = 64


Charge = Callable[[Exchange, str], "Problem | Awaitable[Problem | None] | None"]


def bearer(x: Exchange) -> bytes | None:
    """The token of `Authorization: Bearer`, or None. The scheme's case does not matter (RFC 9110 section 11.1)."""
    value = x.captured.get(b"authorization")
    if value is None:
        return None
    scheme, _, token = value.partition(b" ")
    return token.lstrip(b" ") if scheme.lower() == b"bearer" else None


class Ledger:
    """Charges one named limit and tells the client about it."""

    __slots__ = ("_exceeded", "_hold", "_limit", "_policy", "_prefix", "_take", "limit", "suffix")

    def __init__(self, name: str, limit: Limit, state: State) -> None:
        self.limit = limit
        # For keys that may have several limits, by method or by tier: each is a bucket of its own.
        self.suffix = f":{limit.requests}/{limit.window:g}"
        self._take = state.limiter.take
        self._hold = state.limiter.hold
        self._exceeded = state.metrics.rate_limited
        self._limit = (b"x-ratelimit-limit", b"%d" % limit.requests)
        policy = b'"%b";q=%d;w=%d' % (name.encode(), limit.requests, ceil(limit.window))
        self._policy = (b"ratelimit-policy", policy)
        self._prefix = b'"%b";r=' % name.encode()

    def charge(self, x: Exchange, key: str) -> Problem | Awaitable[Problem | None] | None:
        """Take one token from `key`'s bucket; a problem when there is none."""
        verdict = self._take(key, self.limit)
        return self._tell(x, verdict) if isinstance(verdict, tuple) else self._wait(x, verdict)

    def hold(self, x: Exchange, key: str) -> Problem | Awaitable[Problem | None] | None:
        """The same for what may cost nothing in the end: `x.deposits` is to be settled."""
        verdict = self._hold(key, self.limit)
        if not isinstance(verdict, tuple):
            return self._wait(x, verdict, key)
        if verdict[0]:
            x.deposits = (*x.deposits, key)
        return self._tell(x, verdict)

    async def _wait(self, x: Exchange, pending: Awaitable[Verdict], held: str = "") -> Problem | None:
        try:
            verdict = await pending
        except StoreDown:
            return RATE_LIMIT_UNAVAILABLE("", _RETRY_SOON)
        if held and verdict[0]:
            x.deposits = (*x.deposits, held)
        return self._tell(x, verdict)

    def _tell(self, x: Exchange, verdict: Verdict) -> Problem | None:
        admitted, remaining, reset, retry = verdict
        # PERF: 0.6 us; numbers up to an hour, or four thousand, are ready-made.
        if admitted:
            full = ceil(reset) if reset > 0 else 0
        else:
            # Beside a Retry-After, the reset should name the same moment (the draft).
            full = max(1, ceil(retry))
        left = _LEFT[remaining] if remaining < _READY else (b"x-ratelimit-remaining", b"%d" % remaining)
        until = _RESET[full] if full < _READY else (b"x-ratelimit-reset", b"%d" % full)
        current = b"%b%b;t=%b" % (self._prefix, left[1], until[1])
        told = x.limits
        if told is None:
            x.limits = [self._limit, left, until, self._policy, (b"ratelimit", current)]
        else:
            policy = (b"ratelimit-policy", b"%b, %b" % (told[3][1], self._policy[1]))
            both = (b"ratelimit", b"%b, %b" % (told[4][1], current))
            least = told[:3] if admitted and remaining >= int(told[1][1]) else [self._limit, left, until]
            x.limits = [*least, policy, both]
        if admitted:
            return None
        self._exceeded[x.route.template] += 1
        return RATE_LIMITED("", ((b"retry-after", b"%d" % full),))


def describe(settings: Settings, row: RouteRow) -> str:
    """What the stage demands of a request, in words; empty where it has no part in the route."""
    if row.exempt:
        return ""
    client = Limit(settings.rate_limit_requests, settings.rate_limit_window_seconds)
    text = f"{client.text} of a user or a key, or of an address whose token is not good"
    if settings.service_rate_limit_requests:
        services = Limit(settings.service_rate_limit_requests, settings.rate_limit_window_seconds)
        text += f"; services: {services.text}"
    else:
        text += "; services: no limit"
    return f"{text}; this route: {row.limit.text}" if row.limit else text


class Payers:
    """Who pays for a route's requests: an address, a user or a service, and the same once more for the route's own limit."""

    __slots__ = ("_client", "_keys", "_own", "_own_suffix", "_service", "_settle", "_state")

    def __init__(self, state: State, row: RouteRow) -> None:
        settings = state.settings
        self._state = state
        self._keys: dict[Limit, Ledger] = {}
        window = settings.rate_limit_window_seconds
        self._client = Ledger("client", Limit(requests=settings.rate_limit_requests, window=window), state)
        requests = settings.service_rate_limit_requests
        self._service = (
            Ledger("service", Limit(requests=requests, window=window), state) if requests else None
        )
        self._own = Ledger("route", row.limit, state) if row.limit else None
        self._own_suffix = f":{row.limit_key or row.pattern}{self._own.suffix}" if self._own else ""
        self._settle = state.limiter.settle

    def charge(self, x: Exchange, identity: Identity) -> Problem | Awaitable[Problem | None] | None:
        """Let the identity pay."""
        key = identity.bucket
        ledger = self._client if identity.kind == "access" else self._other(identity)
        outcome = ledger.charge(x, key) if ledger is not None else None
        own = self._own
        if own is None or isinstance(outcome, Problem):
            return outcome
        if outcome is None:
            return own.charge(x, key + self._own_suffix)
        return _both(x, outcome, own.charge, key + self._own_suffix)

    def _other(self, identity: Identity) -> Ledger | None:
        """Of who is no user: a service, or a key, which may have a limit of its own."""
        rights = identity.rights
        if rights is None:
            return self._service
        limit = rights.limit
        if limit is None:
            return self._client
        ledger = self._keys.get(limit)
        return ledger or keep(self._keys, limit, Ledger("client", limit, self._state), _MOST_LIMITS)

    def ask_address(self, x: Exchange, *, held: bool) -> Problem | Awaitable[Problem | None] | None:
        """Let the address pay; `held` until a token is judged."""
        key = address_key(x.client_ip)
        own = self._own
        outcome = self._client.hold(x, key) if held else self._client.charge(x, key)
        if own is None or isinstance(outcome, Problem):
            return outcome
        second = own.hold if held else own.charge
        if outcome is None:
            return second(x, key + self._own_suffix)
        return _both(x, outcome, second, key + self._own_suffix)

    def turn_over(self, x: Exchange, identity: Identity) -> Problem | Awaitable[Problem | None] | None:
        """The token was good: give the address back what it paid, and let the identity pay."""
        for key in x.deposits:
            self._settle(key, back=True)
        x.deposits = ()
        x.limits = None
        return self.charge(x, identity)


async def _both(x: Exchange, first: Awaitable[Problem | None], second: Charge, key: str) -> Problem | None:
    refused = await first
    if refused is not None:
        return refused
    outcome = second(x, key)
    return await outcome if isinstance(outcome, Awaitable) else outcome


def make(state: State, row: RouteRow) -> Stage | None:
    """The stage of every route but the probes."""
    if row.exempt:
        return None
    payers = Payers(state, row)
    charge = payers.charge
    ask_address = payers.ask_address
    cached = state.verifier.cached
    known = state.api_keys.known
    judged = row.identified
    browser = row.browser

    def by_key(x: Exchange) -> Problem | Awaitable[Problem | None] | None:
        # Beside a token it is not even looked at: authentication refuses the two.
        identity = known(x.captured[API_KEY]) if b"authorization" not in x.captured else None
        if identity is None:
            return ask_address(x, held=True)
        x.identity = identity
        return charge(x, identity)

    def limit(x: Exchange) -> Problem | Awaitable[Problem | None] | None:
        captured = x.captured
        # PERF: 0.04 us for who has no key.
        if API_KEY in captured and judged:
            return by_key(x)
        value = captured.get(b"authorization")
        # PERF: the header of a JWT is a JSON object, so its token starts with "e"; all else is looked at in detail (0.05 us).
        if value is not None and value.startswith(b"Bearer e"):
            token: bytes | None = value[7:]
        else:
            token = bearer(x)
        x.token = token
        identity = x.cached_identity = cached(token) if token is not None else None
        if identity is not None:
            return charge(x, identity)
        return ask_address(x, held=judged and (token is not None or (browser and x.ticket is not None)))

    return limit
