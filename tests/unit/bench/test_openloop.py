"""The open-loop client charges a stall to every request that fell due during it."""

from __future__ import annotations

import asyncio

import pytest

from bench.openloop import Client, Latency, percentile

REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Server(asyncio.Protocol):
    """Answers at once, in two pieces, except that request number `stall_at` blocks the server."""

    count = 0
    stall_at = -1
    blocked_until = 0.0
    status = b"200"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        type(self).count += 1
        if self.count == self.stall_at:
            type(self).blocked_until = asyncio.get_running_loop().time() + 0.3
        delay = max(0.0, self.blocked_until - asyncio.get_running_loop().time())
        asyncio.get_running_loop().call_later(delay, self.answer)

    def answer(self) -> None:
        self.transport.write(ANSWER[:20].replace(b"200", self.status))
        self.transport.write(ANSWER[20:])


async def run(kind: type[Server], rate: float, seconds: float) -> Latency:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(kind, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        return await Client(loop, "127.0.0.1", port, REQUEST).run(rate, seconds, 0.0)


async def test_every_scheduled_request_is_sent_and_counted() -> None:
    class Plain(Server):
        pass

    result = await run(Plain, 500, 0.4)
    assert (result.requests, result.errors, Plain.count) == (200, 0, 200)


async def test_a_stall_is_paid_by_all_requests_due_meanwhile() -> None:
    class Stalling(Server):
        stall_at = 20

    result = await run(Stalling, 500, 0.8)
    # 0.3 s of 0.8 s at a standstill: more than a quarter of the requests waited, and half of those more than 0.15 s.
    assert result.p90 > 100_000
    assert result.requests == 400


async def test_an_error_status_is_an_error_and_no_sample() -> None:
    class Failing(Server):
        status = b"503"

    result = await run(Failing, 200, 0.2)
    assert (result.requests, result.errors) == (0, 40)


@pytest.mark.parametrize(("share", "expected"), [(0.5, 50), (0.99, 99), (1.0, 100), (0.001, 1)])
def test_percentile_is_nearest_rank(share: float, expected: int) -> None:
    assert percentile(range(1, 101), share) == expected
