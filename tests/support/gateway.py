"""The real gateway as a subprocess: granian, workers and all, against real upstreams and a real store."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from kernel.routing.platform import SERVICES

READY_SECONDS = 15.0


def free_port() -> int:
    """A loopback port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass
class GatewayProcess:
    """A running `gateway run`. `log()` is everything it has printed."""

    process: subprocess.Popen[bytes]
    port: int
    output: Path
    env: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def log(self) -> str:
        return self.output.read_text(errors="replace")

    def stop(self, sig: signal.Signals = signal.SIGTERM, timeout: float = 10.0) -> int:
        """End it and return its exit code; a gateway that does not end in time is killed and fails the test."""
        if self.process.poll() is None:
            self.process.send_signal(sig)
            try:
                self.process.wait(timeout)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise AssertionError(f"the gateway did not end within {timeout} s:\n{self.log()}") from None
        return self.process.returncode

    def _connected(self) -> socket.socket:
        plain = socket.create_connection(("127.0.0.1", self.port), 1)
        if "TLS_CERT_FILE" not in self.env:
            return plain
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        with plain:
            return context.wrap_socket(plain)

    def wait_ready(self) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise AssertionError(f"the gateway ended with {self.process.returncode}:\n{self.log()}")
            with contextlib.suppress(OSError), self._connected() as sock:
                sock.settimeout(1)
                sock.sendall(b"GET /health/ready HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n")
                if b" 200 " in sock.recv(64):
                    return
            time.sleep(0.02)
        raise AssertionError(f"the gateway was not ready within {READY_SECONDS} s:\n{self.log()}")


def workers(gateway: GatewayProcess) -> list[int]:
    """The gateway's worker processes (they have the same command line; an embedded store has not)."""
    pid = gateway.process.pid
    own = Path(f"/proc/{pid}/cmdline").read_bytes()
    found = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if Path(f"/proc/{child}/cmdline").read_bytes() == own:
                found.append(int(child))
    return found


def service_env(url: str) -> dict[str, str]:
    """Every service URL variable set to `url`."""
    return {service.env: url for service in SERVICES}


def start_gateway(
    env: dict[str, str], directory: Path, *, max_files: int | None = None, first: str = ""
) -> GatewayProcess:
    """Run `gateway run` with exactly `env` (and PATH), ready to answer; `max_files` is the limit of open files, and `first`
    a line of Python that runs before."""
    port = int(env.get("PORT", 0)) or free_port()
    full = {
        "PATH": os.environ["PATH"],
        # `make coverage` counts what runs in it, and in its workers.
        **{name: value for name, value in os.environ.items() if name.startswith("COVERAGE_")},
        "HOST": "127.0.0.1",
        "PORT": str(port),
        "ENVIRONMENT": "dev",
        "LOG_LEVEL": "INFO",
        "DRAIN_SECONDS": "0",
        **{name: value for name, value in env.items() if name != "PORT"},
    }
    output = Path(tempfile.mkstemp(dir=directory, suffix=".log")[1])
    limited = [] if max_files is None else ["/bin/sh", "-c", 'ulimit -n "$0" && exec "$@"', str(max_files)]
    code = f"{first}\nimport sys\nfrom kernel.cli import main\nsys.exit(main(['run']))"
    program = ["-c", code] if first else ["-m", "kernel", "run"]
    with output.open("wb") as sink:
        process = subprocess.Popen(
            [*limited, sys.executable, *program],
            env=full,
            stdout=sink,
            stderr=sink,
            start_new_session=True,
        )
    gateway = GatewayProcess(process, port, output, full)
    try:
        gateway.wait_ready()
    except AssertionError:
        process.kill()
        process.wait()
        raise
    return gateway


GatewayFactory = Callable[[dict[str, str]], GatewayProcess]


@pytest.fixture(scope="module")
def gateway_factory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayFactory]:
    """Starts gateways that are stopped with the module's last test."""
    running: list[GatewayProcess] = []
    directory = tmp_path_factory.mktemp("gateway")

    def start(env: dict[str, str]) -> GatewayProcess:
        gateway = start_gateway(env, directory)
        running.append(gateway)
        return gateway

    yield start
    for gateway in running:
        gateway.stop()
