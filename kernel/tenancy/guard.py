"""StreamGuard: long-lived requests (SSE, WebSocket) stay authorised, or are told within a second that they are not.

The checks are those of the stages: expiry, revocation, freshness and, for streams that write, the locks. Changes of the
deciding keys come from the tracked map. While it may have missed some, every watched key is read twice a second.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from sys import intern
from time import time

from kernel.http.key_problems import API_KEY_EXPIRED, API_KEY_INVALID
from kernel.http.problems import (
    PLATFORM_READ_ONLY,
    TENANT_READ_ONLY,
    TOKEN_EXPIRED,
    TOKEN_REVOKED,
    TOKEN_STALE,
)
from kernel.identity.identity import Identity, TenantContext
from kernel.identity.scopes import Rights
from kernel.store.errors import StoreDown
from kernel.store.keys import API_KEY_PREFIX
from kernel.store.keys import PLATFORM_READ_ONLY as PLATFORM_KEY
from kernel.store.tracked import TrackedMap
from kernel.tenancy.timestamps import Timestamps

_TICK = 0.5
# Keys read from the store at once.
_BATCH = 256

Callback = Callable[[str], None]
# When an API key ends by its record, in Unix seconds; 0.0 when it has ended.
KeyEnd = Callable[[Rights, str | None], float]


class Watch:
    """One stream under guard. `cancel` it when the stream ends by itself."""

    __slots__ = ("_callback", "_cancelled", "_guard", "exp", "iat", "keys", "read_only", "revoked", "rights")

    def __init__(
        self,
        guard: StreamGuard,
        identity: Identity,
        context: TenantContext,
        callback: Callback,
        *,
        locks: bool,
    ) -> None:
        self._guard = guard
        self._callback = callback
        self._cancelled = False
        self.revoked = context.revoked_key
        self.read_only = context.read_only_key
        self.exp = identity.exp
        self.iat = identity.iat
        keys = (*context.freshness_keys, *context.lock_keys) if locks else context.freshness_keys
        self.rights = identity.rights
        if self.rights is not None:
            self.revoked = self.rights.record
            keys = (self.revoked, *keys)
        # PERF: one text for all of a tenant's streams, whoever's they are (0.2 KiB a stream).
        self.keys = tuple(map(intern, keys))

    @property
    def alone(self) -> bool:
        """Whether no other stream that is guarded here has its token."""
        return self._guard.watches(self.revoked) == 1

    def cancel(self) -> None:
        """Guard it no longer: from now on it is told nothing. Harmless when it was told or cancelled before."""
        self._cancelled = True
        self._guard.release(self)

    def tell(self, code: str) -> None:
        """Call back, unless the stream ended by itself in the meantime."""
        if not self._cancelled:
            self._callback(code)


class StreamGuard:
    """One a worker. `clock` gives Unix seconds; nothing runs while nothing is watched."""

    def __init__(
        self,
        tracked: TrackedMap,
        timestamps: Timestamps,
        key_end: KeyEnd,
        *,
        clock: Callable[[], float] = time,
    ) -> None:
        self._tracked = tracked
        self._timestamps = timestamps
        self._key_end = key_end
        self._clock = clock
        self._watches: set[Watch] = set()
        # PERF: of one stream the stream itself: a set takes 216 bytes, and a token is mostly one stream's.
        self._by_key: dict[str, Watch | set[Watch]] = {}
        # Keys that changed, or that a new watch has not been checked against.
        self._due: set[str] = set()
        # Changes may have been missed since the last time all keys were read.
        self._missed = False
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        tracked.on_change(self._changed)

    def __len__(self) -> int:
        return len(self._watches)

    def watch(
        self, identity: Identity, context: TenantContext, callback: Callback, *, locks: bool = False
    ) -> Watch:
        """Call `callback(code)` once, with a problem's code, within a second of the identity's losing its rights.

        codes: token-expired, token-revoked, token-stale, api-key-expired, api-key-invalid; with `locks` (a stream that
        writes) also tenant-read-only and platform-read-only, for which a lock that is already there counts.
        """
        watch = Watch(self, identity, context, callback, locks=locks)
        self._watches.add(watch)
        for key in watch.keys:
            watching = self._by_key.setdefault(key, watch)
            if isinstance(watching, set):
                watching.add(watch)
            elif watching is not watch:
                self._by_key[key] = {watching, watch}
        # A change between the stages and now was told to nobody.
        self._due.update(watch.keys)
        self._wake.set()
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())
        return watch

    def release(self, watch: Watch) -> None:
        """See `Watch.cancel`."""
        self._watches.discard(watch)
        for key in watch.keys:
            watching = self._by_key.get(key)
            if isinstance(watching, set):
                watching.discard(watch)
            if not watching or watching is watch:
                self._by_key.pop(key, None)

    def watches(self, key: str) -> int:
        """How many watch a key."""
        watching = self._by_key.get(key, ())
        return 1 if isinstance(watching, Watch) else len(watching)

    async def close(self) -> None:
        """Guard nothing any more; nobody is told."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def _changed(self, key: str | None) -> None:
        if key is None:
            self._missed = True
        elif key in self._by_key:
            self._due.add(key)
            self._wake.set()

    async def _run(self) -> None:
        while self._watches:
            try:
                async with asyncio.timeout(_TICK):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            if self._missed or not self._tracked.live:
                # Before the reads: what is missed from here on sets it again.
                self._missed = not self._tracked.live
                self._due.update(self._by_key)
            await self._check()
        self._task = None

    def _expire(self) -> None:
        now = self._clock()
        for watch in [watch for watch in self._watches if watch.exp <= now]:
            self._end(watch, TOKEN_EXPIRED.code if watch.rights is None else API_KEY_EXPIRED.code)

    async def _check(self) -> None:
        self._expire()
        due, self._due = list(self._due), set()
        for start in range(0, len(due), _BATCH):
            batch = due[start : start + _BATCH]
            try:
                values = await self._tracked.fetch(batch)
            except StoreDown:
                self._missed = True
                continue
            for key, value in zip(batch, values, strict=True):
                if key.startswith(API_KEY_PREFIX):
                    self._judge_keys(key, value)
                elif value is not None:
                    self._judge(key, value)
            self._expire()

    def _watching(self, key: str) -> list[Watch]:
        watching = self._by_key.get(key, ())
        return [watching] if isinstance(watching, Watch) else list(watching)

    def _judge_keys(self, key: str, value: str | None) -> None:
        """An API key's record has changed: it may have been revoked, or rotated, which is an end to come."""
        for watch in self._watching(key):
            if watch.rights is not None:
                watch.exp = self._key_end(watch.rights, value)
                if not watch.exp:
                    self._end(watch, API_KEY_INVALID.code)

    def _judge(self, key: str, value: str) -> None:
        for watch in self._watching(key):
            if key == PLATFORM_KEY:
                self._end(watch, PLATFORM_READ_ONLY.code)
            elif key == watch.revoked:
                self._end(watch, TOKEN_REVOKED.code)
            elif key == watch.read_only:
                self._end(watch, TENANT_READ_ONLY.code)
            elif watch.iat < self._timestamps.read(key, value):
                self._end(watch, TOKEN_STALE.code)

    def _end(self, watch: Watch, code: str) -> None:
        self.release(watch)
        # Not called here: a callback that raises must not end the guard of all the others.
        asyncio.get_running_loop().call_soon(watch.tell, code)
