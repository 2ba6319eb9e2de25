"""What stands around a measured peer for one run: upstream, the echo behind it, store, keys, a directory."""

from __future__ import annotations

import copy
import json
import os
import shutil
import socket
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from bench.keys import Keys
from bench.machine import Cores, cores, session_seconds
from bench.process import Process, free_port
from kernel.server.embedded_store import EmbeddedStore

REPOSITORY = Path(__file__).resolve().parent.parent
PATH = "/api/v1/inventory/items"
ECHO = "/api/v1/inventory/echo"
LARGE = "/api/v1/inventory/large"
LARGE_BYTES = 1024 * 1024
BODY = json.dumps(
    {
        "items": [
            {"id": "flour-t65", "name": "Harina T65", "stock": 412.5, "unit": "kg", "reorder_at": 150},
            {"id": "butter-82", "name": "Mantequilla 82 %", "stock": 38.0, "unit": "kg", "reorder_at": 40},
            {"id": "yeast-fresh", "name": "Levadura fresca", "stock": 9.2, "unit": "kg", "reorder_at": 6},
        ],
        "total": 3,
    },
    separators=(",", ":"),
)

_NGINX = """
{user}daemon off; worker_processes 1; pid {directory}/upstream.pid; error_log {directory}/upstream-error.log crit;
events {{ worker_connections 16384; }}
http {{
  access_log off; client_body_temp_path {directory}/upstream-body; proxy_temp_path {directory}/upstream-proxy;
  fastcgi_temp_path {directory}/u-f; uwsgi_temp_path {directory}/u-u; scgi_temp_path {directory}/u-s;
  keepalive_timeout 120s; keepalive_requests 1000000000; default_type application/json;
  underscores_in_headers on; ignore_invalid_headers off;
  server {{
    listen 127.0.0.1:{port} backlog=4096 reuseport;
    location / {{ return 200 '{body}'; }}
    location = {large} {{ alias {directory}/large; }}
    location = {echo} {{ proxy_pass http://127.0.0.1:{echo_port}; proxy_set_header Host $http_host; }}
  }}
}}
"""


class MissingTool(RuntimeError):
    """A program that every run needs is not installed."""


class Rig:
    """nginx answering `BODY` from memory, an echo, a Valkey: all on the load core. A context manager.

    With `upstream_port` the caller brings its own upstream, and neither nginx nor wrk is needed.

    Raises:
        MissingTool: wrk or nginx is not installed.
    """

    def __init__(self, *, upstream_port: int | None = None) -> None:
        self._own_upstream = upstream_port is None
        if self._own_upstream:
            for tool in ("nginx", "wrk"):
                if shutil.which(tool) is None:
                    raise MissingTool(f"{tool} is not installed: apt-get install {tool}")
        self.cores: Cores = cores()
        self.allowed = os.sched_getaffinity(0)
        self.keys = Keys()
        self.token = self.keys.token()
        self.directory = Path(tempfile.mkdtemp(prefix="gateway-bench-"))
        self.upstream_port = upstream_port or free_port()
        self._store = EmbeddedStore()
        self._stack = ExitStack()
        self._helpers: list[Process] = []

    @property
    def upstream(self) -> str:
        """host:port of the upstream."""
        return f"127.0.0.1:{self.upstream_port}"

    def behind(self, port: int) -> Rig:
        """The same rig for a peer whose upstream is the caller's, on `port`; not to be entered."""
        other = copy.copy(self)
        other.upstream_port = port
        return other

    @property
    def store_url(self) -> str:
        return self._store.url

    def empty_store(self) -> None:
        """Forget what an earlier peer kept: they share key names, not formats."""
        with socket.socket(socket.AF_UNIX) as link:
            link.settimeout(5)
            link.connect(str(self._store.socket_path))
            link.sendall(b"FLUSHALL\r\n")
            if not link.recv(64).startswith(b"+OK"):
                raise RuntimeError("the store cannot be emptied")

    def helper_seconds(self) -> float:
        """CPU seconds so far of what belongs to the rig on the load core."""
        sessions = [process.pid for process in self._helpers]
        if self._store.pid is not None:
            sessions.append(self._store.pid)
        return sum(map(session_seconds, sessions))

    def __enter__(self) -> Rig:
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def _start(self) -> None:
        self._stack.callback(shutil.rmtree, self.directory, ignore_errors=True)
        self._stack.callback(os.sched_setaffinity, 0, os.sched_getaffinity(0))
        os.sched_setaffinity(0, {self.cores.load})  # inherited by every child; only the peers are moved
        self._stack.enter_context(self._store)
        if self._own_upstream:
            self._start_upstream()

    def _start_upstream(self) -> None:
        echo_port = free_port()
        (self.directory / "large").write_bytes(os.urandom(LARGE_BYTES))
        config = self.directory / "upstream.conf"
        config.write_text(
            _NGINX.format(
                directory=self.directory,
                user="user root;\n" if os.geteuid() == 0 else "",  # else it may not read our directory
                port=self.upstream_port,
                echo=ECHO,
                large=LARGE,
                echo_port=echo_port,
                body=BODY,
            )
        )
        helpers = (
            ("upstream", ["nginx", "-e", "stderr", "-c", str(config)], self.upstream_port),
            ("echo", [sys.executable, "-m", "bench.echo", str(echo_port)], echo_port),
        )
        for name, command, port in helpers:
            process = Process(
                command, core=self.cores.load, log=self.directory / f"{name}.log", cwd=REPOSITORY
            )
            self._helpers.append(self._stack.enter_context(process))
            process.wait_for_port(port)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
