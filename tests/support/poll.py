"""Waiting for what happens in another process, without guessing how long it takes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def poll(probe: Callable[[], T], seconds: float = 10.0) -> T:
    """The first true result of `probe`, asked every 20 ms. Raises AssertionError after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (result := probe()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)
    return result
