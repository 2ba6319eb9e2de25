"""Files of lines that every worker appends to and that are rotated by size.

`path` is the newest, `path.1` the one before, and so on. A lock file (`path.lock`) is held exclusively to append, to rotate
and to rewrite (shared to read), so that no line goes to a file that is being replaced, and half a line can be taken back.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import os
from collections.abc import Iterator
from pathlib import Path


class RotatingFile:
    """A sink for whole lines, to be called in a thread that may wait for the disk.

    Args:
        path: the newest file; created with mode 0600, its directory must exist.
        max_bytes: size beyond which it is rotated; what is written at once must be no longer.
        files: how many are kept, the newest included. Disk use stays within `files * max_bytes`.
    """

    def __init__(self, path: Path, *, max_bytes: int, files: int) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._files = files
        self._fd = -1

    def __call__(self, data: bytes) -> None:
        """Append `data`, whole lines, or nothing. Raises OSError."""
        with locked(self._path, fcntl.LOCK_EX):
            self._open()
            before = os.fstat(self._fd).st_size
            if before and before + len(data) > self._max_bytes:
                rotate(self._path, self._files)
                self._open()
                before = 0
            view = memoryview(data)
            try:
                while view:
                    view = view[os.write(self._fd, view) :]
            except OSError:
                # A full disk takes what still fits: half a line would spoil the next one, too.
                os.ftruncate(self._fd, before)
                raise

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _open(self) -> None:
        if self._fd >= 0 and not is_open(self._path, self._fd):
            self.close()
        if self._fd < 0:
            self._fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)


def is_open(path: Path, fd: int) -> bool:
    """Whether `fd` is the file that `path` names now: another process may have rotated or rewritten it."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(fd))
    except FileNotFoundError:
        return False


def rotate(path: Path, files: int) -> None:
    """Give each file the next number, and the last one up; under the exclusive lock."""
    for number in range(files - 1, 0, -1):
        with contextlib.suppress(FileNotFoundError):
            os.replace(numbered(path, number - 1), numbered(path, number))


def existing(path: Path) -> list[Path]:
    """The files there are, the oldest first."""
    rotated = [
        (int(suffix), file)
        for file in path.parent.glob(f"{glob.escape(path.name)}.*")
        if (suffix := file.name.removeprefix(path.name + ".")).isdigit()
    ]
    return [file for _, file in sorted(rotated, reverse=True)] + ([path] if path.exists() else [])


@contextlib.contextmanager
def locked(path: Path, how: int) -> Iterator[None]:
    """Hold the lock of the files at `path`: `fcntl.LOCK_SH` to read them, `LOCK_EX` to change them. Raises OSError."""
    fd = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, how)
        yield
    finally:
        os.close(fd)


def numbered(path: Path, number: int) -> Path:
    """The name of the file that has been rotated `number` times."""
    return path.with_name(f"{path.name}.{number}") if number else path
