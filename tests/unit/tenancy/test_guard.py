"""What the guard makes of a tracked map that comes back to life at an awkward moment."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from kernel.identity.access import decide
from kernel.identity.claims import Claims
from kernel.identity.identity import TenantContext, access_identity
from kernel.tenancy.guard import StreamGuard
from kernel.tenancy.timestamps import Timestamps
from tests.support.store import until


class Tracked:
    """A map that a test brings to life; `reply` is what a read that has begun will find."""

    def __init__(self) -> None:
        self.live = False
        self.reads = 0
        self.value: str | None = None
        self.reply: asyncio.Future[str | None] | None = None

    def on_change(self, listener: Any) -> None:
        """Nothing is ever announced."""

    async def fetch(self, keys: tuple[str, ...]) -> list[str | None]:
        self.reads += 1
        return [self.value if self.reply is None else await self.reply for _ in keys]


async def test_a_change_while_the_map_came_back_is_not_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kernel.tenancy.guard._TICK", 0.01)
    tracked = Tracked()
    tracked.reply = asyncio.get_running_loop().create_future()
    guard = StreamGuard(tracked, Timestamps(), lambda rights, stored: 0.0)  # type: ignore[arg-type]
    claims = Claims(exp=time.time() + 600, iat=1, iss="i", jti="j")
    identity = access_identity(claims, "u", "key")
    context = decide(identity, None)
    assert isinstance(context, TenantContext)
    told: list[str] = []
    guard.watch(identity, context, told.append)
    await until(lambda: tracked.reads > 0)
    # The read finds nothing; the key is set before the map is live, hence announced to nobody.
    tracked.reply.set_result(None)
    tracked.reply, tracked.value, tracked.live = None, "1", True
    await until(lambda: told == ["token-revoked"])
    await guard.close()


async def test_streams_of_one_token_are_counted_and_told_together() -> None:
    tracked = Tracked()
    tracked.live = True
    guard = StreamGuard(tracked, Timestamps(), lambda rights, stored: 0.0)  # type: ignore[arg-type]
    identity = access_identity(Claims(exp=time.time() + 600, iat=1, iss="i", jti="j"), "u", "key")
    context = decide(identity, None)
    assert isinstance(context, TenantContext)
    told: list[str] = []
    watches = [guard.watch(identity, context, told.append) for _ in range(3)]
    assert [watch.alone for watch in watches] == [False] * 3
    watches.pop().cancel()
    watches.pop().cancel()
    assert [watch.alone for watch in watches] == [True]
    watches.append(guard.watch(identity, context, told.append))
    tracked.value = "1"
    guard._changed(context.revoked_key)
    await until(lambda: told == ["token-revoked"] * 2)
    assert guard._by_key == {}
    await guard.close()
