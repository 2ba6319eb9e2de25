"""The thread that redacts, encodes and writes records, so that neither a slow disk nor a large body holds the event loop up.

It gives the interpreter away after each record: one that computes keeps it for 5 ms, which every request would wait for.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import secrets
import time
from pathlib import Path
from queue import SimpleQueue
from threading import Thread

from kernel.capture.entry import Encoder
from kernel.capture.recording import Recorder, Recording
from kernel.telemetry.log import Log
from kernel.telemetry.rotating import RotatingFile, locked

# `CAPTURE_MAX_BYTES` is that of all of them together.
FILES = 4
# What one write takes at most.
_BATCH_BYTES = 1024 * 1024
_CLOSE_SECONDS = 2.0
_KEY_BYTES = 32


class Capture:
    """Recorder, thread and file of one worker."""

    def __init__(self, path: Path, encoder: Encoder, log: Log, *, max_bytes: int, body_bytes: int) -> None:
        self.recorder = Recorder(self._take, body_bytes)
        self.written = self.failed = 0
        self._encoder = encoder
        self._log = log
        self._path = path
        self._file = RotatingFile(path, max_bytes=max_bytes // FILES, files=FILES)
        self._longest = max_bytes // FILES
        self._most = min(_BATCH_BYTES, max_bytes // FILES)
        self._queue: SimpleQueue[list[Recording] | None] = SimpleQueue()
        self._lost = False
        self._thread = Thread(target=self._run, name="capture-writer", daemon=True)
        self._thread.start()

    def families(self) -> dict[str, dict[str, int]]:
        """For the metrics."""
        dropped = self.recorder.dropped + self.failed
        return {"gateway_capture_records_total": {"written": self.written, "dropped": dropped}}

    async def close(self) -> None:
        """Write what there is; a stuck disk is given up on."""
        self.recorder.close()
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join, _CLOSE_SECONDS)
        if not self._thread.is_alive():
            self._file.close()

    def _take(self, recordings: list[Recording]) -> None:
        self._queue.put(recordings)

    def _run(self) -> None:
        while (recordings := self._queue.get()) is not None:
            lines: list[bytes] = []
            size = 0
            for recording in recordings:
                line = self._line(recording)
                if size + len(line) > self._most:
                    self._write(lines)
                    lines, size = [], 0
                lines.append(line)
                size += len(line)
                # PERF: lets the loop go on at once when it wants to.
                time.sleep(0)
            self._write(lines)

    def _line(self, recording: Recording) -> bytes:
        held = recording.held
        try:
            line = self._encoder.line(recording)
            if len(line) <= self._longest:
                return line
            raise ValueError("it is longer than a fourth of CAPTURE_MAX_BYTES")
        except Exception as error:
            # What a client sends must not end the capture.
            self.failed += 1
            self._say_lost(f"a record cannot be made: {type(error).__name__}: {error}")
            return b""
        finally:
            del recording.x  # each holds the other
            recording.asked.clear()
            recording.told.clear()
            self.recorder.written(1, held)

    def _write(self, lines: list[bytes]) -> None:
        if not any(lines):
            return
        try:
            self._file(b"".join(lines))
        except OSError as error:
            self.failed += sum(map(bool, lines))
            self._say_lost(error.strerror or str(error))
            return
        self.written += sum(map(bool, lines))
        if self._lost:
            self._lost = False
            self._log.info("requests are captured again", file=str(self._path), lost=self.failed)

    def _say_lost(self, reason: str) -> None:
        if not self._lost:
            self._lost = True
            self._log.warning("requests cannot be captured", file=str(self._path), reason=reason)


def file_key(run_dir: Path) -> bytes:
    """The key of this run's keyed hashes, the same for all workers; the first one makes it.

    SECURITY: it goes with the run directory, so that nobody who gets the capture later can test guesses of what it held.
    """
    path = run_dir / "capture.key"
    with locked(path, fcntl.LOCK_EX):
        try:
            return path.read_bytes()
        except FileNotFoundError:
            key = secrets.token_bytes(_KEY_BYTES)
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600), "wb") as file:
                file.write(key)
            return key
