"""The audit trail's files: appended to by every worker, rotated by size, searched and pseudonymised on request (GDPR).

`path` is the newest, `path.1` the one before, and so on. A lock file (`path.lock`) is held exclusively to append, rotate or
rewrite: every line has the link of the one before, whichever worker wrote that (see auditchain.py).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path
from time import time
from typing import Any

import orjson

from kernel.telemetry import auditchain
from kernel.telemetry.auditchain import ERASURE, GENESIS, PSEUDONYM, Head, Verdict, seal, tail, without_person
from kernel.telemetry.auditflush import Presence
from kernel.telemetry.lines import stamp
from kernel.telemetry.redact import ascii_json
from kernel.telemetry.rotating import existing, is_open, locked, numbered, rotate

MAX_BYTES = 16 * 1024 * 1024
FILES = 8


class AuditFile:
    """A sink for `Writer`: appends whole lines, in its thread.

    Args:
        path: the newest file; created with mode 0600, its directory must exist.
        max_bytes: size beyond which it is rotated.
        files: how many are kept, the newest included. Disk use stays below `files * max_bytes`, plus one batch.

    Raises:
        OSError: from the constructor, when the file cannot be written.
    """

    def __init__(self, path: Path, *, max_bytes: int = MAX_BYTES, files: int = FILES) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._files = files
        self._trail = _Trail(path)
        with locked(path, fcntl.LOCK_EX):
            self._trail.open()
        self._presence = Presence(path)

    def __call__(self, data: bytes) -> None:
        """Append `data`, whole lines of JSON; nothing tells that all that was gathered a moment ago is here."""
        if not data:
            self._presence.mark()
            return
        with locked(self._path, fcntl.LOCK_EX):
            if self._trail.append([orjson.loads(line) for line in data.splitlines()]) <= self._max_bytes:
                return
            rotate(self._path, self._files)

    def close(self) -> None:
        """Close the file."""
        self._trail.close()
        self._presence.close()


class _Trail:
    """The newest file, to be used under the exclusive lock."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1
        # Where this process wrote last (device, inode, size), and the chain's head then.
        self._place = (0, 0, 0)
        self._head = GENESIS

    def append(self, events: Iterable[dict[str, Any]]) -> int:
        """Put `events` at the chain's end; the file's size then."""
        self.open()
        head, first, torn = self._end()
        pieces = [b"\n"] if torn else []
        for event in events:
            line, head = seal(event, head, first=first, torn=torn)
            pieces.append(line)
            first = torn = False
        view = memoryview(b"".join(pieces))
        while view:
            view = view[os.write(self._fd, view) :]
        self._place, self._head = self._stands(), head
        return self._place[2]

    def open(self) -> None:
        """Have the descriptor of the file that `path` names now: another process may have rotated or rewritten it."""
        if self._fd >= 0 and not is_open(self._path, self._fd):
            self.close()
        if self._fd < 0:
            self._fd = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _stands(self) -> tuple[int, int, int]:
        now = os.fstat(self._fd)
        return now.st_dev, now.st_ino, now.st_size

    def _end(self) -> tuple[Head, bool, bool]:
        """The chain's head, whether this file has nothing of it, and whether it ends in half a line."""
        if self._place == self._stands():
            return self._head, False, False  # nobody else has written since
        own = tail(self._fd)
        if own.head is not None:
            return own.head, False, own.torn
        with contextlib.suppress(FileNotFoundError), numbered(self._path, 1).open("rb") as before:
            return tail(before.fileno()).head or self._head, True, own.torn
        # Whatever was there is gone: the chain goes on, so that it shows.
        return self._head, True, own.torn


def export(path: Path, user_id: str) -> Iterator[dict[str, Any]]:
    """Every event about a person, the oldest first (GDPR article 15)."""
    with locked(path, fcntl.LOCK_SH):
        yield from _events(path, user_id)


def erase(path: Path, user_id: str) -> int:
    """Pseudonymise a person in all files (GDPR article 17); how many events were changed.

    The events stay, and stay linked to each other by a random pseudonym that leads nobody back. Workers go on writing
    meanwhile; what they have not written yet (up to a second) is not changed: `flush` first.
    """
    pseudonym = f"{PSEUDONYM}{secrets.token_hex(6)}"
    trail = _Trail(path)
    with locked(path, fcntl.LOCK_EX), contextlib.closing(trail):
        found = sum(1 for _ in _events(path, user_id))
        if found:
            # First: what is broken off now is on record, and done when it is asked for again.
            record = {"event": "audit", "kind": ERASURE, "pseudonym": pseudonym, "events": found}
            trail.append([{"timestamp": stamp(time()), "level": "info", **record}])
        return sum(_erase(file, user_id, pseudonym) for file in existing(path))


def verify(path: Path, wanted: str = "") -> Verdict:
    """Follow the chain through all files; `wanted` is a link to look for. Workers go on writing meanwhile."""
    with contextlib.ExitStack() as opened:
        with locked(path, fcntl.LOCK_SH):
            files = [(file.name, opened.enter_context(file.open("rb"))) for file in existing(path)]
            sized = [(name, file, os.fstat(file.fileno()).st_size) for name, file in files]
        return auditchain.verify(sized, wanted)


def _erase(file: Path, user_id: str, pseudonym: str) -> int:
    changed = 0
    temporary = file.with_name(file.name + ".new")
    with contextlib.suppress(FileNotFoundError):
        temporary.unlink()
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with file.open("rb") as lines, os.fdopen(fd, "wb") as out:
        for line in lines:
            event = _about(line, user_id)
            if event is None:
                out.write(line)
                continue
            changed += 1
            out.write(ascii_json(orjson.dumps(without_person(event, pseudonym))) + b"\n")
        out.flush()
        os.fsync(out.fileno())
    if changed:
        os.replace(temporary, file)
    else:
        temporary.unlink()
    return changed


def _events(path: Path, user_id: str) -> Iterator[dict[str, Any]]:
    for file in existing(path):
        with file.open("rb") as lines:
            for line in lines:
                event = _about(line, user_id)
                if event is not None:
                    yield event


def _about(line: bytes, user_id: str) -> dict[str, Any] | None:
    # PERF: most lines are about somebody else; ids are plain ASCII in JSON unless they need escapes.
    if user_id.isalnum() and user_id.isascii() and user_id.encode() not in line:
        return None
    try:
        event = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    return event if isinstance(event, dict) and event.get("user_id") == user_id else None
