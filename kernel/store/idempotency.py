"""Records of idempotency keys: what became of the first request under each.

    claimed     nothing has been sent to a service. Ends by itself after `_CLAIM_MS`
     |
    sent        a service may have it. Under way while its owner renews the lease; after that nobody knows
     |
    done        its answer is kept
    not-kept    it was answered; the answer is not kept
    unknown     a service may have had it, and there was no answer

What follows `sent` is settled and lasts for the time that answers are kept. A record is one key, so that it lies in one node
of a cluster; times are those of the store's clock. Every command bears being executed twice.
"""

from __future__ import annotations

import asyncio
from importlib.resources import files
from typing import Any, Final, Literal

from kernel.store.keys import idempotency
from kernel.store.redis import Script, Store

_CLAIM = Script(files("kernel.store").joinpath("idempotency_claim.lua").read_text())
_SETTLE = Script(files("kernel.store").joinpath("idempotency_settle.lua").read_text())

SENT: Final = "sent"
DONE: Final = "done"
NOT_KEPT: Final = "not-kept"
UNKNOWN: Final = "unknown"
GONE: Final = "gone"
# Verdicts on a claim, beside DONE, NOT_KEPT and UNKNOWN.
OURS: Final = "ours"
UNDER_WAY: Final = "under-way"
MISMATCH: Final = "mismatch"

State = Literal["sent", "done", "not-kept", "unknown", "gone"]

_CLAIM_MS = 2_000
# A worker that is held up for longer than this looks dead, until it renews.
LEASE_SECONDS = 10.0


class Records:
    """`keep`: seconds."""

    def __init__(self, store: Store, keep: float) -> None:
        self._store = store
        self._keep_ms = int(keep * 1000)

    def claim(self, name: str, tag: str, owner: str) -> asyncio.Future[list[bytes]]:
        """The verdict, and what was kept. Raises as `Store.run`, as its future does."""
        return self._store.run(_CLAIM, (idempotency(name),), (tag, owner, _CLAIM_MS))

    def settle(
        self, name: str, state: State, tag: str, owner: str, value: bytes = b"", *, renewal: bool = False
    ) -> asyncio.Future[Any]:
        """1 when the record is in `state` now; 0 when it is another's, or was settled before. Raises as `claim`."""
        lease = int(LEASE_SECONDS * 1000)
        said = b"1" if renewal else value
        return self._store.run(_SETTLE, (idempotency(name),), (state, owner, tag, said, lease, self._keep_ms))
