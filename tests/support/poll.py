"""Waiting for what happens in another process, without guessing how long it takes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


def poll(probe: Callable[[], T], seconds: float = 10.0) -> T:
    """The first true result of `probe`, asked every 20 ms. Raises AssertionError after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (result := probe()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)
    return result


async def eventually(probe: Callable[[], bool | Awaitable[bool]], seconds: float = 10.0) -> None:
    """Let the loop run until `probe` is true. Raises AssertionError after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        result = probe()
        if await result if isinstance(result, Awaitable) else result:
            return
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.005)
