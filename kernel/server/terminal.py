"""The terminal: what the parent process says, to whoever may have stopped reading."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import TextIO

_STANDARD = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))


def complete_streams() -> None:
    """Put /dev/null where the process was started without stdin, stdout or stderr (`2>&-`).

    Else the next file or socket that is opened has that number, and gets what is said.
    """
    for fd, (name, mode) in enumerate(_STANDARD):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
            os.set_inheritable(fd, True)
        if getattr(sys, name) is None:
            setattr(sys, name, open(fd, mode, closefd=False))  # noqa: SIM115  # for as long as the process lives


def say(text: str) -> None:
    """A line for the operator."""
    with suppress(OSError):  # no reason to end
        sys.stderr.write(f"gateway: {text}\n")
    renew_streams()


def renew_streams() -> None:
    """Drop what stdout and stderr cannot write: their reader has gone, their terminal is closed, their disk is full.

    They would keep it, and fail with it at every flush: before each fork, and at the exit.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            _drop(stream)


def _drop(stream: TextIO) -> None:
    # There is no other way to empty its buffers; a new stream in its place fails when this one is thrown away.
    fd = stream.fileno()
    kept, nowhere = os.dup(fd), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, fd)
    stream.flush()
    os.dup2(kept, fd)
    os.close(kept)
    os.close(nowhere)
