"""Process 1 of a container: it is handed every orphan there, and has to wait for them, or they stay as zombies.

The gateway cannot: it waits for children of its own, each where it was started. So it runs as the only child of a process
that does nothing but pass signals on and take in who has ended. Elsewhere there is no such process.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

_PASSED_ON = {
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
}
_AWAITED = {*_PASSED_ON, signal.SIGCHLD}


def run_under_init(main: Callable[[], int]) -> int:
    """The exit code of `main`; in process 1 it runs in a child. To be called before there are threads."""
    if not is_init():
        return main()
    signal.pthread_sigmask(signal.SIG_BLOCK, _AWAITED)
    child = os.fork()
    if not child:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _AWAITED)
        return main()
    while True:
        number = signal.sigwait(_AWAITED)
        if number == signal.SIGCHLD:
            code = _take_in(child)
            if code is not None:
                return code
        else:
            os.kill(child, number)


def is_init() -> bool:
    """Whether this is process 1."""
    return os.getpid() == 1


def _take_in(child: int) -> int | None:
    """Wait for all that have ended; the exit code of `child` if it is among them, as a shell says it."""
    while True:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return None
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            return 128 - code if code < 0 else code
