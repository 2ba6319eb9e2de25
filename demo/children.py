"""Children, their output and the stop signals in one select loop: no thread, no event loop."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import time
from collections import deque
from collections.abc import Mapping, Sequence
from types import FrameType

from demo import processes
from demo.follow import parse, printable, summary

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_TAIL_LINES = 12


class Stopped(Exception):
    """The user asked for the end: Ctrl-C, SIGTERM or SIGHUP."""


class ChildDied(Exception):
    """A child ended by itself; the message says which, how, and its last words."""


class Child:
    """A process whose output (both streams) is read here. `tail` keeps its last lines of text, and its complaints."""

    def __init__(
        self, name: str, arguments: Sequence[str], environment: Mapping[str, str], directory: str
    ) -> None:
        self.name = name
        self.process = processes.spawn(
            arguments,
            environment=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=directory,
        )
        assert self.process.stdout is not None
        self.output = self.process.stdout
        self.tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self._rest = b""
        os.set_blocking(self.output.fileno(), False)

    def read(self) -> bytes:
        """What it has printed since; b"" at its end."""
        data = self.output.read1(1 << 16)  # type: ignore[attr-defined]  # a BufferedReader, which IO does not say
        *lines, self._rest = (self._rest + data).split(b"\n") if data else (self._rest, b"")
        for line in lines:
            if b'"event":"request"' in line:
                continue
            record = parse(line)
            if record is None:
                text = printable(line.decode("utf-8", "replace"))
            else:
                text = "" if record.get("level") in ("debug", "info") else summary(record)
            if text.strip():
                self.tail.append(text)
        return bytes(data)

    def last_words(self) -> str:
        """How it ended, and its last lines."""
        code = self.process.poll()
        how = f"with exit code {code}" if code is not None and code >= 0 else f"by signal {-(code or 0)}"
        lines = "".join(f"\n    {line}" for line in self.tail)
        return f"the {self.name} ended {how}; its last lines:{lines or ' (none)'}"


class Supervisor:
    """Runs children until told to stop. `turn` is the only place that waits.

    A context manager: it takes the stop signals over. From its end on they are ignored: what a demo still has to remove
    takes milliseconds, and an impatient Ctrl-C would leave it there.
    """

    def __init__(self) -> None:
        self.children: list[Child] = []
        self.stop_requests = 0
        self._selector = selectors.DefaultSelector()
        self._wake_reader, self._wake_writer = os.pipe()

    def __enter__(self) -> Supervisor:
        for end in (self._wake_reader, self._wake_writer):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(self._wake_writer, warn_on_full_buffer=False)
        for number in SIGNALS:
            signal.signal(number, self._requested)
        self._selector.register(self._wake_reader, selectors.EVENT_READ)
        return self

    def __exit__(self, *_: object) -> None:
        signal.set_wakeup_fd(-1)
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        self._selector.close()
        os.close(self._wake_reader)
        os.close(self._wake_writer)

    def add(self, child: Child) -> Child:
        """Watches `child` from now on."""
        self.children.append(child)
        self._selector.register(child.output, selectors.EVENT_READ, child)
        return child

    def turn(self, seconds: float) -> list[tuple[Child, bytes]]:
        """Waits up to `seconds` for output or a signal; returns what the children printed."""
        printed = []
        for key, _ in self._selector.select(seconds):
            if key.data is None:
                os.read(self._wake_reader, 64)
                continue
            child: Child = key.data
            data = child.read()
            if data:
                printed.append((child, data))
            else:
                self._selector.unregister(child.output)
                child.output.close()
        return printed

    def check(self) -> None:
        """Raises `Stopped` when a signal came, `ChildDied` when a child has ended."""
        if self.stop_requests:
            raise Stopped
        for child in self.children:
            if child.process.poll() is not None:
                self.turn(0)
                raise ChildDied(child.last_words())

    def stop(self, child: Child, seconds: float) -> None:
        """SIGTERM, then after `seconds` - or at once when the user insists - SIGKILL to all that is left of it."""
        asked = self.stop_requests
        if child.process.poll() is None:
            child.process.terminate()
            deadline = time.monotonic() + seconds
            # Its output is read on: a child that cannot write does not end.
            while (
                child.process.poll() is None and time.monotonic() < deadline and self.stop_requests == asked
            ):
                self.turn(0.02)
        processes.kill(child.process)
        self.children.remove(child)

    def _requested(self, _: int, __: FrameType | None) -> None:
        self.stop_requests += 1
