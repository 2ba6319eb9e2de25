"""Clients that send slowly: they wait by themselves, and the service's connections are for the others."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from kernel.http.problems import CLIENT_GONE, UPSTREAM_BUSY, GatewayError
from kernel.upstream.balance import Upstream
from tests.support.scripted_upstream import (
    OK,
    Client,
    Peer,
    both_loops,
    eventually,
    relay,
    replies,
    scripted,
    upstream_of,
)

LONG = bytes(20_000)


class Slow(Client):
    """Sends its parts one by one, each when it is told to."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.told = asyncio.Semaphore(0)

    async def receive(self) -> dict[str, Any]:
        if self.parts:
            await self.told.acquire()
        return await super().receive()


async def ask(upstream: Upstream, client: Client) -> Client:
    await relay(client.x, upstream, b"accept: */*\r\n", 5.0)
    return client


@both_loops
@pytest.mark.parametrize("length", [9, -1])
async def test_a_small_body_is_there_before_the_service_is_asked(length: int) -> None:
    seen: list[bytes] = []

    async def script(peer: Peer) -> None:
        seen.append(await peer.request())
        await peer.send(OK)

    async with scripted(script) as server, upstream_of(server.url) as upstream:
        client = Slow("POST", body=[b"one", b"two", b"six"], length=length)
        running = asyncio.ensure_future(ask(upstream, client))
        for _ in range(3):
            assert server.connections == 0
            client.told.release()
            await asyncio.sleep(0.01)
        await running
        head, _, body = seen[0].partition(b"\r\n\r\n")
        assert body == b"onetwosix"
        assert b"content-length: 9" in head
        assert b"transfer-encoding" not in head
        assert client.complete


@both_loops
async def test_one_of_unknown_length_that_pauses_is_streamed_and_nothing_is_lost() -> None:
    got = bytearray()

    async def script(peer: Peer) -> None:
        assert b"transfer-encoding: chunked\r\n" in await peer.head()
        while not got.endswith(b"0\r\n\r\n"):
            got.extend(await peer.reader.read(1000))
        await peer.send(OK)

    async with scripted(script) as server, upstream_of(server.url) as upstream:
        client = Slow("POST", body=[b"one", b"two", b"six"], length=-1)
        client.told.release()
        running = asyncio.ensure_future(ask(upstream, client))
        await eventually(lambda: bytes(got) == b"3\r\none\r\n")  # while the client still sends
        client.told.release()
        await eventually(lambda: got.endswith(b"3\r\ntwo\r\n"))
        client.told.release()
        await running
        assert bytes(got) == b"3\r\none\r\n3\r\ntwo\r\n3\r\nsix\r\n0\r\n\r\n"
        assert client.complete


@both_loops
async def test_who_leaves_while_the_rest_is_awaited_is_gone() -> None:
    async with scripted(replies(OK)) as server, upstream_of(server.url) as upstream:
        for length in (9, -1):
            client = Client("POST", body=[b"one"], stall=True, length=length)
            running = asyncio.ensure_future(ask(upstream, client))
            await asyncio.sleep(0.02)
            client.leave()
            with pytest.raises(GatewayError) as caught:
                await running
            assert caught.value.problem.kind is CLIENT_GONE
        assert server.connections == 0


@both_loops
@pytest.mark.parametrize("length", [9, 30_000, -1])
async def test_slow_senders_leave_connections_to_the_others(length: int) -> None:
    async def script(peer: Peer) -> None:
        while b"POST" not in await peer.head():
            await peer.send(OK)
        await peer.gone()

    async with (
        scripted(script) as server,
        upstream_of(server.url, max_connections=4, queue_timeout=0.3) as upstream,
    ):
        body = LONG if length == 30_000 else b"one"
        slow = [Client("POST", body=[body], stall=True, length=length) for _ in range(8)]
        running = [asyncio.ensure_future(ask(upstream, client)) for client in slow]
        held = 0 if length == 9 else 2
        await eventually(lambda: server.open == held)
        for _ in range(4):
            assert (await ask(upstream, Client())).complete
        if held:
            assert upstream.snapshot()["waiting"] == 6
            await eventually(lambda: sum(task.done() for task in running) == 6)
            refused = [task.exception() for task in running if task.done()]
            assert {error.problem.kind for error in refused if isinstance(error, GatewayError)} == {
                UPSTREAM_BUSY
            }
        assert server.open <= held + 1
        for client in slow:
            client.leave()
        await asyncio.gather(*running, return_exceptions=True)


@both_loops
async def test_an_upload_goes_on_when_another_has_ended() -> None:
    async with scripted(replies(OK)) as server, upstream_of(server.url, max_connections=2) as upstream:
        clients = [Slow("POST", body=[LONG, LONG]) for _ in range(3)]
        running = [asyncio.ensure_future(ask(upstream, client)) for client in clients]
        for client in clients:
            client.told.release()
        await eventually(lambda: upstream.snapshot()["waiting"] == 2)
        running[1].cancel()  # gives up its place
        for client in (clients[0], clients[2]):
            client.told.release()
        assert (await running[0]).complete
        assert (await running[2]).complete
        assert server.connections == 1
        assert (await ask(upstream, Client("POST", body=[LONG]))).complete
