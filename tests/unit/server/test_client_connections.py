"""Client connections that take a place for nothing are ended; whatever else the process has open is left alone."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from collections.abc import AsyncIterator, Mapping

import pytest

from kernel.server import client_connections
from kernel.server.client_connections import IDLE, SILENT, SLOW_HEAD, UNREAD, ClientConnections

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="TCP_INFO is Linux's")

FIRST, NEVER = 0.4, 3600.0
REQUEST = b"GET /api/v1/alerts/stream HTTP/1.1\r\n"
HELLO = b"\x16\x03\x01" + b"h" * 600  # as long as a TLS client's
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"


class Server:
    """Listens, accepts and says what it is told to. `in_flight` are the ports of clients that wait for an answer."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        self.pairs: list[tuple[socket.socket, socket.socket]] = []
        self.in_flight: set[str] = set()
        self.reports: list[Mapping[str, int]] = []
        self.watches: list[ClientConnections] = []

    def client(self, said: bytes = b"", answer: bytes = b"", *, asks: bool = False) -> socket.socket:
        client = socket.create_connection(("127.0.0.1", self.port))
        accepted, _ = self.listener.accept()
        accepted.setblocking(False)
        client.sendall(said)
        if said:
            accepted.setblocking(True)
            accepted.recv(65536)
            accepted.setblocking(False)
        accepted.sendall(answer)
        client.setblocking(False)
        self.pairs.append((client, accepted))
        if asks:
            self.in_flight.add(port_of(client))
        return client

    def far(self, client: socket.socket) -> socket.socket:
        return next(there for here, there in self.pairs if here is client)

    def watch(
        self, first: float = NEVER, keep: float = NEVER, idle: float = NEVER, *, noting: bool = False
    ) -> ClientConnections:
        loop = asyncio.get_running_loop()
        made = ClientConnections(loop, self.port, first, keep, idle, self.reports.append, noting=noting)
        made.start(lambda: self.in_flight)
        self.watches.append(made)
        return made

    def close(self) -> None:
        for watch in self.watches:
            watch.stop()
        for each in [self.listener, *(one for pair in self.pairs for one in pair)]:
            each.close()


def port_of(client: socket.socket) -> str:
    return str(client.getsockname()[1])


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    made = Server()
    yield made
    made.close()


async def ended(client: socket.socket) -> bytes:
    """What still comes, once the connection has been ended."""
    async with asyncio.timeout(15):
        got = b""
        while data := await asyncio.get_running_loop().sock_recv(client, 1024):
            got += data
        return got


def is_open(client: socket.socket) -> bool:
    try:
        return client.recv(1, socket.MSG_PEEK) != b""
    except BlockingIOError:
        return True


async def until(probe: object) -> None:
    assert callable(probe)
    async with asyncio.timeout(15):
        while not probe():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("said", [b"", b"PRI * HTTP/2"])
async def test_one_that_never_says_what_it_speaks_is_ended(server: Server, said: bytes) -> None:
    watch = server.watch(FIRST)
    silent, speaking = server.client(said), server.client(REQUEST, asks=True)
    assert await ended(silent) == b""
    assert is_open(speaking)
    await until(lambda: server.reports)
    assert watch.closed == {SILENT: 1, SLOW_HEAD: 0, IDLE: 0, UNREAD: 0}
    assert server.reports == [watch.closed]


async def test_many_are_ended_in_shares(server: Server) -> None:
    watch = server.watch(FIRST)
    for client in [server.client() for _ in range(300)]:
        await ended(client)
    await until(lambda: server.reports)
    assert watch.closed[SILENT] == 300


@pytest.mark.parametrize("trickles", [False, True])
async def test_a_head_that_never_ends_is_cut_however_it_comes(server: Server, trickles: bool) -> None:
    watch = server.watch(FIRST)
    known, fresh, asking = server.client(REQUEST, ANSWER), server.client(), server.client(REQUEST, asks=True)
    assert await asyncio.get_running_loop().sock_recv(known, 1024) == ANSWER

    async def trickle(client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            await asyncio.sleep(0.05)  # the kernel's clock for this ticks every few milliseconds
            client.sendall(REQUEST)
            while trickles:
                await asyncio.sleep(0.03)
                client.sendall(b"x")

    trickling = [asyncio.create_task(trickle(client)) for client in (known, fresh, asking)]
    for client in (known, fresh):
        with contextlib.suppress(ConnectionResetError):
            assert await ended(client) == b""
    assert is_open(asking)
    assert watch.closed[SLOW_HEAD] == 2
    for task in trickling:
        task.cancel()


async def test_one_that_asks_again_and_again_has_its_time_for_each_head(server: Server) -> None:
    watch = server.watch(FIRST)
    client = server.client(REQUEST, ANSWER)
    loop = asyncio.get_running_loop()
    end = loop.time() + 4 * FIRST
    while loop.time() < end:
        # Each head takes three fifths of what it may.
        client.sendall(REQUEST)
        await asyncio.sleep(FIRST * 0.6)
        server.far(client).sendall(ANSWER)
    assert watch.closed[SLOW_HEAD] == 0


@pytest.mark.parametrize("trickles", [False, True])
async def test_a_handshake_is_no_request(server: Server, trickles: bool) -> None:
    watch = server.watch(FIRST, noting=True)
    assert watch.noted is not None
    silent, asked = server.client(HELLO, HELLO), server.client(HELLO, HELLO)
    watch.noted[port_of(asked)] = "2"

    async def trickle() -> None:
        with contextlib.suppress(OSError):
            while trickles:  # pings of HTTP/2, answered
                silent.sendall(b"p")
                server.far(silent).sendall(b"P")
                await asyncio.sleep(0.03)

    trickling = asyncio.create_task(trickle())
    with contextlib.suppress(ConnectionResetError):
        await ended(silent)
    trickling.cancel()
    await asyncio.sleep(2 * FIRST)
    assert asked.recv(1024) == HELLO
    assert is_open(asked)
    assert watch.closed == {SILENT: 1, SLOW_HEAD: 0, IDLE: 0, UNREAD: 0}
    assert watch.noted == {port_of(asked): "2"}
    asked.close()
    server.far(asked).close()
    await until(lambda: watch.noted == {})


async def test_one_that_rests_between_requests_is_kept_for_its_time_and_one_that_asks_longer(
    server: Server,
) -> None:
    watch = server.watch(keep=1.0, idle=2.5)
    resting, asking = server.client(REQUEST, ANSWER), server.client(REQUEST, asks=True)
    assert await ended(resting) == ANSWER
    assert is_open(asking)
    assert watch.closed[IDLE] == 1
    await ended(asking)
    assert watch.closed[IDLE] == 2


async def test_one_that_hears_something_does_not_rest(server: Server) -> None:
    watch = server.watch(idle=1.0, keep=1.0)
    resting, hearing = server.client(REQUEST, ANSWER), server.client(REQUEST, ANSWER)

    async def talk() -> None:
        while True:
            server.far(hearing).sendall(b": heartbeat\n\n")
            await asyncio.sleep(0.1)

    talking = asyncio.create_task(talk())
    await ended(resting)
    assert is_open(hearing)
    assert watch.closed[IDLE] == 1
    talking.cancel()


def fill(far: socket.socket) -> None:
    """Send to a client that does not read, until the kernel takes no more."""
    with contextlib.suppress(BlockingIOError):
        while True:
            far.send(b"x" * 65536)


def is_reset(far: socket.socket) -> bool:
    with contextlib.suppress(OSError):
        return far.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 8)[0] != 1
    return True


async def test_what_was_given_up_and_is_not_read_goes_after_a_while(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_connections, "_LINGER", 0.3)
    watch = server.watch(FIRST)
    clients = given_up, living, again, reading = [server.client(REQUEST, ANSWER) for _ in range(4)]
    for client in clients[:3]:
        fill(server.far(client))
    server.in_flight.add(port_of(again))
    for client in (given_up, again, reading):
        watch.ended(("::ffff:127.0.0.1", port_of(client)))
    watch.ended(("127.0.0.2", port_of(living)))  # another client, by the same port
    watch.ended(("", ""))  # by a unix socket
    await until(lambda: is_reset(server.far(given_up)))
    await asyncio.sleep(2 * FIRST)
    assert not any(is_reset(server.far(client)) for client in (living, again, reading))
    assert watch.closed == {SILENT: 0, SLOW_HEAD: 0, IDLE: 0, UNREAD: 1}


async def test_a_stop_does_not_wait_for_who_does_not_read(server: Server) -> None:
    watch = server.watch()
    unread, asking, idle = [server.client(REQUEST, ANSWER) for _ in range(3)]
    for client in (unread, asking):
        fill(server.far(client))
    server.in_flight.add(port_of(asking))
    watch.hasten()
    await until(lambda: is_reset(server.far(unread)))
    await asyncio.sleep(0.6)
    assert not is_reset(server.far(asking))
    assert not is_reset(server.far(idle))
    assert watch.closed == {SILENT: 0, SLOW_HEAD: 0, IDLE: 0, UNREAD: 1}


async def test_what_is_no_clients_connection_is_left_alone(server: Server) -> None:
    """The other port's stand for connections to services and to the store; pipes, files and listeners are no connections."""
    other = Server()
    elsewhere = other.client()
    near, far = socket.socketpair()
    near.setblocking(False)
    server.watch(0.1, 0.1, 0.1)
    await ended(server.client())
    await asyncio.sleep(0.6)
    assert is_open(elsewhere)
    assert is_open(near)
    assert server.client()
    other.close()
    near.close()
    far.close()
