"""That a client has left is told once, and only while somebody asks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from kernel.exchange.asgi import Message
from kernel.exchange.disconnect import Disconnect

REQUEST: Message = {"type": "http.request", "body": b"", "more_body": False}
LEFT: Message = {"type": "http.disconnect"}


async def turns() -> None:
    """Whatever is ready to run has run."""
    for _ in range(10):
        await asyncio.sleep(0)


class Server:
    """`receive` gives futures, as granian's does, or coroutines, as ASGI has it."""

    def __init__(self, futures: bool) -> None:
        self.futures = futures
        self.asked: list[asyncio.Future[Message]] = []

    def receive(self) -> asyncio.Future[Message]:
        future = asyncio.get_running_loop().create_future()
        self.asked.append(future)
        return future

    async def waited(self) -> Message:
        return await self.receive()

    def departure(self, gone: Callable[[], None]) -> Disconnect:
        return Disconnect(self.receive if self.futures else self.waited, gone)


@pytest.mark.parametrize("futures", [True, False])
class TestDeparture:
    async def test_tells_once_that_the_client_has_left(self, futures: bool) -> None:
        server, gone = Server(futures), list[int]()
        departure = server.departure(lambda: gone.append(1))
        for number, message in enumerate((REQUEST, REQUEST, LEFT), 1):
            await turns()
            assert len(server.asked) == number
            assert not gone
            server.asked[-1].set_result(message)
        await turns()
        departure.cancel()
        assert gone == [1]
        assert len(server.asked) == 3

    async def test_tells_nothing_when_it_is_cancelled(self, futures: bool) -> None:
        server, gone = Server(futures), list[int]()
        departure = server.departure(lambda: gone.append(1))
        await turns()
        departure.cancel()
        departure.cancel()
        await turns()
        assert server.asked[0].cancelled()
        assert not gone
        assert len(server.asked) == 1

    async def test_a_connection_that_fails_is_a_client_that_left(self, futures: bool) -> None:
        server, gone = Server(futures), list[int]()
        server.departure(lambda: gone.append(1))
        await turns()
        server.asked[0].set_exception(ConnectionError("reset"))
        await turns()
        assert gone == [1]
