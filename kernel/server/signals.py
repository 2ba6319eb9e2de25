"""Signals: a stop is never lost while the gateway starts, and a worker drains before its server hears of it.

granian's own handlers are in place before a worker's lifespan begins, and close every socket at once. So SIGTERM is the
worker's, and SIGINT, which a terminal sends to the workers too, is held back until `tell_server`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from types import FrameType

# From the parent to a worker: end now, without the wait for balancers; and: another worker has taken over.
HURRY, HAND_OVER = signal.SIGUSR2, signal.SIGUSR1
_STOPS = {signal.SIGTERM, signal.SIGINT}
# Longer than the loop goes on after a worker's start-up; it then stands still until the server listens.
SOON = 0.05


def stop_cleanly() -> None:
    """Until the server has handlers of its own, SIGTERM leaves through the exits: directories and stores go.

    A SIGHUP finds nothing to read again yet.
    """
    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def ignore_stops() -> None:
    """The server has ended: one more stop must not cut short what is left to do, nor spoil the exit code."""
    for number in (*_STOPS, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def hold_in_workers() -> None:
    """From its fork on, a worker holds stops back until `release_soon`; the kernel keeps them for it.

    It is forked with handlers that set flags nobody reads there, and while its loop stands still between start-up and
    service, uvloop's handlers forget what they hear: the parent would wait until it has to kill it.
    """
    os.register_at_fork(before=hold, after_in_parent=_release)


def hold() -> None:
    """Hold stops back in this process."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {*_STOPS, HURRY})


def release_soon(loop: asyncio.AbstractEventLoop) -> None:
    """To be called by a worker that has started, in its loop: when that runs again, SIGTERM arrives."""
    loop.call_later(SOON, signal.pthread_sigmask, signal.SIG_UNBLOCK, {signal.SIGTERM, HURRY})


def tell_server() -> None:
    """A worker has drained: have granian stop accepting, finish what is in flight and end the lifespan."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    os.kill(os.getpid(), signal.SIGINT)


def _leave(number: int, frame: FrameType | None) -> None:
    sys.exit(0)


def _release() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {*_STOPS, HURRY})
