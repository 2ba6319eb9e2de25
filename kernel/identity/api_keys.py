"""API keys: from the bytes of X-API-Key to an identity, in the worker's memory.

1. form and checksum: what is no key goes no further,
2. the worker's own memory of what a key proves: a hash and a dict hit, as long as no tracked key of the store has changed,
3. its record, from the tracked map: the store's announcement of a change is what revokes a key, in every worker at once,
4. the record judged: the stamp, the digest of the secret, the end.

A record also says what the tenant's subscription was. Nobody can issue a key anew as a token is, so when the subscription
has changed since, or seems to be over, the tenant service is asked and the record set right, once for all workers.

Without the store a key is refused (503), but for one that this worker found good not longer than `GRACE` seconds ago, where
RATE_LIMIT_FAIL_MODE is `open`. Never is one let in that was not.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import defaultdict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from math import inf
from time import time
from typing import Any

from msgspec.structs import replace

from kernel.http.key_problems import API_KEY_EXPIRED, API_KEY_INVALID, API_KEY_MALFORMED, API_KEYS_OFF
from kernel.http.problems import STORE_UNAVAILABLE, TOKEN_STALE, GatewayError
from kernel.identity.api_key_record import Plan, Record, Secret, decode, encode, identity
from kernel.identity.api_key_uses import Uses
from kernel.identity.errors import TokenError
from kernel.identity.identity import Identity
from kernel.identity.scopes import Rights
from kernel.identity.stamp import Stamp
from kernel.primitives.api_key import id_of
from kernel.primitives.memo import keep
from kernel.primitives.single_flight import SingleFlight
from kernel.store.errors import StoreDown, StoreError
from kernel.store.keys import API_KEY_PREFIX, api_key, subscription_changed_at
from kernel.store.redis import Script, Store
from kernel.store.tracked import TrackedMap, Values

# Seconds that a key found good goes on without the store.
GRACE = 300.0
# The most keys a worker remembers.
_MOST = 8192
# A subscription that seems to be over is asked for again after so many seconds.
_OVER_SECONDS = 60.0
_RETRY_SOON = ((b"retry-after", b"1"),)
# While a record that was written is announced: so often, after so many seconds each.
_LOOKS = 20
_PAUSE = 0.005

# Writes ARGV[2] if what is there is ARGV[1] ("": nothing). Executed twice, it says the same.
EXCHANGE = Script("""
local there = redis.call('GET', KEYS[1])
if there == ARGV[2] then return 1 end
if (there or '') ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2])
return 1
""")

# Of a tenant: its subscription now, None when the tenant service knows of none. Raises GatewayError.
AskPlan = Callable[[str], Awaitable[Plan | None]]
# What a value of `subscription_changed_at` says, in Unix seconds.
ReadMoment = Callable[[str, str], float]


class _Held:
    """What a worker remembers of one secret of a key.

    `stored` is the record it was judged by; `generation` that of the tracked map in which the record was still that;
    `confirmed` and `noted` (Unix seconds) are when it was found good last, and when its use was noted last.
    """

    __slots__ = (
        "confirmed",
        "fingerprint",
        "generation",
        "identity",
        "key_id",
        "keys",
        "noted",
        "since",
        "stored",
        "until",
    )

    def __init__(self, record: Record, secret: Secret, stored: str, now: float) -> None:
        self.identity = identity(record, secret)
        self.key_id = record.id
        self.fingerprint = secret.fingerprint
        self.stored = stored
        self.keys = (api_key(record.id), subscription_changed_at(record.tenant))
        # Of the plan.
        self.since = record.plan.since
        until = record.plan.valid_until
        self.until = inf if until is None else max(until, self.since + _OVER_SECONDS)
        self.generation = -1
        self.confirmed = now
        self.noted = 0.0


class ApiKeys:
    """One a worker; `start` it in the loop that uses it. Without a `stamp` there are no keys. `clock` gives Unix seconds."""

    def __init__(
        self,
        store: Store,
        tracked: TrackedMap,
        stamp: Stamp | None,
        ask_plan: AskPlan,
        read_moment: ReadMoment,
        *,
        fail_open: bool,
        clock: Callable[[], float] = time,
    ) -> None:
        self._store = store
        self._tracked = tracked
        self._stamp = stamp
        self._ask_plan = ask_plan
        self._read_moment = read_moment
        self._fail_open = fail_open
        self._clock = clock
        # By the SHA-256 of the whole key. SECURITY: the key itself is kept nowhere.
        self._held: dict[bytes, _Held] = {}
        self._flights: SingleFlight[str, None] = SingleFlight()
        self._uses = Uses(store)
        self._counts: defaultdict[str, int] = defaultdict(int)

    def start(self) -> None:
        """Begin to write down when keys are used."""
        self._uses.start()

    async def close(self) -> None:
        """End what is under way."""
        await self._uses.close()
        await self._flights.close()

    def families(self) -> dict[str, Any]:
        """For metrics."""
        return {"gateway_api_keys_total": dict(self._counts), "gateway_api_keys_known": len(self._held)}

    def known(self, given: bytes) -> Identity | None:
        """Whose key `given` is, if that can be told at once."""
        # PERF: 0.5 us; a hash of 41 bytes and two dict hits, and two more after any tracked key has changed.
        held = self._held.get(hashlib.sha256(given).digest())
        if held is None:
            return None
        now = self._clock()
        generation = self._tracked.generation
        if held.generation != generation:
            values = self._tracked.peek(held.keys)
            if values is None or values[0] != held.stored or self._outdated(held, values):
                return None
            held.generation = generation
        if held.identity.exp <= now or held.until <= now:
            return None
        return self._good(held, now)

    async def recognise(self, given: bytes) -> Identity:
        """Whose key `given` is that `known` does not know.

        Raises:
            TokenError: API_KEY_MALFORMED, API_KEY_INVALID, API_KEY_EXPIRED; TOKEN_STALE when nobody can say what the
                tenant's subscription is now.
            GatewayError: STORE_UNAVAILABLE, TENANT_UNAVAILABLE, API_KEYS_OFF.
        """
        key_id = id_of(given)
        try:
            if key_id is None:
                raise TokenError(API_KEY_MALFORMED)
            if self._stamp is None:
                raise GatewayError(API_KEYS_OFF())
            digest = hashlib.sha256(given)
            try:
                return await self._judged(key_id, digest.digest(), digest.hexdigest(), self._stamp)
            except StoreDown:
                return self._without_store(digest.digest())
        except GatewayError as error:
            self._counts[error.problem.kind.code] += 1
            raise

    def end(self, rights: Rights, stored: str | None) -> float:
        """When the secret of `rights` ends by its record as it is now, in Unix seconds; 0.0: it has been taken away."""
        key_id = rights.record.removeprefix(API_KEY_PREFIX)
        record = decode(key_id, stored.encode(), self._stamp) if stored and self._stamp is not None else None
        secret = record.secret(rights.secret) if record is not None else None
        if record is None or secret is None:
            return 0.0
        end = record.end(secret)
        return inf if end is None else end

    async def _judged(self, key_id: str, digest: bytes, sha256: str, stamp: Stamp) -> Identity:
        name = api_key(key_id)
        renewed = False
        while True:
            (stored,) = await self._tracked.fetch((name,))
            record = decode(key_id, stored.encode(), stamp) if stored is not None else None
            secret = record.secret(sha256) if record is not None else None
            if stored is None or record is None or secret is None:
                self._held.pop(digest, None)
                raise TokenError(API_KEY_INVALID)
            now = self._clock()
            held = self._held.get(digest)
            if held is None or held.stored != stored:
                held = _Held(record, secret, stored, now)
            if held.identity.exp <= now:
                self._held.pop(digest, None)
                raise TokenError(API_KEY_EXPIRED)
            values = await self._tracked.fetch(held.keys)
            if values[0] != stored:
                continue
            outdated = self._outdated(held, values)
            if renewed or not (outdated or held.until <= now):
                break
            try:
                await self._flights.run(key_id, partial(self._renew, record, stored, stamp))
            except GatewayError:
                if outdated:
                    raise
                # Only time has passed: what is known of the subscription is judged, as a token's is.
                held.until = now + _OVER_SECONDS
                break
            renewed = True
        keep(self._held, digest, held, _MOST)
        self._counts["verified"] += 1
        fresh = encode(record, stamp)
        if fresh != stored.encode():
            # The mark of a secret that is on its way out: the key must outlive it.
            self._flights.start(key_id, partial(self._replace, key_id, stored, fresh))
        return self._good(held, now)

    def _outdated(self, held: _Held, values: Values) -> bool:
        changed = values[1]
        return changed is not None and held.since < self._read_moment(held.keys[1], changed)

    def _good(self, held: _Held, now: float) -> Identity:
        held.confirmed = now
        if now - held.noted >= Uses.INTERVAL:
            held.noted = now
            self._uses.note(held.key_id, held.fingerprint, now)
        return held.identity

    def _without_store(self, digest: bytes) -> Identity:
        """Raises GatewayError: STORE_UNAVAILABLE."""
        held = self._held.get(digest)
        now = self._clock()
        # A clock that was set back does not make it last longer.
        if (
            held is None
            or not self._fail_open
            or not 0 <= now - held.confirmed <= GRACE
            or held.identity.exp <= now
        ):
            raise GatewayError(STORE_UNAVAILABLE("The API key cannot be verified now.", _RETRY_SOON))
        self._counts["unchecked"] += 1
        return held.identity

    async def _renew(self, record: Record, stored: str, stamp: Stamp) -> None:
        """Have the record say what the tenant's subscription is now. Raises TokenError: TOKEN_STALE; GatewayError."""
        plan = await self._ask_plan(record.tenant)
        if plan is None:
            raise TokenError(
                TOKEN_STALE, "The subscription has changed, and the tenant service does not say to what."
            )
        self._counts["renewed"] += 1
        renewed = encode(replace(record, plan=plan), stamp)
        await self._replace(record.id, stored, renewed)
        # The announcement comes on another connection than the reply; what is looked at before it is the old record.
        for _ in range(_LOOKS):
            if self._tracked.peek((api_key(record.id),)) != [stored]:
                break
            await asyncio.sleep(_PAUSE)

    async def _replace(self, key_id: str, stored: str, value: bytes) -> None:
        # Who was faster, whoever it was, has left what is looked at next.
        with suppress(StoreError):
            await self._store.run(EXCHANGE, [api_key(key_id)], [stored, value])
