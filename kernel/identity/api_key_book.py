"""The book of API keys: made, listed, rotated and revoked, by the handlers and by operators' commands alike.

Each of these is in force with one atomic write of the key's record, which every worker is told of. The index of a tenant's
keys is written before a key is made and after it is gone, so that no key is ever missing in a list; an entry whose key was
never made goes by itself.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from time import time
from typing import NamedTuple

from msgspec.structs import replace

from kernel.http.key_problems import API_KEY_CONFLICT, API_KEY_UNKNOWN, API_KEYS_FULL, API_KEYS_OFF
from kernel.http.problems import STORE_UNAVAILABLE, GatewayError
from kernel.identity.api_key_record import VERSION, Plan, Record, Secret, decode, encode
from kernel.identity.api_keys import EXCHANGE
from kernel.identity.stamp import Stamp
from kernel.primitives.api_key import new_id, new_key
from kernel.routing.catalog import Limit
from kernel.store.errors import StoreError
from kernel.store.keys import API_KEY_PREFIX, api_key, api_key_used, tenant_api_keys
from kernel.store.redis import Script, Store
from kernel.store.scan import scan

OVERLAP = 86_400
MAX_OVERLAP = 7 * 86_400
# That are good at the same time.
MAX_SECRETS = 4
_ATTEMPTS = 5
# An index entry without a record is one that is being made, for so many seconds.
_UNDER_WAY = 60.0
_RETRY_SOON = ((b"retry-after", b"1"),)

# An entry in a tenant's index, unless there are as many as may be.
_RESERVE = Script("""
if redis.call('ZSCORE', KEYS[1], ARGV[1]) then return 1 end
if redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[3]) then return 0 end
redis.call('ZADD', KEYS[1], ARGV[2], ARGV[1])
return 1
""")


class Draft(NamedTuple):
    """What a new key is to be. `lifetime`: seconds."""

    tenant: str
    name: str
    scopes: tuple[str, ...]
    role: str
    plan: Plan
    created_by: str
    tier: str = ""
    limit: Limit | None = None
    lifetime: float | None = None


class Entry(NamedTuple):
    """A key, and when each of its secrets was used last (Unix seconds, by fingerprint)."""

    record: Record
    used: dict[str, float]


class Made(NamedTuple):
    """A key, and its new secret, which is nowhere else."""

    record: Record
    key: str


class ApiKeyBook:
    """The keys in `store`. `most`: keys of a tenant. `clock` gives Unix seconds.

    All methods raise, when awaited, GatewayError: STORE_UNAVAILABLE, API_KEYS_OFF.
    """

    def __init__(
        self, store: Store, stamp: Stamp | None, most: int, *, clock: Callable[[], float] = time
    ) -> None:
        self._store = store
        self._stamp = stamp
        self._most = most
        self._clock = clock

    async def create(self, draft: Draft) -> Made:
        """A new key. Raises GatewayError: API_KEYS_FULL."""
        now = self._clock()
        key_id = new_id()
        key = new_key(key_id)
        record = Record(
            v=VERSION,
            id=key_id,
            tenant=draft.tenant,
            name=draft.name,
            scopes=draft.scopes,
            role=draft.role,
            plan=draft.plan,
            created_at=now,
            created_by=draft.created_by,
            secrets=(Secret(_sha256(key), now),),
            limit=draft.limit,
            expires_at=None if draft.lifetime is None else now + draft.lifetime,
            tier=draft.tier,
        )
        value = encode(record, self._required())
        try:
            if not await self._reserved(record):
                raise GatewayError(
                    API_KEYS_FULL(f"The tenant has {self._most} keys, as many as it may have.")
                )
            if not await self._store.run(EXCHANGE, [api_key(key_id)], ["", value]):
                raise GatewayError(
                    API_KEY_CONFLICT("Try again.")
                )  # one in 200 million million: the id is taken
        except StoreError:
            raise _unavailable() from None
        return Made(record, key)

    async def entries(self, tenant: str) -> list[Entry]:
        """The tenant's keys, the oldest first."""
        stamp = self._required()
        now = self._clock()
        try:
            listed = await self._store.execute("ZRANGE", tenant_api_keys(tenant), 0, -1, "WITHSCORES")
            ids = [(raw.decode(), float(score)) for raw, score in listed]
            stored = await self._all("GET", [api_key(key_id) for key_id, _ in ids])
            records = []
            for (key_id, since), value in zip(ids, stored, strict=True):
                record = decode(key_id, value, stamp)
                if record is not None and record.tenant == tenant:
                    records.append(_current(record, now))
                elif value is None and now - since > _UNDER_WAY:
                    await self._store.execute("ZREM", tenant_api_keys(tenant), key_id)
            return [Entry(record, await self._used(record)) for record in records]
        except StoreError:
            raise _unavailable() from None

    async def entry(self, key_id: str, tenant: str | None) -> Entry:
        """One key; of another tenant than `tenant` it is unknown (None: of any). Raises GatewayError: API_KEY_UNKNOWN."""
        record, _ = await self._record(key_id, tenant)
        try:
            return Entry(_current(record, self._clock()), await self._used(record))
        except StoreError:
            raise _unavailable() from None

    async def rotate(self, key_id: str, tenant: str | None, overlap: float, plan: Plan | None) -> Made:
        """A new secret for a key; the others are good for `overlap` seconds more at most. `plan`: what is known now.

        Raises:
            GatewayError: API_KEY_UNKNOWN, API_KEY_CONFLICT.
        """
        for _ in range(_ATTEMPTS):
            record, stored = await self._record(key_id, tenant)
            now = self._clock()
            record = _current(record, now)
            if record.expires_at is not None and record.expires_at <= now:
                raise GatewayError(API_KEY_CONFLICT("The key has expired: make a new one."))
            end = now + overlap
            older = tuple(
                replace(secret, until=end if secret.until is None else min(secret.until, end))
                for secret in record.secrets
            )
            if not overlap:
                older = ()
            if len(older) >= MAX_SECRETS:
                raise GatewayError(
                    API_KEY_CONFLICT(
                        f"{len(older)} secrets of the key are still good: wait for the first of them to end, or rotate with "
                        "an overlap of 0, which ends them all."
                    )
                )
            key = new_key(key_id)
            changed = replace(
                record,
                secrets=(Secret(_sha256(key), now), *older),
                plan=plan if plan is not None and plan.since > record.plan.since else record.plan,
            )
            value = encode(changed, self._required())
            try:
                if await self._store.run(EXCHANGE, [api_key(key_id)], [stored, value]):
                    return Made(changed, key)
            except StoreError:
                raise _unavailable() from None
        raise GatewayError(API_KEY_CONFLICT("The key is being changed by others: try again."))

    async def revoke(self, key_id: str, tenant: str | None) -> Record:
        """End a key: no secret of it is good any more. Raises GatewayError: API_KEY_UNKNOWN."""
        record, _ = await self._record(key_id, tenant)
        try:
            await self._store.execute("DEL", api_key(key_id))
            await self._store.execute("ZREM", tenant_api_keys(record.tenant), key_id)
        except StoreError:
            raise _unavailable() from None
        return record

    async def everything(self, most: int, seconds: float) -> list[Entry]:
        """The first `most` keys of all tenants, for people: it may take as long as `seconds`."""
        stamp = self._required()
        now = self._clock()
        found = []
        try:
            for name in await scan(self._store, f"{API_KEY_PREFIX}*", most=most, seconds=seconds):
                record = decode(
                    name.removeprefix(API_KEY_PREFIX), await self._store.execute("GET", name), stamp
                )
                if record is not None:
                    record = _current(record, now)
                    found.append(Entry(record, await self._used(record)))
        except StoreError:
            raise _unavailable() from None
        return sorted(found, key=lambda entry: (entry.record.tenant, entry.record.created_at))

    async def reseal(self, most: int, seconds: float) -> tuple[int, int]:
        """Have all records carry the mark of the first secret: how many were changed, and of how many."""
        stamp = self._required()
        changed = 0
        entries = await self.everything(most, seconds)
        for entry in entries:
            record, stored = await self._record(entry.record.id, None)
            value = encode(record, stamp)
            try:
                if value != stored and await self._store.run(EXCHANGE, [api_key(record.id)], [stored, value]):
                    changed += 1
            except StoreError:
                raise _unavailable() from None
        return changed, len(entries)

    def _required(self) -> Stamp:
        if self._stamp is None:
            raise GatewayError(API_KEYS_OFF())
        return self._stamp

    async def _reserved(self, record: Record) -> bool:
        """Whether there is room for one key more; it is in the index then."""
        index = tenant_api_keys(record.tenant)
        entry: tuple[str | int, ...] = (record.id, repr(record.created_at), self._most)
        if await self._store.run(_RESERVE, [index], entry):
            return True
        await self.entries(record.tenant)  # what was never made goes
        return bool(await self._store.run(_RESERVE, [index], entry))

    async def _record(self, key_id: str, tenant: str | None) -> tuple[Record, bytes]:
        stamp = self._required()
        try:
            stored: bytes | None = await self._store.execute("GET", api_key(key_id))
        except StoreError:
            raise _unavailable() from None
        record = decode(key_id, stored, stamp)
        if stored is None or record is None or tenant not in (None, record.tenant):
            raise GatewayError(API_KEY_UNKNOWN())
        return record, stored

    async def _used(self, record: Record) -> dict[str, float]:
        names = [secret.fingerprint for secret in record.secrets]
        values = await self._all("GET", [api_key_used(record.id, name) for name in names])
        return {name: float(value) for name, value in zip(names, values, strict=True) if value is not None}

    async def _all(self, command: str, keys: list[str]) -> list[bytes | None]:
        """The replies to one command for each of `keys`, in one trip. Raises StoreError."""
        replies = [self._store.execute(command, key) for key in keys]
        values: list[bytes | None] = await asyncio.gather(*replies)
        return values


def _current(record: Record, now: float) -> Record:
    """Without the secrets whose time is over; the newest is always there."""
    newest, *older = record.secrets
    return replace(
        record, secrets=(newest, *(each for each in older if each.until is not None and each.until > now))
    )


def _sha256(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def _unavailable() -> GatewayError:
    return GatewayError(STORE_UNAVAILABLE(headers=_RETRY_SOON))
