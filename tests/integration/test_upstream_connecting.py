"""Getting a connection: stale ones, refusals, time-outs, the queue, unix sockets."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kernel.http.problems import (
    UPSTREAM_BUSY,
    UPSTREAM_CONNECT,
    UPSTREAM_CONNECT_TIMEOUT,
    UPSTREAM_RESET,
    UPSTREAM_TIMEOUT,
    ClientGone,
    GatewayError,
    Problem,
)
from kernel.upstream.balance import Upstream
from tests.support.gateway import free_port
from tests.support.scripted_upstream import (
    OK,
    Client,
    Peer,
    both_loops,
    eventually,
    nothing_leaks,
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


@contextmanager
def deaf_port() -> Iterator[int]:
    """A port whose backlog is full: connections to it are neither accepted nor refused."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        fillers = []
        for _ in range(8):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
            fillers.append(filler)
        yield port
        for filler in fillers:
            filler.close()


async def served_once(peer: Peer) -> None:
    """Answers one request, then closes the moment a second one comes, as a server whose keep-alive ran out does."""
    await peer.request()
    await peer.send(OK)
    await peer.request()


# --- stale connections ---


@both_loops
@pytest.mark.parametrize(("method", "body"), [("GET", None), ("HEAD", None), ("PUT", b"x"), ("DELETE", None)])
async def test_a_stale_connection_is_replaced_for_an_idempotent_request(
    method: str, body: bytes | None
) -> None:
    async def script(peer: Peer) -> None:
        head = await peer.request()
        await peer.send(OK[:-2] if head.startswith(b"HEAD") else OK)
        await peer.request()

    async with scripted(script) as server, upstream_of(server.url) as upstream:
        for connections in (1, 2, 3):
            client = await ask(upstream, Client(method, body=None if body is None else [body]))
            assert (client.status, client.complete) == (200, True)
            assert server.connections == connections
        assert upstream.meter.retries == 2
        assert not upstream.replicas[0].breaker.troubled  # it is nobody's failure


@both_loops
async def test_a_stale_connection_fails_a_post_rather_than_repeat_it() -> None:
    async with scripted(served_once) as server, upstream_of(server.url) as upstream:
        await ask(upstream, Client("POST", body=[b"1"]))
        assert (await problem(upstream, Client("POST", body=[b"2"]))).kind is UPSTREAM_RESET
        assert server.connections == 1


@both_loops
async def test_a_body_that_was_streamed_is_not_repeated() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)
        await peer.request()

    async with scripted(script) as server, upstream_of(server.url) as upstream:
        await ask(upstream)
        assert (await problem(upstream, Client("PUT", body=[b"a" * 20_000, b"b"]))).kind is UPSTREAM_RESET
        assert server.connections == 1


@both_loops
async def test_a_connection_closed_while_idle_is_not_used() -> None:
    async with scripted(replies(OK, close=True)) as server, upstream_of(server.url) as upstream:
        for connections in (1, 2):
            await ask(upstream, Client("POST", body=[b"1"]))
            await eventually(lambda: not upstream.replicas[0].pool.size)
            assert server.connections == connections


@both_loops
async def test_idle_connections_are_closed_after_their_time() -> None:
    async with scripted(replies(OK)) as server, upstream_of(server.url, keepalive=0.05) as upstream:
        await asyncio.gather(*(ask(upstream) for _ in range(5)))
        assert upstream.snapshot()["idle"] == 5
        await eventually(lambda: server.open == 0)
        assert upstream.snapshot()["idle"] == 0


# --- refused, late ---


@both_loops
async def test_a_refused_connection_is_a_502_that_names_the_service_and_the_phase() -> None:
    async with upstream_of(f"http://127.0.0.1:{free_port()}") as upstream:
        found = await problem(upstream)
        assert found.kind is UPSTREAM_CONNECT
        assert found.detail == "inventory failed in phase connect: the connection was refused."
        assert upstream.meter.outcomes == {"upstream-connect": 1}


@both_loops
@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://no-such-host.invalid:8000", "its host name is not known"),
        ("unix:///tmp/no/such/socket", "its socket does not exist"),
    ],
)
async def test_a_connection_that_cannot_be_made_is_a_502_that_says_why(url: str, reason: str) -> None:
    async with upstream_of(url) as upstream:
        found = await problem(upstream)
        assert found.kind is UPSTREAM_CONNECT
        assert found.detail == f"inventory failed in phase connect: {reason}."


@both_loops
async def test_a_connection_that_is_not_accepted_is_a_504() -> None:
    with deaf_port() as port:
        async with upstream_of(f"http://127.0.0.1:{port}", connect_timeout=0.1) as upstream:
            assert (await problem(upstream)).kind is UPSTREAM_CONNECT_TIMEOUT


# --- the queue ---


async def slow(peer: Peer) -> None:
    """Answers nothing until a second connection or the gateway's end of this one."""
    await peer.request()
    await peer.gone()


@both_loops
async def test_a_full_queue_is_a_503_with_retry_after() -> None:
    async with (
        scripted(slow) as server,
        upstream_of(server.url, max_connections=1, max_waiting=1) as upstream,
    ):
        running = [asyncio.ensure_future(problem(upstream, timeout=1.5)) for _ in range(2)]
        await eventually(lambda: (upstream.snapshot()["active"], upstream.snapshot()["waiting"]) == (1, 1))
        found = await problem(upstream)
        assert found.kind is UPSTREAM_BUSY
        assert retry_after(found) >= 1
        assert found.detail.startswith("inventory failed in phase connect: the queue")
        assert upstream.snapshot()["active"] == 1
        assert {each.kind for each in await asyncio.gather(*running)} == {UPSTREAM_TIMEOUT}
        assert upstream.meter.outcomes == {"upstream-busy": 1, "upstream-timeout": 2}


@both_loops
async def test_waiting_too_long_in_the_queue_is_a_503() -> None:
    async with (
        scripted(slow) as server,
        upstream_of(server.url, max_connections=1, queue_timeout=0.05) as upstream,
    ):
        first = asyncio.ensure_future(problem(upstream, timeout=0.3))
        await eventually(lambda: upstream.snapshot()["active"])
        found = await problem(upstream)
        assert (found.kind, retry_after(found)) == (UPSTREAM_BUSY, 1)
        assert upstream.snapshot()["waiting"] == 0
        await first


@both_loops
async def test_a_client_that_leaves_the_queue_is_not_served() -> None:
    async with scripted(slow) as server, upstream_of(server.url, max_connections=1) as upstream:
        first = asyncio.ensure_future(problem(upstream, timeout=0.5))
        await eventually(lambda: upstream.snapshot()["active"])
        client = Client()
        queued = asyncio.ensure_future(problem(upstream, client))
        await eventually(lambda: upstream.snapshot()["waiting"])
        client.leave()
        assert (await queued).kind is ClientGone().problem.kind
        assert upstream.snapshot()["waiting"] == 0
        await first
        assert server.connections == 1


@both_loops
async def test_the_queue_is_served_in_order_over_few_connections() -> None:
    served: list[bytes] = []

    async def script(peer: Peer) -> None:
        while True:
            served.append((await peer.request()).split()[1])
            await peer.send(OK)

    async with scripted(script) as server, upstream_of(server.url, max_connections=1) as upstream:
        await asyncio.gather(*(ask(upstream, Client(path=b"/%d" % i)) for i in range(50)))
        assert served == [b"/%d" % i for i in range(50)]
        assert server.connections == 1
        assert upstream.snapshot()["reused"] == 49


@both_loops
async def test_the_queue_moves_on_when_a_connection_breaks() -> None:
    async with (
        scripted(replies(OK, close=True)) as server,
        upstream_of(server.url, max_connections=2) as upstream,
    ):
        await asyncio.gather(*(ask(upstream) for _ in range(20)))
        assert server.connections == 20


# --- other addresses ---


@both_loops
async def test_a_unix_socket_serves(tmp_path: Path) -> None:
    path = str(tmp_path / "service.sock")
    seen: list[bytes] = []

    async def script(peer: Peer) -> None:
        while True:
            seen.append(await peer.request())
            await peer.send(OK)

    async with scripted(script, path=path) as server, upstream_of(f"unix://{path}") as upstream:
        for _ in range(2):
            assert (await ask(upstream)).body == b"ok"
        assert server.connections == 1
        assert b"\r\nhost: localhost\r\n" in seen[0]


@both_loops
async def test_the_request_reaches_the_service_as_it_came() -> None:
    seen: list[bytes] = []

    async def script(peer: Peer) -> None:
        seen.append(await peer.request())
        await peer.send(OK)

    async with scripted(script) as server, upstream_of(server.url) as upstream:
        client = Client("POST", path=b"/a%2Fb/%C3%A9;x", body=[b"body"])
        client.x.query = b"q=%20+&q"
        await ask(upstream, client)
        assert seen == [
            b"POST /a%%2Fb/%%C3%%A9;x?q=%%20+&q HTTP/1.1\r\n"
            b"host: 127.0.0.1:%d\r\naccept: */*\r\ncontent-length: 4\r\n\r\nbody" % server.port
        ]


@both_loops
async def test_closing_refuses_the_queue_and_lets_what_runs_end() -> None:
    gate = asyncio.Event()

    async def waiting(peer: Peer) -> None:
        await peer.request()
        await gate.wait()
        await peer.send(OK)
        await peer.gone()

    async with scripted(waiting) as server, upstream_of(server.url, max_connections=1) as upstream:
        running = asyncio.ensure_future(ask(upstream))
        await eventually(lambda: server.connections)
        queued = asyncio.ensure_future(problem(upstream))
        await eventually(lambda: upstream.snapshot()["waiting"])
        await upstream.close()
        assert (await queued).kind is UPSTREAM_BUSY
        gate.set()
        assert (await running).body == b"ok"
        await eventually(lambda: server.open == 0)
        await nothing_leaks(upstream)
