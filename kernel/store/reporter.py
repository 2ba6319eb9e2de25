"""Telling the store of many buckets without holding up the loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from kernel.store.bucket import Bucket

_BATCH = 64


async def report_all(
    buckets: list[Bucket], tell: Callable[[Bucket, float], None], clock: Callable[[], float]
) -> None:
    """`tell` the store of each bucket, a few at a time: the loop has requests to serve. Ends with the last reply."""
    for start in range(0, len(buckets), _BATCH):
        batch = buckets[start : start + _BATCH]
        await _landings(batch)
        now = clock()
        for bucket in batch:
            tell(bucket, now)
        await _landings(batch)


async def _landings(buckets: list[Bucket]) -> None:
    flights = [bucket.flight for bucket in buckets if bucket.flight is not None]
    if flights:
        await asyncio.wait(flights)  # not gather(): to be cancelled here must not cancel what others wait for
