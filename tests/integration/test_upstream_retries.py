"""A request is sent twice at most, and all repetitions come out of one budget, whatever made them necessary."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress

import pytest

from kernel.http.problems import GatewayError
from kernel.upstream.balance import Upstream
from tests.support.scripted_upstream import OK, Client, Peer, both_loops, relay, scripted, upstream_of

_FLOOR = 10
_SHARE = 0.1


async def outcome(upstream: Upstream, client: Client) -> bool:
    """Whether it was answered."""
    with suppress(GatewayError):
        await relay(client.x, upstream, b"accept: */*\r\n", 5.0)
        return True
    return False


class Resetting:
    """Resets the connection of every third request, before it answers."""

    def __init__(self) -> None:
        self.seen: Counter[bytes] = Counter()

    async def __call__(self, peer: Peer) -> None:
        while True:
            head = await peer.request()
            self.seen[head.split(b" ", 2)[1]] += 1
            if self.seen.total() % 3 == 0:
                peer.reset()
                return
            await peer.send(OK)


@both_loops
@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize("at_once", [1, 8])
async def test_a_service_that_resets_a_third_of_its_requests_gets_a_tenth_more_of_them(
    at_once: int, replicas: int
) -> None:
    service, count = Resetting(), 400
    async with scripted(service) as server, upstream_of(*[server.url] * replicas) as upstream:
        turns = asyncio.Semaphore(at_once)

        async def ask(number: int) -> bool:
            async with turns:
                return await outcome(upstream, Client(path=b"/%d" % number))

        answers = await asyncio.gather(*(ask(number) for number in range(count)))
        assert max(service.seen.values()) == 2
        repeated = service.seen.total() - len(service.seen)
        assert _FLOOR <= repeated <= _FLOOR + _SHARE * count
        assert upstream.meter.retries == repeated
        assert answers.count(False) == upstream.meter.outcomes["upstream-reset"]


@both_loops
async def test_connections_that_are_closed_when_they_are_used_again_do_not_double_the_load() -> None:
    seen: Counter[bytes] = Counter()

    async def script(peer: Peer) -> None:
        for answers in (True, False):
            head = await peer.request()
            seen[head.split(b" ", 2)[1]] += 1
            if answers:
                await peer.send(OK)

    async with scripted(script) as server, upstream_of(server.url) as upstream:
        for number in range(200):
            await outcome(upstream, Client(path=b"/%d" % number))
        assert max(seen.values()) == 2
        assert upstream.meter.retries == seen.total() - len(seen) <= _FLOOR + _SHARE * 200
        assert not upstream.replicas[0].breaker.troubled  # a race, by all that can be known


@both_loops
async def test_a_service_that_dies_over_a_request_has_failed_although_the_connection_was_used() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)
        await peer.request()
        await asyncio.sleep(1.1)
        peer.reset()

    async with scripted(script) as server, upstream_of(server.url) as upstream:
        assert await outcome(upstream, Client())
        assert not await outcome(upstream, Client("POST", body=[b"x"]))
        assert len(upstream.replicas[0].breaker._failed) == 1
