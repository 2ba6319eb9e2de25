"""A value that cannot be had costs nothing that lasts."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Iterator

import pytest

from kernel.store.errors import StoreDown
from kernel.store.reading import Reading
from kernel.store.redis import Store
from kernel.store.tracked import TrackedMap


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


class Followed(Reading):
    """A reading that a test can see the end of."""

    __slots__ = ("__weakref__",)


@pytest.mark.usefixtures("no_collector")
async def test_what_fails_goes_with_its_last_waiter() -> None:
    async def wait(reading: Reading) -> None:
        with pytest.raises(StoreDown, match="lost"):
            await reading

    reading = Followed(1.0)
    seen = weakref.ref(reading)
    waiters = [asyncio.create_task(wait(reading)) for _ in range(2)]
    await asyncio.sleep(0)
    reading.fail(StoreDown("lost"))
    await asyncio.gather(*waiters)
    del reading, waiters
    assert seen() is None


@pytest.mark.usefixtures("no_collector")
async def test_reads_of_a_store_that_is_lost_leave_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[weakref.ref[Reading]] = []

    def make(timeout: float) -> Reading:
        reading = Followed(timeout)
        made.append(weakref.ref(reading))
        return reading

    monkeypatch.setattr("kernel.store.tracked.Reading", make)
    tracked = TrackedMap(Store("redis://127.0.0.1:1"))
    for number in range(3):
        with pytest.raises(StoreDown):
            await tracked.fetch([f"token:revoked:{number}", "platform:read_only"])
    await asyncio.sleep(0)
    assert len(made) > 3
    assert [each() for each in made if each() is not None] == []
