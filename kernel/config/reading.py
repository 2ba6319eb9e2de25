"""Files that a configuration names, read whole: whatever a name leads to, there is an end to it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from kernel.config.values import size_text


class Unreadable(ValueError):
    """The message says why a file cannot be read, after its name; it quotes nothing that is in it."""


def contents(path: Path, most: int) -> bytes:
    """What the regular file at `path` holds, at most `most` bytes. Raises `Unreadable`."""
    try:
        # Not blocking: opening a pipe waits for somebody to write into it.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise Unreadable("is not a regular file")
            with os.fdopen(fd, "rb", closefd=False) as file:
                data = file.read(most + 1)
        finally:
            os.close(fd)
    except OSError as error:
        raise Unreadable(f"cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        if isinstance(error, Unreadable):
            raise
        raise Unreadable("cannot be read: its name has a NUL character") from None
    if len(data) > most:
        raise Unreadable(f"is larger than {size_text(most)}")
    return data


def text(path: Path, most: int) -> str:
    """The same as UTF-8 text, without a byte order mark. Raises `Unreadable`."""
    try:
        return contents(path, most).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise Unreadable("is not UTF-8 text") from None
