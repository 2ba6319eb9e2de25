"""Pinned child processes that never outlive the benchmark."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from bench.machine import session_seconds

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)


class StartError(RuntimeError):
    """A process ended, or did not open its port in time; the message holds the end of its output."""


def free_port() -> int:
    """A loopback TCP port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Process:
    """One program in a session of its own, pinned to `core`, output in `log`; as a context manager it always ends.

    `batch` has it scheduled from the start as a gateway that is busy schedules itself (see kernel/server/cpu_policy.py).
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        core: int | frozenset[int],
        log: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        batch: bool = False,
    ) -> None:
        self.log = log
        self._command = command[0]

        allowed = {core} if isinstance(core, int) else core

        def prepare() -> None:
            os.sched_setaffinity(0, allowed)
            if batch:
                os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
            _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # a killed benchmark leaves no server behind

        with log.open("ab") as out:
            self._popen = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(env or {})},
                cwd=cwd,
                start_new_session=True,
                preexec_fn=prepare,  # noqa: PLW1509 (the benchmark has one thread)
            )

    @property
    def pid(self) -> int:
        return self._popen.pid

    def cpu_seconds(self) -> float:
        """CPU seconds of the program and all its workers so far."""
        return session_seconds(self.pid)

    def wait_for_port(self, port: int, *, timeout: float = 20.0) -> float:
        """Poll until 127.0.0.1:`port` accepts; returns the seconds it took; raises StartError."""
        began = time.monotonic()
        while time.monotonic() - began < timeout:
            if self._popen.poll() is not None:
                raise StartError(f"{self._command} ended with {self._popen.returncode}: {self.tail(300)}")
            try:
                socket.create_connection(("127.0.0.1", port), 0.2).close()
            except OSError:
                time.sleep(0.01)
            else:
                return time.monotonic() - began
        raise StartError(f"{self._command} did not listen within {timeout:g} s: {self.tail(300)}")

    def tail(self, size: int = 2000) -> str:
        """The end of what it printed, on one line."""
        return " | ".join(self.log.read_bytes()[-size:].decode(errors="replace").split("\n")).strip(" |")

    def stop(self, *, grace: float = 4.0) -> None:
        """SIGTERM, then SIGKILL for whatever of its session is left."""
        if self._popen.poll() is None:
            self._popen.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._popen.wait(grace)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._popen.wait()

    def __enter__(self) -> Process:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
