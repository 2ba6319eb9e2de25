"""A thread that writes lines, so that a slow or stuck sink never stops the event loop.

The queue is bounded in bytes; what does not fit is dropped and counted. `os.write` releases the GIL, so that the loop
serves requests while the kernel copies.
"""

from __future__ import annotations

import os
import select
import stat
from collections.abc import Callable
from queue import SimpleQueue
from threading import Lock, Thread

MAX_QUEUED_BYTES = 8 * 1024 * 1024
# POSIX writes this much to a pipe in one piece. Workers share one stdout: longer writes could mix within a line.
_ATOMIC = 4096


class Writer:
    """Hands bytes to `sink(data)` in order, in a thread of its own. Build one after the fork.

    `dropped` counts lines that never reached the sink.
    """

    def __init__(self, sink: Callable[[bytes], None], *, max_bytes: int = MAX_QUEUED_BYTES) -> None:
        self.dropped = 0
        self._sink = sink
        self._max_bytes = max_bytes
        self._queue: SimpleQueue[tuple[bytes, int] | None] = SimpleQueue()
        self._lock = Lock()
        self._queued = 0
        self._closed = False
        self._thread = Thread(target=self._run, name="log-writer", daemon=True)
        self._thread.start()

    def write(self, data: bytes, lines: int = 1) -> bool:
        """Queue whole lines; False (and counted) when the sink is too far behind. Any thread may call."""
        with self._lock:
            if self._closed or self._queued + len(data) > self._max_bytes:
                self.dropped += lines
                return False
            self._queued += len(data)
            self._queue.put((data, lines))
        return True

    def close(self, timeout: float) -> bool:
        """Write what is queued, for at most `timeout` seconds; False when the sink was stuck."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._queue.put(None)
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            data, lines = item
            try:
                self._sink(data)
            except OSError:
                # The reader has gone, or the disk is full: losing lines must not lose requests.
                with self._lock:
                    self.dropped += lines
            with self._lock:
                self._queued -= len(data)


class FdSink:
    """Writes to a descriptor: whole batches to a file, a few whole lines at a time to what others write to as well."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        mode = os.fstat(fd).st_mode
        # A file's lock (or no reader at all, as with /dev/null) keeps writes whole; pipes, sockets and ttys do not.
        self._whole = stat.S_ISREG(mode) or (stat.S_ISCHR(mode) and not os.isatty(fd))

    def __call__(self, data: bytes) -> None:
        if self._whole:
            self._write(memoryview(data))
            return
        view = memoryview(data)
        start = 0
        while len(data) - start > _ATOMIC:
            end = data.rfind(b"\n", start, start + _ATOMIC) + 1
            if not end:
                end = data.find(b"\n", start) + 1 or len(data)
            self._write(view[start:end])
            start = end
        self._write(view[start:])

    def _write(self, view: memoryview) -> None:
        while view:
            try:
                view = view[os.write(self._fd, view) :]
            except BlockingIOError:
                # Whoever shares the descriptor may have made it non-blocking.
                select.select((), (self._fd,), ())
