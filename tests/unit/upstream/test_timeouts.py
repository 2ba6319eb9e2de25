"""A limit ends what it is around, and nothing else."""

from __future__ import annotations

import asyncio

import pytest

from kernel.upstream.timeouts import Timeouts


async def limited(patience: Timeouts, seconds: float, inner: asyncio.Future[str]) -> str:
    with patience.limit(10.0, seconds):
        return await inner


async def begin(patience: Timeouts, seconds: float) -> tuple[asyncio.Task[str], asyncio.Future[str]]:
    inner: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    task = asyncio.get_running_loop().create_task(limited(patience, seconds, inner))
    await asyncio.sleep(0)
    return task, inner


async def test_what_lasts_too_long_is_a_timeout_and_what_does_not_is_left_alone() -> None:
    patience = Timeouts()
    (short, _), (long, inner) = await begin(patience, 1.0), await begin(patience, 2.0)
    patience.sweep(10.99)
    await asyncio.sleep(0)
    assert not short.done()
    patience.sweep(11.0)
    with pytest.raises(TimeoutError):
        await short
    assert short.cancelling() == 0
    inner.set_result("came")
    assert await long == "came"
    patience.sweep(99.0)  # nobody waits any more


async def test_a_cancellation_from_elsewhere_stays_one() -> None:
    patience = Timeouts()
    task, _ = await begin(patience, 1.0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    task, _ = await begin(patience, 1.0)
    patience.sweep(11.0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_limits_may_lie_within_each_other() -> None:
    patience = Timeouts()
    told: list[str] = []

    async def inner() -> None:
        with patience.limit(10.0, 1.0):
            await asyncio.Event().wait()

    async def both() -> None:
        try:
            with patience.limit(10.0, 5.0):
                with pytest.raises(TimeoutError):
                    await inner()
                told.append("inner")
                await asyncio.Event().wait()
        except TimeoutError:
            told.append("outer")

    task = asyncio.get_running_loop().create_task(both())
    for moment in (11.0, 15.0):
        await asyncio.sleep(0)
        patience.sweep(moment)
        await asyncio.sleep(0)
    await task
    assert told == ["inner", "outer"]
