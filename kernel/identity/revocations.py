"""Revocations: tokens that every worker refuses at once, although their signature is good (RFC 7009's purpose).

SECURITY: this worker refuses them before the store is even asked, and as long as that cannot be told: whoever logs out on a
stranger's machine while the store is down is logged out, where the balancer keeps to a worker. The other workers learn of it
with the store.
"""

from __future__ import annotations

from asyncio import Future
from collections.abc import Callable
from functools import partial
from math import ceil
from time import time
from typing import Any

from kernel.store.errors import StoreError
from kernel.store.keys import token_revoked
from kernel.store.redis import Store
from kernel.store.tracked import TrackedMap

_MAX_WAITING = 4096
_LONGEST = 10**9
_MARK = "logout"


class Revocations:
    """One a worker. `clock` gives Unix seconds. What the store cannot take now, it gets when it is back."""

    def __init__(self, store: Store, tracked: TrackedMap, *, clock: Callable[[], float] = time) -> None:
        self._store = store
        self._tracked = tracked
        self._clock = clock
        # `jti` -> `exp` of tokens whose revocation the store does not know yet.
        self._waiting: dict[str, float] = {}
        self._delayed = 0
        store.on_connect(self._write_again)

    async def revoke(self, jti: str, exp: float) -> bool:
        """Refuse the token `jti` for what is left of its life. False: the store is down, and the mark waits for it."""
        self._tracked.pin(token_revoked(jti), _MARK)
        # Whoever is cut off while it is written leaves it to the next connection.
        if len(self._waiting) >= _MAX_WAITING:
            self._told(next(iter(self._waiting)))
        self._waiting[jti] = exp
        try:
            reply = self._write(jti, exp)
            if reply is not None:
                await reply
        except StoreError:
            self._delayed += 1
            return False
        self._told(jti)
        return True

    def families(self) -> dict[str, int]:
        """For metrics."""
        return {
            "gateway_revocations_delayed_total": self._delayed,
            "gateway_revocations_waiting": len(self._waiting),
        }

    def _write(self, jti: str, exp: float) -> Future[Any] | None:
        """The command's reply; None when the token has expired by itself."""
        left = exp - self._clock()
        if left <= 0:
            return None
        # A second more than its life: clocks differ, and the key costs little. A store refuses what overflows its clock.
        seconds = min(ceil(left) + 1, _LONGEST)
        return self._store.execute("SET", token_revoked(jti), _MARK, "EX", seconds)

    def _write_again(self, _after_outage: bool) -> None:
        for jti, exp in list(self._waiting.items()):
            reply = self._write(jti, exp)
            if reply is None:
                self._told(jti)
            else:
                reply.add_done_callback(partial(self._written, jti))

    def _written(self, jti: str, reply: Future[Any]) -> None:
        if not reply.cancelled() and reply.exception() is None:
            self._told(jti)

    def _told(self, jti: str) -> None:
        """The store knows it, or nobody needs to."""
        self._waiting.pop(jti, None)
        self._tracked.unpin(token_revoked(jti))
