"""A request's patience with the store: one for all its questions, until its stages are done."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Any

from kernel.store.wait_budget import WaitBudget, answered

TOTAL = 0.1


def after(seconds: float) -> asyncio.Future[Any]:
    """A reply that comes after so long."""
    loop = asyncio.get_running_loop()
    reply: asyncio.Future[Any] = loop.create_future()
    loop.call_later(seconds, reply.set_result, None)
    return reply


async def test_questions_share_it() -> None:
    WaitBudget()
    assert await answered(after(0.06), TOTAL)
    began = monotonic()
    assert not await answered(after(5), TOTAL)
    assert monotonic() - began < TOTAL  # and not all of it again, slack included
    assert not await answered(after(0.01), TOTAL)
    done = after(0)
    await done
    assert await answered(done, TOTAL)


async def test_time_spent_on_other_things_does_not_count() -> None:
    WaitBudget()
    await asyncio.sleep(2 * TOTAL)
    assert await answered(after(0.01), TOTAL)


async def test_what_comes_after_the_stages_has_its_own() -> None:
    patience = WaitBudget()
    assert not await answered(after(5), TOTAL)
    patience.end()
    assert await answered(after(0.01), TOTAL)


async def test_tasks_of_others_have_their_own() -> None:
    async def request() -> bool:
        WaitBudget()
        return await answered(after(0.06), TOTAL)

    assert all(await asyncio.gather(*(asyncio.create_task(request()) for _ in range(5))))


async def test_a_failure_that_nobody_waits_for_is_not_reported(caplog: Any) -> None:
    reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    assert not await answered(reply, 0.001)
    reply.set_exception(OSError("late"))
    await asyncio.sleep(0)
    del reply
    assert not caplog.records
