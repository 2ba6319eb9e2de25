"""Console: what the parent process says, to whoever may have stopped reading."""

from __future__ import annotations

import sys
from contextlib import suppress


def say(text: str) -> None:
    """A line for the operator."""
    with suppress(OSError):  # no reason to end
        sys.stderr.write(f"gateway: {text}\n")
    renew_streams()


def renew_streams() -> None:
    """Drop what stdout and stderr cannot write: their reader has gone, their terminal is closed, their disk is full.

    They would keep it, and fail with it at every flush: before each fork, and at the exit.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        try:
            stream.flush()
        except OSError:
            fresh = open(  # noqa: SIM115  # for as long as the process lives
                stream.fileno(), "w", buffering=1, errors="backslashreplace", closefd=False
            )
            setattr(sys, name, fresh)
