"""Connecting to the first of several addresses that answers."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import uvloop

from kernel.upstream.address import Address
from kernel.upstream.dialing import _first, dial

Pair = tuple[asyncio.Transport, asyncio.Protocol]


class Transport(asyncio.Transport):
    """Remembers that it was given up."""

    aborted = False

    def abort(self) -> None:
        self.aborted = True


class Way:
    """A connection that is made or fails when it is told to."""

    def __init__(self) -> None:
        self.started = False
        self.pair: Pair = (Transport(), asyncio.Protocol())
        self.outcome: asyncio.Future[Pair] = asyncio.get_running_loop().create_future()

    async def __call__(self) -> Pair:
        self.started = True
        return await self.outcome

    def made(self) -> None:
        self.outcome.set_result(self.pair)

    def fails(self, why: str) -> None:
        self.outcome.set_exception(OSError(why))


async def started(way: Way) -> None:
    async with asyncio.timeout(5):
        while not way.started:
            await asyncio.sleep(0.01)


async def test_the_next_is_tried_at_once_when_one_fails() -> None:
    one, two = Way(), Way()
    one.fails("refused")
    two.made()
    before = asyncio.get_running_loop().time()
    assert await _first([one, two]) == two.pair
    assert asyncio.get_running_loop().time() - before < 5


async def test_one_that_hangs_has_a_head_start_and_is_given_up_when_another_answers() -> None:
    one, two, three = Way(), Way(), Way()
    running = asyncio.ensure_future(_first([one, two, three]))
    await started(one)
    assert not two.started
    await started(two)
    two.made()
    assert await running == two.pair
    assert not three.started
    await asyncio.sleep(0)
    assert one.outcome.cancelled()


async def test_the_first_that_is_late_still_counts() -> None:
    one, two = Way(), Way()
    running = asyncio.ensure_future(_first([one, two]))
    await started(two)
    one.made()
    assert await running == one.pair
    await asyncio.sleep(0)
    assert two.outcome.cancelled()


async def test_when_two_are_made_at_once_one_is_hung_up_on() -> None:
    one, two = Way(), Way()
    running = asyncio.ensure_future(_first([one, two]))
    await started(two)
    one.made()
    two.made()
    won = await running
    await asyncio.sleep(0.01)
    (lost,) = {one.pair, two.pair} - {won}
    assert isinstance(lost[0], Transport)
    assert lost[0].aborted
    assert isinstance(won[0], Transport)
    assert not won[0].aborted


async def test_when_all_fail_the_first_failure_is_told() -> None:
    one, two = Way(), Way()
    one.fails("the first")
    two.fails("the second")
    with pytest.raises(OSError, match="the first"):
        await _first([one, two])


async def test_who_is_cancelled_leaves_nothing_behind() -> None:
    one, two = Way(), Way()
    running = asyncio.ensure_future(_first([one, two]))
    await started(two)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await asyncio.sleep(0)
    assert one.outcome.cancelled()
    assert two.outcome.cancelled()


@asynccontextmanager
async def listening(host: str, port: int = 0) -> AsyncIterator[int]:
    server = await asyncio.start_server(lambda reader, writer: writer.close(), host, port)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_real_addresses(loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def main() -> None:
        gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        class Protocol(asyncio.Protocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                self.peer = transport.get_extra_info("peername")
                self.transport = transport

            def connection_lost(self, error: Exception | None) -> None:
                gone.set_result(None)

        async with listening("127.0.0.1") as port:
            address = Address("no-such-name.invalid", port)
            made = await dial(Protocol, address, ("::1", "127.0.0.1"), None)
            assert made.peer == ("127.0.0.1", port)
            made.transport.close()
            await gone
            with pytest.raises(socket.gaierror):
                await dial(Protocol, address, (), None)

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(main())
