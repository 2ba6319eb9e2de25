"""Snapshots of counters on disk, so that a scrape never shows a counter going backwards when a worker dies.

`worker-<pid>.metrics` is what a worker counted, `retired.metrics` the sum of those that are gone.

1. A worker writes its snapshot every second and before it tells anyone: what has been told is on disk. A worker killed
   outright loses at most what nobody has seen of its last second.
2. Whoever finds a worker gone adds its file to the retired sum and removes it, holding the lock.
3. The retired sum names the snapshots in it: one added twice (a crash between the two writes of step 2), or one that
   also answered a scrape just before its worker died, counts once.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from kernel.telemetry.bus import listening
from kernel.telemetry.families import Snapshot, merge

LOCK_SECONDS = 0.5
_NAMES_KEPT = 256
_FILE = re.compile(r"worker-(\d+)\.(?:metrics|sock)")


class Stored(msgspec.Struct, array_like=True):
    """One worker's snapshot; `name` is unique over restarts and reused pids."""

    name: str
    snapshot: Snapshot


class Retired(msgspec.Struct, array_like=True):
    """The sum of the workers that are gone, and the names of the last of them."""

    names: list[str]
    snapshot: Snapshot


_STORED = msgspec.msgpack.Decoder(Stored)
_RETIRED = msgspec.msgpack.Decoder(Retired)
encode = msgspec.msgpack.encode


def decode(data: bytes) -> Stored | None:
    """A worker's snapshot, or None when it cannot be read."""
    try:
        return _STORED.decode(data)
    except ValueError:
        return None


class SnapshotFiles:
    """The snapshot files of a run directory. Blocking: call from a thread, apart from `write`."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir

    def write(self, pid: int, data: bytes) -> None:
        """Replace a worker's snapshot (some 50 us on a memory file system)."""
        _replace(self._run_dir / f"worker-{pid}.metrics", data)

    @contextlib.contextmanager
    def locked(self) -> Iterator[bool]:
        """Hold the lock over all files; False when somebody else kept it for LOCK_SECONDS."""
        fd = os.open(self._run_dir / "metrics.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            yield _lock(fd, time.monotonic() + LOCK_SECONDS)
        finally:
            os.close(fd)

    def retire(self, pids: Iterable[int]) -> None:
        """Add the snapshots of these workers to the retired sum. Hold the lock, and know that they are gone."""
        sources: list[Path] = []
        retired = self._retired()
        for pid in pids:
            source = self._run_dir / f"worker-{pid}.metrics"
            sources += [source, self._run_dir / f"worker-{pid}.sock"]
            stored = _read(source)
            if stored is not None and stored.name not in retired.names:
                names = [*retired.names, stored.name][-_NAMES_KEPT:]
                retired = Retired(names, merge((), retired=(retired.snapshot, stored.snapshot)))
        if sources:
            _replace(self._run_dir / "retired.metrics", encode(retired))
        for source in sources:
            source.unlink(missing_ok=True)

    def total(self, own: Stored, answered: Iterable[Stored], hung: Iterable[int]) -> Snapshot:
        """All workers' snapshots added up, the retired sum and files of hung workers included."""
        with self.locked() as held:
            if held:
                living = {int(name.rpartition("-")[0]) for name in (own.name, *(a.name for a in answered))}
                living.update(hung)
                self.retire(pid for pid in self._pids() - living if not listening(self._run_dir, pid))
            retired = self._retired()
            stuck = [_read(self._run_dir / f"worker-{pid}.metrics") for pid in hung]
        others = {s.name: s.snapshot for s in (*answered, *stuck) if s and s.name not in retired.names}
        return merge([own.snapshot, *others.values()], retired=[retired.snapshot])

    def _pids(self) -> set[int]:
        found = (_FILE.fullmatch(name) for name in os.listdir(self._run_dir))
        return {int(match[1]) for match in found if match}

    def _retired(self) -> Retired:
        try:
            return _RETIRED.decode((self._run_dir / "retired.metrics").read_bytes())
        except (FileNotFoundError, ValueError):
            return Retired([], {})


def _read(path: Path) -> Stored | None:
    try:
        return decode(path.read_bytes())
    except FileNotFoundError:
        return None


def _replace(path: Path, data: bytes) -> None:
    temporary = path.with_suffix(".new")
    temporary.write_bytes(data)
    temporary.replace(path)


def _lock(fd: int, deadline: float) -> bool:
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.005)
        else:
            return True
