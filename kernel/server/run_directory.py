"""The directories a run needs for its sockets, keys and files; whoever makes one removes it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

# A unix socket's path has 103 bytes at most (macOS; Linux 107), of which one two directories further down takes 49.
_MAX_BYTES = 54


class NoDirectory(RuntimeError):
    """No directory can be made; the message says why and what to do."""


def make_directory(prefix: str) -> Path:
    """A new directory, named at random and of mode 0700, where temporary files go; in /tmp when that is too long a path.

    Raises:
        NoDirectory: nothing there can be written.
    """
    try:
        usual = tempfile.gettempdir()
        short = len(os.fsencode(usual)) <= _MAX_BYTES
        return Path(tempfile.mkdtemp(prefix=prefix, dir=usual if short else "/tmp"))  # noqa: S108  # random, 0700
    except OSError as error:
        raise NoDirectory(
            f"cannot make a directory for this run: {error.strerror}. "
            "Mount a writable file system at /tmp (a tmpfs will do), or set TMPDIR."
        ) from None
