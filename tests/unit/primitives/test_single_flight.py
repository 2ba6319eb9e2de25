"""Single flight: one piece of work, many callers, any of whom may leave."""

from __future__ import annotations

import asyncio
import gc

import pytest

from kernel.primitives.single_flight import SingleFlight


class Work:
    """Counts its runs and ends when told."""

    def __init__(self, error: Exception | None = None) -> None:
        self.runs = 0
        self.ended = 0
        self.go = asyncio.Event()
        self.error = error

    async def __call__(self) -> int:
        self.runs += 1
        await self.go.wait()
        self.ended += 1
        if self.error is not None:
            raise self.error
        return self.runs


async def test_callers_of_one_key_share_one_run_and_its_result() -> None:
    flight: SingleFlight[str, int] = SingleFlight()
    work, other = Work(), Work()
    callers = [asyncio.ensure_future(flight.run("a", work)) for _ in range(50)]
    stranger = asyncio.ensure_future(flight.run("b", other))
    await asyncio.sleep(0)
    work.go.set()
    other.go.set()
    assert await asyncio.gather(*callers) == [1] * 50
    assert await stranger == 1
    assert (work.runs, other.runs) == (1, 1)


async def test_next_call_after_the_end_runs_again() -> None:
    flight: SingleFlight[str, int] = SingleFlight()
    work = Work()
    work.go.set()
    assert await flight.run("a", work) == 1
    assert await flight.run("a", work) == 2
    assert flight.running("a") is None


async def test_callers_that_leave_take_nothing_from_the_others() -> None:
    flight: SingleFlight[str, int] = SingleFlight()
    work = Work()
    callers = [asyncio.ensure_future(flight.run("a", work)) for _ in range(4)]
    await asyncio.sleep(0)
    callers[0].cancel()
    callers[2].cancel()
    work.go.set()
    results = await asyncio.gather(*callers, return_exceptions=True)
    assert [type(result) for result in results] == [asyncio.CancelledError, int, asyncio.CancelledError, int]


async def test_work_runs_to_its_end_when_every_caller_has_left() -> None:
    reports: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reports.append(context))
    flight: SingleFlight[str, int] = SingleFlight()
    work = Work(error=OSError("nobody is there to see it"))
    caller = asyncio.ensure_future(flight.run("a", work))
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    task = flight.running("a")
    assert task is not None
    work.go.set()
    await asyncio.wait({task})
    assert work.ended == 1
    del task, caller
    gc.collect()
    assert reports == []  # of an exception that was never retrieved


async def test_failure_reaches_every_caller_and_is_not_kept() -> None:
    flight: SingleFlight[str, int] = SingleFlight()
    work = Work(error=OSError("down"))
    callers = [asyncio.ensure_future(flight.run("a", work)) for _ in range(3)]
    await asyncio.sleep(0)
    work.go.set()
    for result in await asyncio.gather(*callers, return_exceptions=True):
        assert isinstance(result, OSError)
    work.error = None
    assert await flight.run("a", work) == 2


async def test_close_ends_what_runs() -> None:
    flight: SingleFlight[str, int] = SingleFlight()
    caller = asyncio.ensure_future(flight.run("a", Work()))
    await asyncio.sleep(0)
    await flight.close()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert flight.running("a") is None
