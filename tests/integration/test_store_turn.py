"""The turn in the store: one at a time, with a pause after each, over all who share the store."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from time import monotonic

import pytest
import redis

from kernel.server.embedded_store import EmbeddedStore
from kernel.store.errors import StoreError
from kernel.store.pacing import Pacing, Place
from kernel.store.redis import Store

KEY = "test:turn"


@pytest.fixture
async def store(store_server: EmbeddedStore) -> AsyncIterator[Store]:
    store = Store(store_server.url)
    await store.start()
    yield store
    await store.close()


async def obtain(turn: Pacing, who: str) -> None:
    while not (place := await turn.take(who)).mine:
        await asyncio.sleep(min(place.seconds, 0.01) if place.held else place.seconds)


async def test_nobody_begins_before_the_pause_after_the_last_one_is_over(store: Store) -> None:
    turns = [Pacing(store, KEY, pause=0.05, longest=5) for _ in range(2)]
    busy: list[tuple[float, float]] = []

    async def work(number: int) -> None:
        turn, who = turns[number % 2], f"w{number}"
        await obtain(turn, who)
        began = monotonic()
        await asyncio.sleep(0.02)
        busy.append((began, monotonic()))
        await turn.give(who)

    await asyncio.gather(*(work(number) for number in range(8)))
    ordered = sorted(busy)
    assert all(later[0] - earlier[1] >= 0.05 for earlier, later in itertools.pairwise(ordered))


async def test_a_turn_that_is_never_given_back_ends_by_itself(store: Store) -> None:
    turn = Pacing(store, KEY, pause=0.02, longest=0.1)
    await obtain(turn, "killed")
    taken = monotonic()
    assert (await turn.take("next")).held
    await obtain(turn, "next")
    assert monotonic() - taken >= 0.1


async def test_who_asks_twice_has_one_turn_and_only_its_holder_gives_it_back(store: Store) -> None:
    turn = Pacing(store, KEY, pause=0.02, longest=5)
    await obtain(turn, "a")
    assert (await turn.take("a")).mine
    await turn.give("b")
    assert (await turn.take("b")).held


async def test_a_longer_pause_holds_for_everybody(store: Store) -> None:
    turn = Pacing(store, KEY, pause=0.02, longest=5)
    await obtain(turn, "a")
    await turn.give("a", 60.0)
    place = await Pacing(store, KEY, pause=0.02, longest=5).take("b")
    assert not place.mine
    assert not place.held
    assert 59 < place.seconds <= 60


async def test_an_emptied_store_makes_everybody_pause_first(store: Store, redis_cli: redis.Redis) -> None:
    turn = Pacing(store, KEY, pause=0.5, longest=5)
    assert await turn.take("a") == Place(False, False, 0.5)
    await obtain(turn, "a")
    redis_cli.flushall()
    assert not (await turn.take("b")).mine


async def test_a_clock_that_was_set_back_does_not_stop_the_turns(
    store: Store, redis_cli: redis.Redis
) -> None:
    turn = Pacing(store, KEY, pause=0.02, longest=1)
    await turn.open()
    redis_cli.hset(KEY, "free", str(int(9e15)))
    assert (await turn.take("a")).seconds <= 600


async def test_without_the_store_there_are_no_turns(mortal_store: EmbeddedStore) -> None:
    store = Store(mortal_store.url)
    await store.start()
    turn = Pacing(store, KEY, pause=0.02, longest=1)
    mortal_store.kill()
    with pytest.raises(StoreError):
        await turn.take("a")
    await turn.give("a")
    await store.close()
