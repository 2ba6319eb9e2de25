"""The audit trail's files: appended to by every worker, rotated by size, searched and pseudonymised on request (GDPR).

`path` is the newest, `path.1` the one before, and so on. A lock file (`path.lock`) is held shared to append and
exclusively to rotate or rewrite, so that no line goes to a file that is being replaced.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from kernel.telemetry.auditflush import Presence

MAX_BYTES = 16 * 1024 * 1024
FILES = 8
# What of an event tells who somebody is. Time, route, tenant and outcome stay: they are the security record.
_PERSONAL = ("client_ip", "user_agent", "email")


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
        self._fd = -1
        with _lock(path, fcntl.LOCK_SH):
            self._open()
        self._presence = Presence(path)

    def __call__(self, data: bytes) -> None:
        """Append `data`; nothing tells that all that was gathered a moment ago is here."""
        if not data:
            self._presence.mark()
            return
        with _lock(self._path, fcntl.LOCK_SH):
            self._open()
            view = memoryview(data)
            while view:
                view = view[os.write(self._fd, view) :]
            full = os.fstat(self._fd).st_size > self._max_bytes
        if full:
            self._rotate()

    def close(self) -> None:
        """Close the file."""
        self._close()
        self._presence.close()

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _open(self) -> None:
        """Have the descriptor of the file that `path` names now: another process may have rotated or rewritten it."""
        if self._fd >= 0:
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.stat(self._path), os.fstat(self._fd)):
                    return
            self._close()
        self._fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def _rotate(self) -> None:
        with _lock(self._path, fcntl.LOCK_EX):
            self._open()
            if os.fstat(self._fd).st_size <= self._max_bytes:
                return  # another worker was faster
            for number in range(self._files - 1, 0, -1):
                with contextlib.suppress(FileNotFoundError):
                    os.replace(_numbered(self._path, number - 1), _numbered(self._path, number))


def export(path: Path, user_id: str) -> Iterator[dict[str, Any]]:
    """Every event about a person, the oldest first (GDPR article 15)."""
    with _lock(path, fcntl.LOCK_SH):
        for file in _existing(path):
            with file.open("rb") as lines:
                for line in lines:
                    event = _about(line, user_id)
                    if event is not None:
                        yield event


def erase(path: Path, user_id: str) -> int:
    """Pseudonymise a person in all files (GDPR article 17); how many events were changed.

    The events stay, and stay linked to each other by a random pseudonym that leads nobody back. Workers go on writing
    meanwhile; what they have not written yet (up to a second) is not changed: `flush` first.
    """
    pseudonym = f"erased-{secrets.token_hex(6)}"
    changed = 0
    with _lock(path, fcntl.LOCK_EX):
        for file in _existing(path):
            changed += _erase(file, user_id, pseudonym)
    return changed


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
            event["user_id"] = pseudonym
            for name in _PERSONAL:
                event.pop(name, None)
            out.write(orjson.dumps(event) + b"\n")
        out.flush()
        os.fsync(out.fileno())
    if changed:
        os.replace(temporary, file)
    else:
        temporary.unlink()
    return changed


def _about(line: bytes, user_id: str) -> dict[str, Any] | None:
    # PERF: most lines are about somebody else; ids are plain ASCII in JSON unless they need escapes.
    if user_id.isalnum() and user_id.isascii() and user_id.encode() not in line:
        return None
    try:
        event = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    return event if isinstance(event, dict) and event.get("user_id") == user_id else None


def _numbered(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}") if number else path


def _existing(path: Path) -> list[Path]:
    """The files there are, the oldest first."""
    numbered = [
        (int(suffix), file)
        for file in path.parent.glob(f"{path.name}.*")
        if (suffix := file.name.removeprefix(path.name + ".")).isdigit()
    ]
    return [file for _, file in sorted(numbered, reverse=True)] + ([path] if path.exists() else [])


@contextlib.contextmanager
def _lock(path: Path, how: int) -> Iterator[None]:
    fd = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, how)
        yield
    finally:
        os.close(fd)
