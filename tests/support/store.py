"""Fixtures around a real store. `store_server` is shared by the session and emptied for each test that asks for it."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from kernel.server.embedded_store import EmbeddedStore, find_binary

# The fixtures: what conftest.py imports.
__all__ = ["cluster", "mortal_store", "redis_cli", "session_store", "store_server", "watched"]


async def until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    """Let the loop run until `condition` holds; fail the test when it does not within `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition never came true"
        await asyncio.sleep(0.002)


class RawServer:
    """A server with a configuration of its own (cluster node, sentinel) on a loopback port."""

    def __init__(self, directory: Path, config: str, *arguments: str) -> None:
        directory.mkdir()
        self.directory = directory
        for attempt in range(3):
            self.port = self._free_port()
            file = directory / "server.conf"
            file.write_text(f'port {self.port}\nbind 127.0.0.1\nsave ""\ndir {directory}\n{config}\n')
            self._command: list[str | Path] = [find_binary(), file, *arguments]
            self.client = redis.Redis(port=self.port, decode_responses=True)
            try:
                self.start()
                return
            except redis.ConnectionError:  # somebody was faster with that port, or with the cluster bus's
                if attempt == 2:
                    raise

    @staticmethod
    def _free_port() -> int:
        while True:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port: int = probe.getsockname()[1]
            if port <= 55000:  # a cluster node listens on its port + 10000, too
                return port

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Run it, again after a `kill`, and return once it answers (if only that it is loading its data)."""
        self.process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, cwd=self.directory)
        deadline = time.monotonic() + 5
        while True:
            try:
                self.client.ping()
                return
            except redis.BusyLoadingError:
                return
            except redis.ConnectionError:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    self.kill()
                    raise
                time.sleep(0.01)

    def signal(self, number: int) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def call(self, *args: str | int) -> Any:
        """The raw reply of one command."""
        pool = self.client.connection_pool
        connection = pool.get_connection()
        try:
            connection.send_command(*args)  # type: ignore[no-untyped-call]
            return connection.read_response()
        finally:
            connection.disconnect()  # type: ignore[no-untyped-call]
            pool.release(connection)

    def kill(self) -> None:
        """End it at once."""
        self.client.close()
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="session")
def session_store() -> Iterator[EmbeddedStore]:
    """The session's one server. Tests use `store_server`, which empties it first."""
    with EmbeddedStore() as server:
        yield server


@pytest.fixture
def store_server(session_store: EmbeddedStore) -> EmbeddedStore:
    """A running, empty store; `.url` is its address. Do not stop it: see `mortal_store`."""
    with redis.Redis.from_url(session_store.url) as client:
        client.flushall()
        client.script_flush()
    return session_store


@pytest.fixture
def mortal_store() -> Iterator[EmbeddedStore]:
    """A store of the test's own, which it may `kill()` and `start()` again at the same address."""
    with EmbeddedStore() as server:
        yield server


@pytest.fixture
def redis_cli(store_server: EmbeddedStore) -> Iterator[redis.Redis]:
    """A plain blocking client of `store_server`: the stranger who changes keys by hand."""
    with redis.Redis.from_url(store_server.url, decode_responses=True) as client:
        yield client


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[tuple[RawServer, RawServer, RawServer]]:
    """A master, its successor to be, and a sentinel that watches the master."""
    servers: list[RawServer] = []
    try:
        servers.append(RawServer(tmp_path / "first", ""))
        servers.append(RawServer(tmp_path / "second", ""))
        monitor = f"sentinel monitor mymaster 127.0.0.1 {servers[0].port} 1"
        servers.append(RawServer(tmp_path / "sentinel", monitor, "--sentinel"))
        yield servers[0], servers[1], servers[2]
    finally:
        for server in servers:
            server.kill()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[RawServer]]:
    """Two primaries that share the slots."""
    config = "cluster-enabled yes\ncluster-node-timeout 1000\ncluster-allow-replica-migration no"
    directory = tmp_path_factory.mktemp("cluster")
    nodes: list[RawServer] = []
    try:
        nodes.extend(RawServer(directory / str(number), config) for number in range(2))
        nodes[0].call("CLUSTER", "ADDSLOTSRANGE", 0, 8191)
        nodes[1].call("CLUSTER", "ADDSLOTSRANGE", 8192, 16383)
        nodes[0].call("CLUSTER", "MEET", "127.0.0.1", nodes[1].port)
        deadline = time.monotonic() + 10
        while any("cluster_state:ok" not in str(node.call("CLUSTER", "INFO")) for node in nodes):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield nodes
    finally:
        for node in nodes:
            node.kill()
