"""How a command has the workers write what they still hold of the audit trail, and knows that they have.

Beside the file `path` is a directory `path.writers`. Each process that writes to the file has a file of its own there, locked
for as long as it lives. Who wants to read everything puts a new word into `flush`; each writer sees it within a second, and
puts it into its own file when all that had happened before is in the audit file. So it works wherever the file is shared,
between containers too, as far as locks go.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_REQUEST = "flush"
_WORD_BYTES = 16
_POLL_SECONDS = 0.05
# A writer needs two of its flushes, a second apart.
_DEADLINE_SECONDS = 10.0


class Presence:
    """A writer of `path`, to be made by the process that writes; `mark` belongs into the thread that writes.

    Raises:
        OSError: from the constructor, when the directory cannot be written.
    """

    def __init__(self, path: Path) -> None:
        directory = _directory(path)
        directory.mkdir(mode=0o700, exist_ok=True)
        self._request = directory / _REQUEST
        self._seen = b""
        self._told = b""
        for left in _others(directory):
            if not _alive(left):
                left.unlink(missing_ok=True)
        name = secrets.token_hex(8)
        self._path = directory / name
        unready = directory / f".{name}"
        self._fd = os.open(unready, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        unready.rename(self._path)  # nobody has seen it without its lock

    def mark(self) -> None:
        """Everything that had gathered a moment ago has been written.

        A word is answered at the second mark: what was gathered before it was seen may have come after the first's flush.
        """
        if self._seen != self._told:
            os.pwrite(self._fd, self._seen, 0)
            self._told = self._seen
        with contextlib.suppress(FileNotFoundError):
            word = self._request.read_bytes()
            if len(word) == _WORD_BYTES:
                self._seen = word

    def close(self) -> None:
        """There is nothing left to write."""
        self._path.unlink(missing_ok=True)
        os.close(self._fd)


class Flushed(NamedTuple):
    """How many writers have written everything, and how many live but did not answer in time."""

    written: int
    silent: int


def flush(path: Path, within: float = _DEADLINE_SECONDS) -> Flushed:
    """Have every process that writes to `path` write what it holds; waits `within` seconds at most. Raises OSError."""
    directory = _directory(path)
    if not directory.is_dir():
        return Flushed(0, 0)
    request = directory / _REQUEST
    with _locked(request) as fd:
        word = secrets.token_hex(_WORD_BYTES // 2).encode()
        os.pwrite(fd, word, 0)
        waiting = [each for each in _others(directory) if _alive(each)]
        written = 0
        deadline = time.monotonic() + within
        while waiting and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
            there = [each for each in waiting if _alive(each)]  # one that has ended has written everything
            waiting = [each for each in there if _word(each) != word]
            written += len(there) - len(waiting)
        return Flushed(written, len(waiting))


def _directory(path: Path) -> Path:
    return path.with_name(path.name + ".writers")


def _others(directory: Path) -> list[Path]:
    return [each for each in directory.iterdir() if each.name != _REQUEST and each.name[0] != "."]


def _word(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def _alive(path: Path) -> bool:
    """Whether the process whose file this is lives: it holds the lock."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[int]:
    """One at a time: two who ask would take each other's answers."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield fd
    finally:
        os.close(fd)
