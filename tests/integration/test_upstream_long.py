"""Responses that take long share half of a service's connections: the other requests to it go on."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from kernel.http.problems import UPSTREAM_BUSY, GatewayError
from kernel.upstream.balance import Upstream
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

H = b"HTTP/1.1 200 OK\r\n"
EVENTS = (
    H + b"content-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n5\r\n: hi\n\r\n"
)
DRIP = H + b"content-type: application/octet-stream\r\ncontent-length: 1000000\r\n\r\nbegun"
CONNECTIONS = 8
HALF = CONNECTIONS // 2


class Service:
    """Streams of events, downloads that never end, and what is answered at once; `let_go` ends all the streams."""

    def __init__(self) -> None:
        self.let_go = asyncio.Event()

    async def __call__(self, peer: Peer) -> None:
        while True:
            target = (await peer.request()).split(b" ", 2)[1]
            if target == b"/events":
                await peer.send(EVENTS)
                await self.let_go.wait()
                await peer.send(b"0\r\n\r\n")
            elif target == b"/download":
                await peer.send(DRIP)
                await peer.gone()
                return
            else:
                await peer.send(OK)


async def ask(upstream: Upstream, path: bytes) -> Client:
    client = Client(path=path)
    await relay(client.x, upstream, b"accept: */*\r\n", 5.0)
    return client


class Running:
    """Clients of responses that go on."""

    def __init__(self, upstream: Upstream, path: bytes, count: int) -> None:
        self.clients = [Client(path=path) for _ in range(count)]
        self.tasks = [
            asyncio.ensure_future(relay(client.x, upstream, b"accept: */*\r\n", 5.0))
            for client in self.clients
        ]

    async def begun(self) -> None:
        await eventually(lambda: all(client.body for client in self.clients))

    def cut(self) -> list[int]:
        return [number for number, task in enumerate(self.tasks) if task.done()]

    async def end(self) -> list[Any]:
        for client in self.clients:
            client.leave()
        return await asyncio.gather(*self.tasks, return_exceptions=True)


async def refused(upstream: Upstream, path: bytes) -> GatewayError:
    with pytest.raises(GatewayError) as caught:
        await ask(upstream, path)
    return caught.value


@both_loops
async def test_event_streams_beyond_the_half_are_refused_and_all_else_goes_on() -> None:
    service = Service()
    async with (
        scripted(service) as server,
        upstream_of(server.url, max_connections=CONNECTIONS, queue_timeout=0.5) as upstream,
    ):
        streams = Running(upstream, b"/events", HALF)
        await streams.begun()
        for _ in range(2 * CONNECTIONS):
            problem = (await refused(upstream, b"/events")).problem
            assert problem.kind is UPSTREAM_BUSY
            assert problem.detail.startswith("inventory failed in phase response-head: long responses")
            assert (b"retry-after", b"1") in problem.headers
            assert (await ask(upstream, b"/items")).body == b"ok"
        assert not streams.cut()
        assert upstream.meter.outcomes["upstream-busy"] == 2 * CONNECTIONS
        assert not upstream.replicas[0].breaker.troubled
        service.let_go.set()
        await asyncio.gather(*streams.tasks)
        assert all(client.complete for client in streams.clients)
        again = await ask(upstream, b"/events")  # there is room again
        assert again.complete


@both_loops
async def test_of_other_long_responses_the_latest_are_cut_when_somebody_waits() -> None:
    async with (
        scripted(Service()) as server,
        upstream_of(server.url, max_connections=CONNECTIONS) as upstream,
    ):
        downloads = Running(upstream, b"/download", CONNECTIONS)
        await downloads.begun()
        items = await asyncio.gather(*(ask(upstream, b"/items") for _ in range(20)))
        assert all(client.body == b"ok" for client in items)
        cut = downloads.cut()
        assert 1 <= len(cut) < HALF  # one is enough for all of them, unless this machine is very busy
        assert cut == list(range(CONNECTIONS - len(cut), CONNECTIONS))
        ends = await downloads.end()
        for number in cut:
            assert isinstance(ends[number], GatewayError)
            assert ends[number].problem.kind is UPSTREAM_BUSY
            assert not downloads.clients[number].complete
        assert not upstream.replicas[0].breaker.troubled


@both_loops
async def test_nobody_is_cut_while_nobody_waits() -> None:
    async with (
        scripted(Service()) as server,
        upstream_of(server.url, max_connections=CONNECTIONS) as upstream,
    ):
        downloads = Running(upstream, b"/download", CONNECTIONS)
        await downloads.begun()
        pool = upstream.replicas[0].pool
        await eventually(lambda: len(pool.bodies.long) == CONNECTIONS)
        await asyncio.sleep(0.3)  # a few sweeps more
        assert not downloads.cut()
        await downloads.end()
        assert not pool.bodies
        assert not pool.bodies.long


@both_loops
async def test_the_half_that_may_be_long_is_never_cut() -> None:
    async with (
        scripted(Service()) as server,
        upstream_of(server.url, max_connections=CONNECTIONS, queue_timeout=30.0) as upstream,
    ):
        downloads = Running(upstream, b"/download", CONNECTIONS)
        await downloads.begun()
        waiting = Running(
            upstream, b"/download", CONNECTIONS
        )  # they take what is cut, and are cut in their turn
        await eventually(lambda: len(downloads.cut()) == CONNECTIONS - HALF, seconds=20)
        await eventually(lambda: len(waiting.cut()) >= 1, seconds=20)
        assert downloads.cut() == list(range(HALF, CONNECTIONS))
        await waiting.end()
        await downloads.end()
