"""Client connections on which nothing is said are ended; whatever else the process has open is left alone."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncIterator, Iterator, Mapping

import pytest

from kernel.server.idle_connections import IDLE, SILENT, IdleConnections

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="TCP_INFO is Linux's")

FIRST, NEVER = 0.3, 3600.0
REQUEST = b"GET /api/v1/alerts/stream HTTP/1.1\r\n"


class Server:
    """Listens, accepts and says nothing, like a server that waits for a first byte."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        self.pairs: list[tuple[socket.socket, socket.socket]] = []

    def client(self, said: bytes = b"", answer: bytes = b"") -> socket.socket:
        client = socket.create_connection(("127.0.0.1", self.port))
        accepted, _ = self.listener.accept()
        client.sendall(said)
        accepted.sendall(answer)
        client.setblocking(False)
        self.pairs.append((client, accepted))
        return client

    def close(self) -> None:
        for each in [self.listener, *(one for pair in self.pairs for one in pair)]:
            each.close()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


@pytest.fixture
async def watched(server: Server) -> AsyncIterator[tuple[Server, IdleConnections, list[Mapping[str, int]]]]:
    reports: list[Mapping[str, int]] = []
    idle = IdleConnections(asyncio.get_running_loop(), server.port, FIRST, NEVER, reports.append)
    idle.start()
    yield server, idle, reports
    idle.stop()


async def ended(client: socket.socket) -> bytes:
    """What still comes, once the connection has been ended."""
    async with asyncio.timeout(10):
        got = b""
        while data := await asyncio.get_running_loop().sock_recv(client, 1024):
            got += data
        return got


def is_open(client: socket.socket) -> bool:
    try:
        return client.recv(1, socket.MSG_PEEK) != b""
    except BlockingIOError:
        return True


@pytest.mark.parametrize("said", [b"", b"PRI * HTTP/2"])
async def test_one_that_never_says_what_it_speaks_is_ended(
    watched: tuple[Server, IdleConnections, list[Mapping[str, int]]], said: bytes
) -> None:
    server, idle, reports = watched
    silent, speaking = server.client(said), server.client(REQUEST)
    assert await ended(silent) == b""
    assert is_open(speaking)
    assert idle.closed == {SILENT: 1, IDLE: 0}
    while not reports:
        await asyncio.sleep(0.01)
    assert reports == [{SILENT: 1, IDLE: 0}]


async def test_many_are_ended_in_shares(
    watched: tuple[Server, IdleConnections, list[Mapping[str, int]]],
) -> None:
    server, idle, reports = watched
    clients = [server.client() for _ in range(300)]
    for client in clients:
        await ended(client)
    while not reports:
        await asyncio.sleep(0.01)
    assert idle.closed[SILENT] == 300


async def test_one_that_rests_too_long_is_ended_and_one_that_hears_something_is_not(server: Server) -> None:
    idle = IdleConnections(asyncio.get_running_loop(), server.port, NEVER, 1.5, lambda ended: None)
    resting, hearing = server.client(REQUEST), server.client(REQUEST)
    idle.start()

    async def talk() -> None:
        while True:
            server.pairs[1][1].sendall(b": heartbeat\n\n")
            await asyncio.sleep(0.1)

    talking = asyncio.create_task(talk())
    await ended(resting)
    assert is_open(hearing)
    assert idle.closed == {SILENT: 0, IDLE: 1}
    talking.cancel()
    idle.stop()


async def test_what_is_no_clients_connection_is_left_alone(server: Server) -> None:
    """The other port's stand for connections to services and to the store; pipes, files and listeners are no connections."""
    idle = IdleConnections(asyncio.get_running_loop(), server.port, 0.1, 0.1, lambda ended: None)
    other = Server()
    elsewhere = other.client()
    near, far = socket.socketpair()
    near.setblocking(False)
    idle.start()
    await ended(server.client())
    await asyncio.sleep(0.6)
    assert is_open(elsewhere)
    assert is_open(near)
    assert server.client()
    idle.stop()
    other.close()
    near.close()
    far.close()
