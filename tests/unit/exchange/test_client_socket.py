"""What the kernel tells of a client's connection, on real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import AsyncIterator
from typing import NamedTuple

import pytest

from kernel.exchange import client_socket
from kernel.exchange.client_socket import ClientSocket, ClientSockets

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="TCP_INFO is Linux's")
LIMIT = 100_000
AHEAD = 256 * 1024


class Pair(NamedTuple):
    """Both ends of a connection, and what is known of the first."""

    server: socket.socket
    client: socket.socket
    sockets: ClientSockets
    found: ClientSocket


@pytest.fixture(params=[("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)], ids=["v4", "v6"])
async def pair(request: pytest.FixtureRequest) -> AsyncIterator[Pair]:
    host, family = request.param
    with socket.create_server((host, 0), family=family) as listener:
        client = socket.create_connection(listener.getsockname()[:2])
        server = listener.accept()[0]
        sockets = ClientSockets(listener.getsockname()[1])
    client.setblocking(False)
    server.setblocking(False)
    address, port = client.getsockname()[:2]
    found = await sockets.find(address, str(port))
    assert found is not None
    yield Pair(server, client, sockets, found)
    found.close()
    await sockets.close()
    for end in (server, client):
        end.close()


async def pass_on(pair: Pair, size: int) -> None:
    """The client sends so much, the server takes it."""
    loop = asyncio.get_running_loop()
    sending = asyncio.create_task(loop.sock_sendall(pair.client, bytes(size)))
    while size:
        size -= len(await loop.sock_recv(pair.server, min(size, 65536)))
    await sending


async def test_a_stranger_s_connection_is_not_found(pair: Pair) -> None:
    port = str(pair.client.getsockname()[1])
    assert await pair.sockets.find("192.0.2.1", port) is None
    assert await pair.sockets.find(pair.client.getsockname()[0], "1") is None
    assert await ClientSockets(1).find(pair.client.getsockname()[0], port) is None


async def test_what_is_no_whole_message_is_told_beyond_the_limit(pair: Pair) -> None:
    over = asyncio.Event()
    pair.found.watch(LIMIT, lambda: 0, over.set)
    await pass_on(pair, LIMIT + AHEAD)
    await asyncio.sleep(3 * client_socket._LOOK)
    assert not over.is_set()
    await pass_on(pair, 10_000)
    async with asyncio.timeout(5):
        await over.wait()


async def test_whole_messages_are_never_too_much(pair: Pair) -> None:
    over = asyncio.Event()
    messages = 0
    pair.found.watch(LIMIT, lambda: messages, over.set)
    for _ in range(20):
        await pass_on(pair, LIMIT)
        messages += 1
        await asyncio.sleep(client_socket._LOOK)
    assert not over.is_set()


async def test_what_the_server_has_not_taken_is_no_message_of_its(pair: Pair) -> None:
    over = asyncio.Event()
    pair.found.watch(LIMIT, lambda: 0, over.set)
    with contextlib.suppress(BlockingIOError):
        while pair.client.send(bytes(65536)):
            pass
    await asyncio.sleep(4 * client_socket._LOOK)
    assert not over.is_set()


async def test_any_byte_is_a_sign_of_life_but_a_beginning_is_none(pair: Pair) -> None:
    pair.found.watch(LIMIT, lambda: 0, lambda: None)
    await asyncio.sleep(0.2)
    assert pair.found.quiet() >= 0.15
    await pass_on(pair, 6)
    assert pair.found.quiet() < 0.15
    await pass_on(pair, 66_000)
    assert pair.found.quiet() == float("inf")


async def test_the_end_is_read_whatever_the_client_says_meanwhile(pair: Pair) -> None:
    loop = asyncio.get_running_loop()
    pair.found.watch(LIMIT, lambda: 0, lambda: None)
    await loop.sock_sendall(pair.server, b"the end")
    await loop.sock_sendall(pair.client, bytes(1000))
    pair.server.close()
    lingering = asyncio.create_task(pair.found.linger(5))
    assert await loop.sock_recv(pair.client, 100) == b"the end"
    assert await loop.sock_recv(pair.client, 100) == b""
    await loop.sock_sendall(pair.client, bytes(1000))
    pair.client.shutdown(socket.SHUT_WR)
    async with asyncio.timeout(1):
        await lingering


async def test_a_client_that_does_not_go_is_not_waited_for(pair: Pair) -> None:
    pair.found.watch(LIMIT, lambda: 0, lambda: None)
    pair.server.close()
    async with asyncio.timeout(5):
        await pair.found.linger(0.1)


async def test_a_reset_is_no_clean_end(pair: Pair) -> None:
    address, port = pair.client.getsockname()[:2]
    await pair.sockets.reset(address, str(port))
    with pytest.raises(ConnectionResetError):
        await asyncio.get_running_loop().sock_recv(pair.client, 1)


async def test_descriptors_are_given_back(pair: Pair) -> None:
    def files() -> int:
        return len(os.listdir("/proc/self/fd"))

    address, port = pair.client.getsockname()[:2]
    before = files()
    for _ in range(3):
        found = await pair.sockets.find(address, str(port))
        assert found is not None
        found.close()
    assert files() == before
