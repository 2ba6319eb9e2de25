"""Work in a process of its own, so that no request waits for it: what it is given goes to its standard input, its standard
output is the result.

PERF: in a thread of the worker, merging 8 MB of documents stopped the loop for 108 ms: the garbage collector's pauses over
half a million objects, and encoders that hold the interpreter. From here it is stopped for a few, and the memory goes back.
An interpreter more (0.15 s of CPU) is its price.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable
from io import FileIO
from typing import NoReturn

_SECONDS = 30
_MEMORY = 2 * 1024**3
# The modules are found where the worker finds them.
_CODE = "import sys; sys.path[:] = sys.argv[2:]; from importlib import import_module; import_module(sys.argv[1]).main()"


class NotMade(Exception):
    """The process came to no result: it ran out of time or memory, or could not be started."""


class OwnProcess:
    """Has `main` of a module called in another process, which ends by `give`. A call blocks and belongs into a thread."""

    def __init__(self, module: str, codes: frozenset[int] = frozenset((0,))) -> None:
        """`codes` are the exit codes with which there is a result."""
        self._module = module
        self._codes = codes
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = False

    def __call__(self, pieces: Iterable[bytes]) -> tuple[bytes, int]:
        """What it makes of `pieces` (see `given`), and its exit code. Raises `NotMade`."""
        try:
            with _scratch() as given_, _scratch() as taken:
                for piece in pieces:
                    given_.writelines((len(piece).to_bytes(8, "big"), piece))
                given_.seek(0)
                code = self._run(given_, taken)
                taken.seek(0)
                return taken.readall(), code
        except OSError as error:
            raise NotMade(f"no process could be started: {error.strerror}") from None

    def _run(self, given_: FileIO, taken: FileIO) -> int:
        command = [sys.executable, "-I", "-c", _CODE, self._module, *sys.path]
        with self._lock:
            if self._stopped:
                raise NotMade("the gateway ends")
            # Signals to the gateway's group are none of its business: who waits for it ends it.
            process = self._process = subprocess.Popen(  # noqa: S603
                command, stdin=given_, stdout=taken, stderr=subprocess.DEVNULL, start_new_session=True
            )
        try:
            code = process.wait(_SECONDS)
        except subprocess.TimeoutExpired:
            raise NotMade(f"it took longer than {_SECONDS} s") from None
        finally:
            process.kill()
            process.wait()
        if code not in self._codes:
            raise NotMade("its process ended without a result")
        return code

    def stop(self) -> None:
        """End what is under way; nothing else is started."""
        with self._lock:
            self._stopped = True
            if self._process is not None:
                self._process.kill()


def _scratch() -> FileIO:
    """A file that is nowhere: in memory where that exists, since a container may have no place to write to."""
    if hasattr(os, "memfd_create"):
        return FileIO(os.memfd_create("gateway", os.MFD_CLOEXEC), "w+b")
    fd, path = tempfile.mkstemp()  # pragma: no cover
    os.unlink(path)  # pragma: no cover
    return FileIO(fd, "w+b")  # pragma: no cover


# --- the other side ------------------------------------------------------------------------------------------------


def begin() -> None:
    """Before anything else: requests go first, and nothing runs away."""
    os.nice(10)
    resource.setrlimit(resource.RLIMIT_CPU, (_SECONDS, _SECONDS))
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))


def given() -> bytes:
    """The next of the pieces."""
    source = sys.stdin.buffer
    return source.read(int.from_bytes(source.read(8), "big"))


def give(result: bytes, code: int = 0) -> NoReturn:
    """End with `result`."""
    sys.stdout.buffer.write(result)
    sys.stdout.buffer.flush()
    # PERF: half a second for what was allocated to be given back piece by piece, by a process that ends.
    os._exit(code)
