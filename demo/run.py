"""`gateway demo`: the whole product on one machine - embedded store, stub platform, gateway - until Ctrl-C.

    1. claim the port          a taken one is said at once
    2. store, then platform    it publishes alerts there
    3. gateway                 with the platform's URLs and keys; wait for /health/ready
    4. announce                info file, banner
    5. follow                  show requests; a child that dies ends the demo
    6. clean up                gateway, platform, store, files - whatever happened

The children are in sessions of their own, so that Ctrl-C reaches only this process, which ends them in order; the
kernel ends them should this process be killed.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from demo.banner import banner
from demo.children import Child, ChildDied, Stopped, Supervisor
from demo.files import write_private
from demo.follow import Follower, Style
from demo.platform.info import Info
from kernel.http.addresses import in_url
from kernel.server.embedded_store import EmbeddedStore, EmbeddedStoreError
from kernel.server.listening import probe
from kernel.server.run_directory import NoDirectory, make_directory

ROOT = Path(__file__).resolve().parents[1]

_START_SECONDS = 20.0
_GATEWAY_STOP_SECONDS = 2.0
_PLATFORM_STOP_SECONDS = 0.5
_POLL_SECONDS = 0.02
# Of the caller's environment, what would point the gateway elsewhere or make it hard to reach.
_DROPPED = (
    "REDIS_",
    "JWT_",
    "TLS_",
    "HTTPS_ONLY",
    "ALLOWED_HOSTS",
    "STRUCTLOG_PRETTY_PRINT",
    "GATEWAY_RUN_DIR",
)
# Of a service, of a version of its API, or of what stands beside it.
_SERVICE_URL = re.compile(r"_SERVICE_URL(?:_V[0-9]+|_CANARY|_MIRROR)?\Z")
# Where the gateway runs, a relative path would lead elsewhere.
_FILES = ("GATEWAY_CONFIG", "AUDIT_LOG_FILE", "CAPTURE_FILE")


class DemoError(Exception):
    """The demo cannot start; the message is for the user."""


def main(argv: Sequence[str]) -> int:
    """Runs the demo with the arguments that follow `gateway demo`. Returns the exit code."""
    options = _parse(argv)
    try:
        with contextlib.ExitStack() as resources:
            demo = Demo(options, resources)
            try:
                demo.start()
                demo.announce()
                demo.follow()
            except Stopped:
                say("\nStopping... ")
        say("stopped.\n")
        return 0
    except BrokenPipeError:
        # Nobody reads any more; Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (DemoError, ChildDied, EmbeddedStoreError, NoDirectory) as error:
        sys.stderr.write(f"gateway demo: {error}\n")
        return 1


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="gateway demo",
        description="Store, stub platform and gateway, on this machine, until Ctrl-C.",
        epilog="Your variables count: INVENTORY_SERVICE_URL puts a service of yours in the stub's place, CORS_ORIGINS lets "
        "your page in, GATEWAY_CONFIG takes the place of demo/gateway.toml. Store, keys and TLS are the demo's own; .env is "
        "not read.",
    )
    port = os.environ.get("PORT", "")
    parser.add_argument(
        "--port", type=_port, default=port or "8000", help="default: PORT or 8000; 0: any free one"
    )
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on; default: this machine only"
    )
    parser.add_argument(
        "--info", type=Path, metavar="FILE", help="write URLs and tokens there, as JSON, when ready"
    )
    return parser.parse_args(argv)


def _port(text: str) -> int:
    if text.isascii() and text.isdigit() and int(text) <= 65535:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a port (0 to 65535)")


def with_the_callers(own: Mapping[str, str], environ: Mapping[str, str]) -> dict[str, str]:
    """The gateway's variables: the demo's `own`, but for services, pages and files of the caller's."""
    merged = dict(own)
    for name, value in environ.items():
        if _SERVICE_URL.search(name):
            merged[name] = value
        elif name in _FILES and value:
            merged[name] = str(Path(value).absolute())
        elif name == "CORS_ORIGINS" and value:
            merged[name] = ",".join(filter(None, (own.get(name, ""), value)))
    return merged


class Demo:
    """One run. What it makes is unmade by `resources`."""

    def __init__(self, options: argparse.Namespace, resources: contextlib.ExitStack) -> None:
        self._started = time.monotonic()
        self._options = options
        self._resources = resources
        self._style = Style(sys.stdout.isatty() and "NO_COLOR" not in os.environ)
        self._port = 0
        self._url = ""
        self._directory = Path()
        self._store: EmbeddedStore
        self._info: Info
        self._supervisor: Supervisor

    def start(self) -> None:
        """Steps 1 to 3. Raises `DemoError`, `ChildDied`, `EmbeddedStoreError`, `NoDirectory`, `Stopped`."""
        self._port = claim_port(self._options.host, self._options.port)
        self._url = f"http://{in_url(reachable(self._options.host))}:{self._port}"
        self._directory = make_directory("bakery-")
        self._resources.callback(shutil.rmtree, self._directory, ignore_errors=True)
        self._supervisor = self._resources.enter_context(Supervisor())
        # Whatever anyone of them leaves behind goes with the directory.
        tempfile.tempdir = str(self._directory)

        described = self._directory / "platform.json"
        self._store = self._resources.enter_context(EmbeddedStore(port=0))
        platform = ("demo.platform", "--info", str(described), "--redis", self._store.url)
        self._run("stub platform", platform, {}, _PLATFORM_STOP_SECONDS)
        self._wait_until(described.exists, "the stub platform is not ready")
        self._info = msgspec.json.decode(described.read_bytes(), type=Info)
        environment = {
            **with_the_callers(
                {
                    **self._info.environment,
                    **self._info.beside,
                    "GATEWAY_CONFIG": str(self._config()),
                    "GRAPHQL": "true",
                },
                os.environ,
            ),
            "REDIS_URL": self._store.url,
            "HOST": self._options.host,
            "PORT": str(self._port),
            "ENVIRONMENT": "dev",
            "DRAIN_SECONDS": "0",  # no balancer has to notice
            "SHUTDOWN_GRACE_SECONDS": "1",
        }
        self._run("gateway", ("kernel", "run"), environment, _GATEWAY_STOP_SECONDS)
        address = (reachable(self._options.host), self._port)
        self._wait_until(lambda: is_ready(address), f"the gateway does not answer on {self._url}")

    def _config(self) -> Path:
        """The gateway's configuration; with the service that speaks gRPC, where the platform has it."""
        config = ROOT / "demo" / "gateway.toml"
        if "LOYALTY_SERVICE_URL" not in self._info.beside:
            return config
        more = (ROOT / "demo" / "grpc.toml").read_text()
        whole = self._directory / "gateway.toml"
        place = 'descriptors = "'
        whole.write_text(config.read_text() + more.replace(place, f"{place}{ROOT / 'demo'}/"))
        return whole

    def announce(self) -> None:
        """Step 4."""
        assert self._store.tcp_url is not None
        if self._options.info:
            document = {
                "url": self._url,
                "redis": self._store.tcp_url,
                "tokens": self._info.tokens,
                "tenants": self._info.tenants,
                "page": f"{self._info.page}/#gateway={self._url}",
                "pid": os.getpid(),
            }
            path: Path = self._options.info.absolute()
            try:
                write_private(path, msgspec.json.format(msgspec.json.encode(document)))
            except OSError as error:
                raise DemoError(f"cannot write {path}: {error.strerror}") from None
            self._resources.callback(path.unlink, missing_ok=True)
        seconds = time.monotonic() - self._started
        say(banner(self._url, self._store.tcp_url, self._info, seconds, self._style))

    def follow(self) -> None:
        """Step 5: returns by raising `Stopped` or `ChildDied`."""
        names = {account.user_id: account.name.split()[0] for account in self._info.accounts}
        follower = Follower(self._style, names)
        while True:
            printed = [data for child, data in self._supervisor.turn(0.5) if child.name == "gateway"]
            text = "".join(line + "\n" for line in follower.feed(b"".join(printed)))
            if text:
                say(text)
            self._supervisor.check()
            if self._store.pid is None:
                raise ChildDied("the embedded store ended")

    def _run(
        self, name: str, module: tuple[str, ...], environment: dict[str, str], stop_seconds: float
    ) -> None:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(_DROPPED)}
        own = {
            "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
            "TMPDIR": str(self._directory),
        }
        # In a directory of its own no .env file is read.
        child = Child(
            name,
            (sys.executable, "-m", *module),
            {**inherited, **own, **environment},
            str(self._directory),
        )
        self._supervisor.add(child)
        self._resources.callback(self._supervisor.stop, child, stop_seconds)

    def _wait_until(self, condition: Callable[[], bool], problem: str) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while not condition():
            self._supervisor.turn(_POLL_SECONDS)
            self._supervisor.check()
            if time.monotonic() > deadline:
                raise DemoError(f"{problem} after {_START_SECONDS:.0f} s")


def say(text: str) -> None:
    """Prints at once."""
    sys.stdout.write(text)
    sys.stdout.flush()


def reachable(host: str) -> str:
    """Where a client on this machine finds a server that listens on `host`."""
    return {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)


def claim_port(host: str, port: int) -> int:
    """`port`, or a free one for 0. Raises `DemoError` when it cannot be listened on."""
    try:
        # Alone: the gateway's workers share their port, so they would join another gateway's.
        return probe(host, port)
    except OSError as error:
        raise DemoError(
            f"cannot listen on {in_url(host)}:{port}: {error.strerror}. Choose another port: "
            f"make demo PORT={port + 1}, or gateway demo --port {port + 1} (0: any free one)."
        ) from None


def is_ready(address: tuple[str, int]) -> bool:
    """Whether the gateway answers that it is ready."""
    with contextlib.suppress(OSError), socket.create_connection(address, 1.0) as client:
        client.sendall(b"GET /health/ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        client.settimeout(1.0)
        return client.recv(64).startswith(b"HTTP/1.1 200 ")
    return False
