"""What comes on a connection before a request is written answers nothing: the connection is dropped, another one used."""

from __future__ import annotations

import asyncio
import os
import select
import socket
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from kernel.http.problems import UPSTREAM_RESET, GatewayError
from kernel.upstream.balance import Upstream
from kernel.upstream.client import ServiceClient
from kernel.upstream.transport import PoolTransport
from tests.support.scripted_upstream import (
    OK,
    Client,
    Peer,
    both_loops,
    eventually,
    relay,
    scripted,
    upstream_of,
)

FOREIGN = b"HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\nforeign"
TIMED_OUT = b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\n\r\n"
END = b""


class Service:
    """Answers each request with its target; `intrude` sends bytes nobody asked for on its first connection, or ends that."""

    def __init__(self) -> None:
        self.requests: list[tuple[int, bytes]] = []
        self._first: socket.socket | None = None

    async def __call__(self, peer: Peer) -> None:
        if self._first is None:
            self._first = peer.writer.get_extra_info("socket")
        while True:
            head = await peer.request()
            target = head.split(b" ", 2)[1]
            self.requests.append((peer.number, target))
            await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(target), target))

    def intrude(self, data: bytes, seen_by: int) -> None:
        """Returns when it lies in the kernel's buffer of the descriptor `seen_by`: no loop runs meanwhile."""
        assert self._first is not None
        # A copy: uvloop lends its descriptors to nobody.
        with socket.socket(fileno=os.dup(self._first.fileno())) as mine:
            if data:
                mine.send(data)
            else:
                mine.shutdown(socket.SHUT_WR)
        assert select.select([seen_by], [], [], 5)[0]


def resting(upstream: Upstream) -> int:
    """The descriptor of the only idle connection."""
    (connection,) = upstream.replicas[0].pool.idle
    descriptor: int = connection.transport.get_extra_info("socket").fileno()
    return descriptor


async def ask(upstream: Upstream, client: Client) -> Client:
    await relay(client.x, upstream, b"accept: */*\r\n", 2.0)
    return client


def unhurt(upstream: Upstream) -> None:
    """Nobody failed, and nothing was sent twice."""
    assert upstream.meter.retries == 0
    assert not upstream.replicas[0].breaker.troubled
    assert set(upstream.meter.outcomes) == {"2xx"}


INTRUSIONS = pytest.mark.parametrize(
    "data", [FOREIGN, TIMED_OUT, b"H", END], ids=["200", "408", "byte", "end"]
)


@both_loops
@INTRUSIONS
async def test_what_the_kernel_holds_when_a_connection_is_taken_is_no_answer(data: bytes) -> None:
    service = Service()
    async with scripted(service) as server, upstream_of(server.url) as upstream:
        await ask(upstream, Client(path=b"/one"))
        service.intrude(data, resting(upstream))
        assert (await ask(upstream, Client(path=b"/two"))).body == b"/two"
        assert (await ask(upstream, Client(path=b"/three"))).body == b"/three"
        assert service.requests == [(1, b"/one"), (2, b"/two"), (2, b"/three")]
        unhurt(upstream)


@both_loops
@INTRUSIONS
async def test_what_comes_between_taking_and_writing_is_no_answer(data: bytes) -> None:
    service = Service()
    loop = asyncio.get_running_loop()
    async with scripted(service) as server, upstream_of(server.url) as upstream:
        await ask(upstream, Client(path=b"/one"))
        seen_by = resting(upstream)
        asked = asyncio.ensure_future(ask(upstream, Client(path=b"/two")))
        loop.call_soon(
            service.intrude, data, seen_by
        )  # in the turn in which it is taken; written is in the next
        assert (await asked).body == b"/two"
        assert (await ask(upstream, Client(path=b"/three"))).body == b"/three"
        assert service.requests == [(1, b"/one"), (2, b"/two"), (2, b"/three")]
        unhurt(upstream)


class Timely(Client):
    """Calls `act` with its first part."""

    def __init__(self, act: Callable[[], object], **arguments: Any) -> None:
        super().__init__(**arguments)
        self._act = act

    async def receive(self) -> dict[str, Any]:
        message = await super().receive()
        if self.pulled == 1:
            self._act()
        return message


@both_loops
@pytest.mark.parametrize("size", [10, 300_000], ids=["in hand", "streamed"])
@INTRUSIONS
async def test_a_post_that_was_never_written_is_sent(data: bytes, size: int) -> None:
    service = Service()
    async with scripted(service) as server, upstream_of(server.url) as upstream:
        await ask(upstream, Client(path=b"/one"))
        seen_by = resting(upstream)
        body = [bytes(size // 2), bytes(size // 2)]
        pulled = Timely(
            lambda: service.intrude(data, seen_by), method="POST", path=b"/two", body=body, length=size
        )
        assert (await ask(upstream, pulled)).body == b"/two"
        assert service.requests == [(1, b"/one"), (2, b"/two")]
        unhurt(upstream)


@both_loops
@INTRUSIONS
async def test_the_gateway_s_own_calls_do_not_believe_it_either(data: bytes) -> None:
    service = Service()
    async with scripted(service) as server, upstream_of(server.url) as upstream:
        client = ServiceClient({"inventory": upstream}, None)
        await client.call("inventory", "POST", "/one", b"{}")
        service.intrude(data, resting(upstream))
        assert (await client.call("inventory", "POST", "/two", b"{}")).body == b"/two"
        assert service.requests == [(1, b"/one"), (2, b"/two")]


@both_loops
@pytest.mark.parametrize("content", [b"x", b"x" * 300_000])
@INTRUSIONS
async def test_nor_does_the_transport(data: bytes, content: bytes) -> None:
    service = Service()
    async with scripted(service) as server, PoolTransport() as transport:

        def request(path: str) -> httpx.Request:
            return httpx.Request("POST", server.url + path, content=content)

        first = await transport.handle_async_request(request("/one"))
        assert await first.aread() == b"/one"
        (upstream,) = transport._origins.values()
        service.intrude(data, resting(upstream))
        second = await transport.handle_async_request(request("/two"))
        assert await second.aread() == b"/two"
        assert service.requests == [(1, b"/one"), (2, b"/two")]


@both_loops
async def test_a_service_that_speaks_before_it_is_asked_is_not_asked_for_ever() -> None:
    async def script(peer: Peer) -> None:
        await peer.send(OK)
        await peer.gone()

    async with scripted(script) as server, upstream_of(server.url) as upstream:
        pool = upstream.replicas[0].pool
        for _ in range(2):
            connection = await pool.acquire()
            select.select([connection.transport.get_extra_info("socket")], [], [], 5)
            pool.busy.discard(connection)
            pool.idle.append(connection)
            with pytest.raises(GatewayError) as caught:
                await ask(upstream, Client("POST", body=[b"x"]))
            assert caught.value.problem.kind is UPSTREAM_RESET
        await eventually(lambda: not pool.size)
        assert server.connections <= 4
