"""The callback lane's own seams: what it takes, what it hands to the forwarder, and that nothing is lost in between."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from kernel.http.problems import UPSTREAM_RESET, GatewayError
from kernel.upstream.balance import Upstream
from kernel.upstream.callback_lane import CallbackLane
from tests.support.scripted_upstream import (
    OK,
    Client,
    Lane,
    Peer,
    replies,
    scripted,
    upstream_of,
)

LINES = b"accept: */*\r\n"


async def warm(upstream: Upstream, connections: int) -> None:
    """Have so many idle connections."""
    pool = upstream.replicas[0].pool
    for connection in [await pool.acquire() for _ in range(connections)]:
        pool.busy.discard(connection)
        connection.idle_since = upstream.sweeper.now
        pool.idle.append(connection)


def launch(upstream: Upstream, client: Client) -> Lane | None:
    """Its lane, if it was taken."""
    lane = client.x.lane = Lane()
    return lane if CallbackLane(upstream, 2.0).launch(client.x, LINES) else None


async def test_it_answers_without_a_task() -> None:
    async with scripted(replies(OK)) as server, upstream_of(server.url) as upstream:
        await warm(upstream, 1)
        before = asyncio.all_tasks()
        client = Client()
        lane = launch(upstream, client)
        assert lane is not None
        assert asyncio.all_tasks() == before
        assert await lane.end is None
        assert (client.status, client.body, client.complete) == (200, b"ok", True)
        assert client.x.phase == "done"
        assert client.x.upstream_seconds > 0
        assert upstream.meter.outcomes == {"2xx": 1}


@pytest.mark.parametrize(
    ("method", "body"),
    [("POST", [b"x"]), ("PUT", None), ("PATCH", None), ("GET", [b"x"]), ("PROPFIND", None)],
)
async def test_what_has_a_body_or_needs_a_length_is_left_to_the_forwarder(
    method: str, body: list[bytes] | None
) -> None:
    async with scripted(replies(OK)) as server, upstream_of(server.url) as upstream:
        await warm(upstream, 1)
        assert launch(upstream, Client(method, body=body)) is None
        assert len(upstream.replicas[0].pool.idle) == 1


async def test_it_takes_no_request_without_an_idle_connection_or_when_a_choice_is_to_be_made() -> None:
    async with scripted(replies(OK)) as server, upstream_of(server.url) as upstream:
        assert launch(upstream, Client()) is None
        await warm(upstream, 1)
        trouble(upstream)
        assert launch(upstream, Client()) is None
    async with scripted(replies(OK)) as server, upstream_of(server.url, server.url) as upstream:
        await warm(upstream, 1)
        assert launch(upstream, Client()) is None


def trouble(upstream: Upstream) -> None:
    """Open the breaker."""
    for _ in range(5):
        upstream.replicas[0].breaker.failure(upstream.sweeper.now, 0)


async def test_a_breaker_that_opens_meanwhile_costs_no_connection() -> None:
    """Each of them fails on a connection of its own; the fifth failure opens the breaker while others are handed over."""
    arrived = 0
    all_there = asyncio.Event()

    async def script(peer: Peer) -> None:
        nonlocal arrived
        await peer.request()
        arrived += 1
        if arrived == 12:
            all_there.set()
        await all_there.wait()
        peer.reset()

    async with scripted(script) as server, upstream_of(server.url) as upstream:
        await warm(upstream, 12)
        upstream._budget = -1000.0  # no second tries
        lanes = [launch(upstream, Client()) for _ in range(12)]
        kinds = []
        for lane in lanes:
            assert lane is not None
            rest = await lane.end
            assert rest is not None
            with pytest.raises(GatewayError) as caught:
                await rest
            kinds.append(caught.value.problem.kind)
        assert kinds == [UPSTREAM_RESET] * 12
        assert upstream.breaker_state == "open"


async def test_a_good_answer_closes_a_breaker_that_opened_meanwhile() -> None:
    async with scripted(replies(OK)) as server, upstream_of(server.url) as upstream:
        await warm(upstream, 1)
        lane = launch(upstream, Client())
        assert lane is not None
        trouble(upstream)
        assert await lane.end is None
        assert not upstream.replicas[0].breaker.troubled


async def test_a_server_that_refuses_an_answer_is_told_like_any_failure() -> None:
    async with scripted(replies(OK)) as server, upstream_of(server.url) as upstream:
        await warm(upstream, 1)
        client = Client()

        def send(message: Any) -> Any:
            raise RuntimeError("no such header")

        client.x.send = send
        lane = launch(upstream, client)
        assert lane is not None
        rest = await lane.end
        assert rest is not None
        with pytest.raises(RuntimeError, match="no such header"):
            await rest
        assert len(upstream.replicas[0].pool.idle) == 1
