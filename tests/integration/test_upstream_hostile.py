"""A service that answers as it likes: early, late, in pieces, too much, not at all. Each client gets its own answer or none.

It sends unasked only while no request lies in its kernel's buffer: nobody could tell that from an answer.
"""

from __future__ import annotations

import asyncio
import os
import random
import select
import socket
from collections import Counter

import pytest

from kernel.http.problems import GatewayError
from kernel.upstream.balance import Upstream
from tests.support.scripted_upstream import Client, Peer, both_loops, relay, scripted, upstream_of

_REQUESTS = 250
_AT_ONCE = 12
_CONNECTIONS = 6
_BUDGET = 10 + _REQUESTS // 10
FOREIGN = b"HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\nforeign"
SURPLUS = (
    FOREIGN,
    b"H",
    b"\r\n",
    b"0\r\n\r\n",
    FOREIGN[:20],
    b"HTTP/1.1 408 Late\r\ncontent-length: 0\r\n\r\n",
)
ERRORS = frozenset({502, 503, 504, 499})


class Hostile:
    """Answers a request with its target, in a way drawn by lot."""

    def __init__(self, lot: random.Random) -> None:
        self.lot = lot
        self.written: Counter[bytes] = Counter()

    async def __call__(self, peer: Peer) -> None:
        raw = peer.writer.get_extra_info("socket")
        with socket.socket(fileno=os.dup(raw.fileno())) as mine:
            mine.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while await self.serve(peer, mine):
                pass

    async def serve(self, peer: Peer, mine: socket.socket) -> bool:
        lot = self.lot
        request = await peer.request()
        target = request.split(b" ", 2)[1]
        self.written[target] += 1
        head_only = request.startswith(b"HEAD")
        answer = self.answer(b"" if head_only else target, len(target))
        way = lot.random()
        if way < 0.06:
            peer.reset()
            return False
        if way < 0.10:
            mine.send(answer[: lot.randrange(len(answer))])
            return False
        if way < 0.14:
            return False
        if way < 0.40:
            cut = sorted(lot.sample(range(1, len(answer)), 2))
            for part in (answer[: cut[0]], answer[cut[0] : cut[1]], answer[cut[1] :]):
                mine.send(part)
                await asyncio.sleep(lot.choice((0, 0, 0.001)))
        elif way < 0.55:
            mine.send(answer + lot.choice(SURPLUS))  # in one read, mostly
        else:
            mine.send(answer)
        if lot.random() < 0.3:
            for _ in range(lot.randrange(4)):
                await asyncio.sleep(0)
            if not peer.reader._buffer and not select.select([mine], [], [], 0)[0]:  # type: ignore[attr-defined]
                mine.send(lot.choice(SURPLUS))
        return lot.random() > 0.05

    def answer(self, body: bytes, length: int) -> bytes:
        lot = self.lot
        first = b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n" if lot.random() < 0.1 else b""
        if body and lot.random() < 0.3:
            half = len(body) // 2
            chunks = b"".join(
                b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:half], body[half:]) if part
            )
            return first + b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"
        return first + b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (length, body)


async def ask(upstream: Upstream, lot: random.Random, number: int) -> None:
    method = lot.choice(("GET", "GET", "HEAD", "POST", "PUT"))
    body = [b"x" * 9] if method in {"POST", "PUT"} else None
    if body and lot.random() < 0.3:
        body = [b"x" * 9000] * 3  # streamed
    path = b"/%s-%d" % (method.encode(), number)
    # Long enough for a large answer to come by parts, now and then.
    path += b"z" * lot.choice((0, 0, 0, 3000))
    client = Client(method, path, body=body)
    if lot.random() < 0.1:
        asyncio.get_running_loop().call_later(lot.random() / 100, client.leave)
    try:
        await relay(client.x, upstream, b"accept: */*\r\n", 2.0)
    except GatewayError as error:
        assert error.problem.kind.status in ERRORS, error.problem  # noqa: PT017
    if client.head is not None:
        assert client.status == 200
        if client.complete:
            assert client.body == (b"" if method == "HEAD" else path)
        else:
            assert path.startswith(client.body)


@both_loops
@pytest.mark.parametrize("seed", range(2))
async def test_whatever_a_service_sends_nobody_gets_anothers_answer(seed: int) -> None:
    lot = random.Random(seed)
    service = Hostile(lot)
    async with scripted(service) as server, upstream_of(server.url, max_connections=_CONNECTIONS) as upstream:
        turns = asyncio.Semaphore(_AT_ONCE)

        async def one(number: int) -> None:
            async with turns:
                await ask(upstream, lot, number)

        await asyncio.gather(*(one(number) for number in range(_REQUESTS)))
        assert max(service.written.values()) <= 2
        repeated = service.written.total() - len(service.written)
        assert not [target for target, count in service.written.items() if count > 1 and b"POST" in target]
        assert repeated <= upstream.meter.retries <= _BUDGET
        assert upstream.replicas[0].pool.uploads._free == _CONNECTIONS // 2
