"""A part of a service in trouble costs no more than that part: an endpoint that hangs, a replica that only fails."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from kernel.http.problems import UPSTREAM_OPEN, UPSTREAM_TIMEOUT, GatewayError, ProblemKind
from kernel.upstream import breaker
from kernel.upstream.balance import Upstream
from tests.support.scripted_upstream import (
    OK,
    Client,
    Peer,
    Script,
    both_loops,
    eventually,
    relay,
    replies,
    scripted,
    upstream_of,
)

FAILS = b"HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n"


async def ask(upstream: Upstream, path: bytes = b"/items", timeout: float = 5.0) -> Client:
    client = Client(path=path)
    await relay(client.x, upstream, b"accept: */*\r\n", timeout)
    return client


async def outcome(upstream: Upstream, path: bytes = b"/items", timeout: float = 5.0) -> int | ProblemKind:
    """The status, or what went wrong."""
    try:
        return (await ask(upstream, path, timeout)).status
    except GatewayError as error:
        return error.problem.kind


async def hangs_on_reports(peer: Peer) -> None:
    while True:
        head = await peer.request()
        if head.startswith(b"GET /reports"):
            await peer.gone()
            return
        await peer.send(OK)


# --- an endpoint that hangs ---


@both_loops
async def test_an_endpoint_that_hangs_closes_no_other() -> None:
    async with scripted(hangs_on_reports) as server, upstream_of(server.url) as upstream:
        others: list[int | ProblemKind] = []
        for _ in range(4):
            assert await outcome(upstream) == 200
            hanging = [asyncio.ensure_future(outcome(upstream, b"/reports", 0.05)) for _ in range(20)]
            while not all(each.done() for each in hanging):
                others.append(await outcome(upstream))
                await asyncio.sleep(0.005)
            assert {each.result() for each in hanging} == {UPSTREAM_TIMEOUT}
            others += [await outcome(upstream) for _ in range(10)]
        assert set(others) == {200}
        assert upstream.breaker_state == "closed"
        assert not upstream.replicas[0].breaker.troubled


@both_loops
async def test_a_service_of_which_nothing_answers_is_left_alone_and_taken_back_by_any_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(breaker, "_FIRST_SECONDS", 0.1)
    monkeypatch.setattr(breaker, "_PROBE_SECONDS", 0.1)
    async with scripted(hangs_on_reports) as server, upstream_of(server.url) as upstream:
        await asyncio.gather(*(outcome(upstream, b"/reports", 0.05) for _ in range(5)))
        assert upstream.breaker_state == "open"
        # Whoever probes with the endpoint that hangs keeps nobody else from probing with another.
        await eventually(lambda: upstream.breaker_state == "half-open")
        probe = asyncio.ensure_future(outcome(upstream, b"/reports", 3.0))
        await eventually(lambda: upstream.snapshot()["active"])
        assert await outcome(upstream) is UPSTREAM_OPEN
        async with asyncio.timeout(10):
            while await outcome(upstream) != 200:
                await asyncio.sleep(0.02)
        assert not probe.done()
        assert upstream.breaker_state == "closed"
        assert await probe is UPSTREAM_TIMEOUT
        assert upstream.breaker_state == "closed"


@both_loops
async def test_an_endpoint_that_hangs_is_no_silence_of_the_service() -> None:
    """Nothing else is asked for long, so that nothing else is answered; its health path is."""
    async with (
        scripted(hangs_on_reports) as server,
        upstream_of(server.url, health="/health", max_connections=20) as upstream,
    ):
        for _ in range(3):
            await asyncio.gather(*(outcome(upstream, b"/reports", 0.05) for _ in range(20)))
            await eventually(lambda: not upstream._asked)
            assert upstream.breaker_state == "closed"
        assert await outcome(upstream) == 200


@both_loops
async def test_a_service_that_is_silent_altogether_is_left_alone_until_its_health_path_answers() -> None:
    async def hangs(peer: Peer) -> None:
        await peer.request()
        await peer.gone()

    async with scripted(hangs) as server, upstream_of(server.url, health="/health") as upstream:
        await asyncio.gather(*(outcome(upstream, timeout=0.05) for _ in range(5)))
        await eventually(lambda: upstream.breaker_state == "open", 20)
        server.script = replies(OK)
        # Without any request.
        await eventually(lambda: upstream.breaker_state == "closed", 20)


@both_loops
async def test_failures_among_more_answers_leave_the_breaker_closed() -> None:
    async def script(peer: Peer) -> None:
        while True:
            head = await peer.request()
            if head.startswith(b"POST /crash"):
                peer.reset()
                return
            await peer.send(OK)

    async def crash(upstream: Upstream) -> None:
        client = Client("POST", b"/crash", body=[b"x"])
        with contextlib.suppress(GatewayError):
            await relay(client.x, upstream, b"accept: */*\r\n", 5.0)

    async with scripted(script) as server, upstream_of(server.url) as upstream:
        assert {await outcome(upstream) for _ in range(50)} == {200}
        await asyncio.gather(*(crash(upstream) for _ in range(20)))
        assert upstream.breaker_state == "closed"
        await asyncio.gather(*(crash(upstream) for _ in range(60)))
        assert upstream.breaker_state == "open"


# --- a replica that only fails ---


def counted(script: Script, seen: list[int], which: int) -> Script:
    async def counting(peer: Peer) -> None:
        head = peer.head

        async def counted_head() -> bytes:
            data = await head()
            seen[which] += 1
            return data

        peer.head = counted_head  # type: ignore[method-assign]
        await script(peer)

    return counting


async def cuts_every_body(peer: Peer) -> None:
    await peer.request()
    await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n", b"cut")


@both_loops
@pytest.mark.parametrize("bad", [replies(FAILS), cuts_every_body], ids=["500", "cut"])
async def test_a_replica_that_only_fails_is_ejected_while_the_others_are_well(bad: Script) -> None:
    seen = [0, 0, 0]
    async with (
        scripted(counted(bad, seen, 0)) as one,
        scripted(counted(replies(OK), seen, 1)) as two,
        scripted(counted(replies(OK), seen, 2)) as three,
        upstream_of(one.url, two.url, three.url) as upstream,
    ):
        for failures in (5, 2):  # it is let back in, and has not changed
            seen[0] = 0
            upstream.replicas[0].standing.until = upstream.sweeper.now
            for _ in range(100):
                await outcome(upstream)
            assert failures <= seen[0] <= failures + 3  # nothing was known of the others yet
            assert upstream.snapshot()["ejected"] == 1
            assert upstream.breaker_state == "closed"


@both_loops
async def test_the_only_replica_and_replicas_that_all_fail_keep_their_requests() -> None:
    async with (
        scripted(replies(FAILS)) as one,
        scripted(replies(FAILS)) as two,
        upstream_of(one.url) as only,
        upstream_of(one.url, two.url) as both,
    ):
        for upstream in (only, both):
            assert {await outcome(upstream) for _ in range(40)} == {500}
            assert upstream.snapshot()["ejected"] == 0


@both_loops
async def test_an_ejected_replica_serves_when_the_others_cannot() -> None:
    async with (
        scripted(replies(OK)) as one,
        scripted(replies(OK)) as two,
        upstream_of(one.url, two.url) as upstream,
    ):
        upstream.replicas[0].standing.until = upstream.sweeper.now + 30
        for _ in range(5):
            upstream.replicas[1].breaker.failure(upstream.sweeper.now, 0)
        assert upstream.choose() is upstream.replicas[0]
        assert {await outcome(upstream) for _ in range(5)} == {200}
        assert two.connections == 0
