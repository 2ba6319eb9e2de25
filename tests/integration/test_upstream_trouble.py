"""A service in trouble: the breaker, its probes, and replicas that stand in for each other."""

from __future__ import annotations

import asyncio

import pytest

from kernel.http.problems import (
    UPSTREAM_CONNECT,
    UPSTREAM_OPEN,
    UPSTREAM_RESET,
    UPSTREAM_TIMEOUT,
    GatewayError,
    Problem,
)
from kernel.upstream import breaker
from kernel.upstream.balance import Upstream
from kernel.upstream.client import ServiceClient
from tests.support.gateway import free_port
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


async def ask(upstream: Upstream, client: Client | None = None, timeout: float = 2.0) -> Client:
    client = client or Client()
    await relay(client.x, upstream, b"accept: */*\r\n", timeout)
    return client


async def problem(upstream: Upstream, client: Client | None = None, timeout: float = 2.0) -> Problem:
    with pytest.raises(GatewayError) as caught:
        await ask(upstream, client, timeout)
    return caught.value.problem


def retry_after(found: Problem) -> int:
    return int(dict(found.headers)[b"retry-after"])


async def always_ok(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(OK)
    writer.close()


async def slow(peer: Peer) -> None:
    """Answers nothing until a second connection or the gateway's end of this one."""
    await peer.request()
    await peer.gone()


@both_loops
async def test_the_breaker_opens_then_probes_once_then_closes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(breaker, "_FIRST_SECONDS", 0.1)
    port = free_port()
    async with upstream_of(f"http://127.0.0.1:{port}") as upstream:
        for _ in range(5):
            assert (await problem(upstream)).kind is UPSTREAM_CONNECT
        found = await problem(upstream)
        assert found.kind is UPSTREAM_OPEN
        assert retry_after(found) == 1
        assert "inventory" in found.detail
        assert upstream.breaker_state == "open"
        await eventually(lambda: upstream.breaker_state == "half-open")
        # The probe runs into the same wall: open again, for longer.
        assert (await problem(upstream)).kind is UPSTREAM_CONNECT
        assert upstream.breaker_state == "open"
        assert retry_after(await problem(upstream)) == 1
        await eventually(lambda: upstream.breaker_state == "half-open")
        # The service is back, slowly: while the probe is under way nobody else is let through.
        asked, answer = asyncio.Event(), asyncio.Event()

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            asked.set()
            await answer.wait()
            writer.write(OK)
            writer.close()

        server = await asyncio.start_server(script, "127.0.0.1", port)
        probe = asyncio.ensure_future(ask(upstream))
        await asked.wait()
        assert (await problem(upstream)).kind is UPSTREAM_OPEN
        answer.set()
        assert (await probe).body == b"ok"
        assert upstream.breaker_state == "closed"
        server.close()
        await server.wait_closed()


@both_loops
async def test_a_health_probe_closes_the_breaker_and_never_opens_it() -> None:
    port = free_port()
    async with upstream_of(f"http://127.0.0.1:{port}") as upstream:
        client = ServiceClient({"inventory": upstream}, None)
        for _ in range(9):
            with pytest.raises(GatewayError):
                await client.call("inventory", "GET", "/health", probe=True)
        assert upstream.breaker_state == "closed"
        for _ in range(5):
            await problem(upstream)
        with pytest.raises(GatewayError) as refused:
            await client.call("inventory", "GET", "/x")
        assert refused.value.problem.kind is UPSTREAM_OPEN
        # It gets through nevertheless, and finds the service back.
        server = await asyncio.start_server(always_ok, "127.0.0.1", port)
        assert (await client.call("inventory", "GET", "/health", probe=True)).status == 200
        assert upstream.breaker_state == "closed"
        server.close()


@both_loops
async def test_another_worker_s_good_news_lets_the_next_request_try() -> None:
    port = free_port()
    async with upstream_of(f"http://127.0.0.1:{port}") as upstream:
        for _ in range(5):
            await problem(upstream)
        assert (await problem(upstream)).kind is UPSTREAM_OPEN
        server = await asyncio.start_server(always_ok, "127.0.0.1", port)
        upstream.relent()
        assert (await ask(upstream)).body == b"ok"
        assert upstream.breaker_state == "closed"
        server.close()


@both_loops
async def test_a_probe_whose_client_leaves_lets_the_next_one_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(breaker, "_FIRST_SECONDS", 0.1)
    async with scripted(slow) as server, upstream_of(server.url) as upstream:
        for _ in range(5):
            assert (await problem(upstream, timeout=0.01)).kind is UPSTREAM_TIMEOUT
        await eventually(lambda: upstream.breaker_state == "half-open")
        client = Client()
        probe = asyncio.ensure_future(problem(upstream, client))
        await eventually(lambda: upstream.snapshot()["active"])
        client.leave()
        await probe
        server.script = replies(OK)
        assert (await ask(upstream)).body == b"ok"


@both_loops
async def test_error_statuses_do_not_open_the_breaker() -> None:
    script = replies(b"HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n")
    async with scripted(script) as server, upstream_of(server.url) as upstream:
        for _ in range(20):
            assert (await ask(upstream)).status == 500
        assert upstream.breaker_state == "closed"
        assert upstream.meter.outcomes == {"5xx": 20}


@both_loops
async def test_the_replica_with_the_fewest_requests_is_chosen() -> None:
    gate = asyncio.Event()

    async def waiting(peer: Peer) -> None:
        await peer.request()
        await gate.wait()
        await peer.send(OK)

    async with scripted(waiting) as one, scripted(waiting) as two, upstream_of(one.url, two.url) as upstream:
        running = []
        for number in range(1, 9):
            running.append(asyncio.ensure_future(ask(upstream)))
            await eventually(lambda number=number: one.connections + two.connections == number)  # type: ignore[misc]
        assert (one.connections, two.connections) == (4, 4)
        gate.set()
        await asyncio.gather(*running)


@both_loops
async def test_a_dead_replica_costs_no_request_and_is_ejected() -> None:
    dead = f"http://127.0.0.1:{free_port()}"
    async with scripted(replies(OK)) as server, upstream_of(dead, server.url) as upstream:
        for number in range(60):
            method = "GET" if number % 2 else "POST"  # nothing was sent: any request may go elsewhere
            assert (await ask(upstream, Client(method, body=None if number % 2 else [b"x"]))).body == b"ok"
        assert upstream.snapshot()["ejected"] == 1
        assert upstream.breaker_state == "closed"
        assert 5 <= upstream.meter.retries < 60


@both_loops
async def test_a_replica_that_breaks_off_is_replaced_for_get_within_the_budget() -> None:
    async def broken(peer: Peer) -> None:
        await peer.head()

    async with (
        scripted(broken) as bad,
        scripted(replies(OK)) as good,
        upstream_of(bad.url, good.url) as upstream,
    ):
        for _ in range(10):
            assert (await ask(upstream)).body == b"ok"
        assert upstream.snapshot()["ejected"] <= 1
    async with scripted(broken) as bad, upstream_of(bad.url) as upstream:
        assert (await problem(upstream, Client("POST", body=[b"x"]))).kind is UPSTREAM_RESET
        assert bad.connections == 1
