"""Signals while the gateway starts: a stop must never be lost, whenever it comes."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from types import FrameType

_STOPS = {signal.SIGTERM, signal.SIGINT}
# Longer than the loop goes on after a worker's start-up; it then stands still until the server listens.
_SOON = 0.05


def stop_cleanly() -> None:
    """Until the server has handlers of its own, SIGTERM leaves through the exits: directories and stores go."""
    signal.signal(signal.SIGTERM, _leave)


def hold_in_workers() -> None:
    """From its fork on, a worker holds stops back until `release_soon`; the kernel keeps them for it.

    It is forked with handlers that set flags nobody reads there, and while its loop stands still between start-up and
    service, uvloop's handlers forget what they hear: the parent would wait until it has to kill it.
    """
    os.register_at_fork(before=_hold, after_in_parent=_release)


def release_soon(loop: asyncio.AbstractEventLoop) -> None:
    """To be called by a worker that has started, in its loop: when that runs again, stops arrive."""
    loop.call_later(_SOON, _release)


def _leave(number: int, frame: FrameType | None) -> None:
    sys.exit(0)


def _hold() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)


def _release() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)
