"""Services close idle connections when they like: the gateway does so before them, and no POST is lost to the race."""

from __future__ import annotations

import asyncio
import random
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from kernel.upstream.balance import Upstream
from kernel.upstream.pool import PoolLimits
from tests.support.gateway import free_port
from tests.support.scripted_upstream import (
    Client,
    Peer,
    both_loops,
    eventually,
    relay,
    scripted,
    upstream_of,
)

_UVICORN = """
import sys, uvicorn
async def app(scope, receive, send):
    while (await receive()).get("more_body"): pass
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})
uvicorn.run(app, port=int(sys.argv[1]), timeout_keep_alive=1, log_level="warning", lifespan="off")
"""
_NODE = """
const server = require("http").createServer((request, response) => {
  request.resume(); request.on("end", () => response.end("ok"));
});
server.keepAliveTimeout = 3000;
server.listen(Number(process.argv[1]), "127.0.0.1");
"""


@asynccontextmanager
async def running(command: Sequence[str], port: int) -> AsyncIterator[str]:
    """The URL of a service in a process of its own."""
    process = subprocess.Popen([*command, str(port)])
    try:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + 30
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                assert loop.time() < deadline, "it does not listen"
                await asyncio.sleep(0.05)
            else:
                writer.close()
                break
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


async def posts(upstream: Upstream, idle: float, rounds: int) -> None:
    """POSTs on 24 connections, each again after about `idle` seconds of rest: none may fail."""
    chance = random.Random(1)

    async def one() -> None:
        for _ in range(rounds):
            client = Client("POST", body=[b"x"])
            await relay(client.x, upstream, b"accept: */*\r\n", 10.0)
            assert client.status == 200
            await asyncio.sleep(chance.uniform(0.75 * idle, 1.05 * idle))

    await asyncio.gather(*(one() for _ in range(24)))
    assert upstream.meter.retries == 0
    assert not upstream.replicas[0].breaker.troubled


async def test_by_default_connections_are_closed_before_uvicorn_and_node_do() -> None:
    assert PoolLimits().keepalive < 5.0


async def test_no_post_is_lost_to_uvicorn_s_keep_alive() -> None:
    """Its second for our 0.8, as by default its 5 for our 4."""
    async with (
        running([sys.executable, "-c", _UVICORN], free_port()) as url,
        upstream_of(url, keepalive=0.8) as upstream,
    ):
        await posts(upstream, 1.0, rounds=5)


@pytest.mark.skipif(shutil.which("node") is None, reason="there is no Node here")
async def test_no_post_is_lost_to_node_whose_own_word_counts() -> None:
    async with (
        running(["node", "-e", _NODE], free_port()) as url,
        upstream_of(url, keepalive=3600.0) as upstream,
    ):
        await posts(upstream, 3.0, rounds=2)
        assert upstream.replicas[0].pool._reader.rest == 2.0


@both_loops
@pytest.mark.parametrize(
    ("field", "rest"),
    [
        (b"timeout=5", 4.0),
        (b"timeout=5, max=100", 4.0),
        (b"max=100, timeout = 7", 6.0),
        (b'timeout="3"', 2.0),
        (b"Timeout=9", 8.0),
        (b"xtimeout=5", float("inf")),
        (b"timeout=", float("inf")),
        (b"timeout=-5", float("inf")),
        (b"timeout=99999999999999999999", float("inf")),
        (b"max=5", float("inf")),
    ],
)
@pytest.mark.parametrize("chunked", [False, True])
async def test_what_a_service_says_of_its_keep_alive_is_heard(
    field: bytes, rest: float, chunked: bool
) -> None:
    body = b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n" if chunked else b"content-length: 0\r\n\r\n"

    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.send(b"HTTP/1.1 200 OK\r\nKeep-Alive: %b\r\n%b" % (field, body))

    async with scripted(script) as server, upstream_of(server.url) as upstream:
        client = Client()
        await relay(client.x, upstream, b"accept: */*\r\n", 2.0)
        assert upstream.replicas[0].pool._reader.rest == rest
        assert not [name for name, _ in client.headers if name == b"keep-alive"]


@both_loops
async def test_a_connection_that_lasts_a_second_at_most_is_not_used_again() -> None:
    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.send(b"HTTP/1.1 200 OK\r\nkeep-alive: timeout=1\r\ncontent-length: 0\r\n\r\n")

    async with scripted(script) as server, upstream_of(server.url) as upstream:
        for connections in (1, 2):
            client = Client()
            await relay(client.x, upstream, b"accept: */*\r\n", 2.0)
            await eventually(lambda: server.open == 0)
            assert server.connections == connections
