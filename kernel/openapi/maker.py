"""Merging in a process of its own, so that no request waits for it.

PERF: in a thread of the worker, what 19 usual services have (8 MB) stopped the loop for 108 ms: the garbage collector's
pauses over half a million objects, and encoders that hold the interpreter. From here it is stopped for a few, and the memory
goes back. An interpreter more (0.15 s of CPU) is its price, at most once a minute, and only when some document has changed.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from io import FileIO
from typing import NoReturn

import msgspec
from msgspec import Struct

from kernel.openapi.together import merged
from kernel.routing.catalog import RouteRow

_SECONDS = 30
_MEMORY = 2 * 1024**3
# The modules are found where the worker finds them.
_CODE = "import sys; sys.path[:] = sys.argv[1:]; from kernel.openapi.maker import main; main()"
# Exit codes beside 0: a result, of which a service's document is missing.
_INCOMPLETE = 3


class NotMade(Exception):
    """The process came to no result: it ran out of time or memory, or could not be started."""


class _Job(Struct):
    """What goes before the documents themselves, which follow in the order of `sizes`. `reasons`: why others have none."""

    rows: tuple[RouteRow, ...]
    # Of all services, in order.
    services: tuple[str, ...]
    own: int
    sizes: dict[str, int]
    reasons: dict[str, str]


class Maker:
    """Calls `merged` in another process; a call blocks and belongs into a thread."""

    def __init__(self, rows: tuple[RouteRow, ...]) -> None:
        self._rows = rows
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = False

    def __call__(self, own: bytes, found: Mapping[str, bytes | str]) -> tuple[bytes, bool]:
        """What `merged` returns. Raises `NotMade`."""
        bodies = {name: body for name, body in found.items() if isinstance(body, bytes)}
        sizes = {name: len(body) for name, body in bodies.items()}
        reasons = {name: body for name, body in found.items() if isinstance(body, str)}
        job = msgspec.msgpack.encode(_Job(self._rows, tuple(found), len(own), sizes, reasons))
        try:
            with _scratch() as given, _scratch() as taken:
                given.writelines((len(job).to_bytes(8, "big"), job, own, *bodies.values()))
                given.seek(0)
                complete = self._run(given, taken)
                taken.seek(0)
                return taken.readall(), complete
        except OSError as error:
            raise NotMade(f"no process could be started: {error.strerror}") from None

    def _run(self, given: FileIO, taken: FileIO) -> bool:
        command = [sys.executable, "-I", "-c", _CODE, *sys.path]
        with self._lock:
            if self._stopped:
                raise NotMade("the gateway ends")
            # Signals to the gateway's group are none of its business: who waits for it ends it.
            process = self._process = subprocess.Popen(  # noqa: S603
                command, stdin=given, stdout=taken, stderr=subprocess.DEVNULL, start_new_session=True
            )
        try:
            code = process.wait(_SECONDS)
        except subprocess.TimeoutExpired:
            raise NotMade(f"it took longer than {_SECONDS} s") from None
        finally:
            process.kill()
            process.wait()
        if code not in (0, _INCOMPLETE):
            raise NotMade("its process ended without a result")
        return code == 0

    def stop(self) -> None:
        """End what is under way; nothing else is started."""
        with self._lock:
            self._stopped = True
            if self._process is not None:
                self._process.kill()


def _scratch() -> FileIO:
    """A file that is nowhere: in memory where that exists, since a container may have no place to write to."""
    if hasattr(os, "memfd_create"):
        return FileIO(os.memfd_create("openapi", os.MFD_CLOEXEC), "w+b")
    fd, path = tempfile.mkstemp()  # pragma: no cover
    os.unlink(path)  # pragma: no cover
    return FileIO(fd, "w+b")  # pragma: no cover


def main() -> NoReturn:
    """The other side: a job from standard input, its result to standard output."""
    os.nice(10)  # requests go first
    resource.setrlimit(resource.RLIMIT_CPU, (_SECONDS, _SECONDS))
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    given = sys.stdin.buffer
    job = msgspec.msgpack.decode(given.read(int.from_bytes(given.read(8), "big")), type=_Job)
    own = given.read(job.own)
    bodies = {name: given.read(size) for name, size in job.sizes.items()}
    found = {name: job.reasons.get(name) or bodies[name] for name in job.services}
    body, complete = merged(own, found, job.rows)
    sys.stdout.buffer.write(body)
    sys.stdout.buffer.flush()
    # PERF: half a second for what was allocated to be given back piece by piece, by a process that ends.
    os._exit(0 if complete else _INCOMPLETE)
