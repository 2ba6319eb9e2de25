"""What workers write to stderr as lines of the log: a panic of the server, a fault of the interpreter, a library's complaint.

A worker cannot do it for itself: it may be about to abort. So its stderr is a pipe, which a thread of the parent reads.
"""

from __future__ import annotations

import os
import select
from contextlib import suppress
from threading import Thread
from time import time

from kernel.telemetry.lines import Encoder, stamp
from kernel.telemetry.redact import clean_text

_MAX_BYTES = 64 * 1024
# What comes within this is one text: a panic is written in several pieces.
_MEANWHILE = 0.05
_LAST_SECONDS = 1.0


class WorkerStderr:
    """One a parent. Its thread takes no lock: workers are forked while it runs."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._reader, self._writer = os.pipe()
        self._thread = Thread(target=self._run, name="worker-stderr", daemon=True)
        self._thread.start()

    def adopt(self) -> None:
        """In a worker that was just forked: have its stderr read."""
        os.dup2(self._writer, 2)
        os.close(self._writer)
        os.close(self._reader)

    def close(self) -> None:
        """All workers have ended: tell their last words."""
        os.close(self._writer)
        self._thread.join(_LAST_SECONDS)

    def _run(self) -> None:
        while data := os.read(self._reader, _MAX_BYTES):
            while len(data) < _MAX_BYTES and select.select([self._reader], [], [], _MEANWHILE)[0]:
                more = os.read(self._reader, _MAX_BYTES)
                if not more:
                    break
                data += more
            text = data.decode(errors="replace").strip()
            if text:
                line = {
                    "timestamp": stamp(time()),
                    "level": "error",
                    "event": "worker stderr",
                    "text": clean_text(text),
                }
                with suppress(OSError):  # nobody reads any more
                    os.write(2, self._encoder.event(line))
