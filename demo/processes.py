"""Child processes that never outlive their parent: in a session of their own, and told by the kernel when it dies."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import IO

_PR_SET_PDEATHSIG = 1


def spawn(
    arguments: Sequence[str],
    *,
    environment: Mapping[str, str],
    stdout: int | IO[bytes],
    stderr: int | IO[bytes],
    cwd: str | None = None,
) -> subprocess.Popen[bytes]:
    """Runs `arguments`. The terminal's Ctrl-C does not reach the child; when this process dies, however it dies, the
    child gets SIGTERM (Linux only). To be called from a thread that lives as long as the child should."""
    return subprocess.Popen(
        arguments,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        cwd=cwd,
        start_new_session=True,
        preexec_fn=_end_with_parent(),  # noqa: PLW1509  no thread has been started here
    )


def stop(process: subprocess.Popen[bytes], seconds: float) -> None:
    """SIGTERM, and after `seconds` SIGKILL to the child and all that it started."""
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
    kill(process)


def kill(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL to whatever is left of the child's session."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _end_with_parent() -> Callable[[], None] | None:
    if not sys.platform.startswith("linux"):
        return None
    # Looked up before the fork: the child must not load libraries.
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    parent = os.getpid()

    def arm() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died before the call above took effect
            os._exit(1)

    return arm
