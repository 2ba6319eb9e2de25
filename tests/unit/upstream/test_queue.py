"""The queue for a connection, by itself: who gets what, and what becomes of those who give up."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernel.exchange.asgi import Message
from kernel.http.problems import UPSTREAM_BUSY, ClientGone, GatewayError
from kernel.upstream.queue import Given, Queue


class Client:
    """What the queue needs of an Exchange."""

    body_done = True
    disconnected = False

    def __init__(self) -> None:
        self.leaves = asyncio.Event()
        self.watchers = 0

    async def receive(self) -> Message:
        self.watchers += 1
        await self.leaves.wait()
        return {"type": "http.disconnect"}


def queue(most: int = 10, patience: float = 5.0) -> tuple[Queue, list[Given]]:
    handed_on: list[Given] = []
    return Queue(asyncio.get_running_loop(), most, patience, handed_on.append), handed_on


def enter(q: Queue, x: Any = None, now: float = 0.0) -> asyncio.Task[Given]:
    return asyncio.get_running_loop().create_task(q.wait(x, now))


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_slot_given_in_the_moment_of_giving_up_is_handed_on() -> None:
    q, handed_on = queue()
    waiting = enter(q)
    await settle()
    assert q.give(None)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert handed_on == [None]
    assert len(q) == 0


async def test_deadlines_are_kept_by_the_sweep_and_only_by_it() -> None:
    q, _ = queue(patience=5.0)
    early, late = enter(q, now=0.0), enter(q, now=3.0)
    await settle()
    q.sweep(4.9)
    await settle()
    assert len(q) == 2
    q.sweep(5.0)
    with pytest.raises(GatewayError) as refused:
        await early
    assert refused.value.problem.kind is UPSTREAM_BUSY
    assert not late.done()
    assert q.give(None)
    assert await late is None


async def test_only_who_waits_long_is_watched() -> None:
    q, _ = queue()
    client = Client()
    waiting = enter(q, client, now=10.0)
    await settle()
    q.sweep(10.1)
    await settle()
    assert client.watchers == 0
    q.sweep(10.4)
    await settle()
    assert client.watchers == 1
    client.leaves.set()
    with pytest.raises(ClientGone):
        await waiting
    assert len(q) == 0
    assert not q.give(None)


async def test_those_who_gave_up_make_room_at_once() -> None:
    q, _ = queue(most=2)
    first, second = enter(q), enter(q)
    await settle()
    with pytest.raises(GatewayError):
        await q.wait(None, 0.0)
    first.cancel()
    await settle()
    third = enter(q)
    await settle()
    assert q.give(None)
    assert q.give(None)
    await settle()
    assert (second.done(), third.done()) == (True, True)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(["enter", "give", "leave", "tick"]), max_size=40), st.randoms())
def test_it_is_a_bounded_queue_whatever_happens(steps: list[str], draw: Any) -> None:
    async def run() -> None:
        q, handed_on = queue(most=4, patience=1.0)
        now = 0.0
        waiting: list[asyncio.Task[Given]] = []
        for step in steps:
            live = [task for task in waiting if not task.done()]
            if step == "enter":
                waiting.append(enter(q, now=now))
            elif step == "give":
                assert q.give(None) == bool(live)
                await settle()
                assert not live or live[0].done(), "not the first of them"
            elif step == "leave" and live:
                draw.choice(live).cancel()
            elif step == "tick":
                now += 0.4
                q.sweep(now)
            await settle()
            live = [task for task in waiting if not task.done()]
            assert len(q) == len(live) <= 4
        assert handed_on == []
        q.close()
        await asyncio.gather(*waiting, return_exceptions=True)
        assert len(q) == 0

    asyncio.run(run())
