"""Large answers are read in parts of a size that changes under way: not a byte of them does."""

from __future__ import annotations

import hashlib
import random
import ssl
from pathlib import Path

import pytest

from kernel.upstream.balance import Upstream
from kernel.upstream.parts import Parts
from tests.support.certificates import pair
from tests.support.scripted_upstream import Client, Peer, both_loops, relay, scripted, upstream_of

MIB = 1024 * 1024
BODY = random.Random(1).randbytes(9 * MIB)
SMALL = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nsmall"


async def large(peer: Peer) -> None:
    """By targets: `/length`, `/chunks`, `/close`, and everything else small."""
    head = b"HTTP/1.1 200 OK\r\n"
    while True:
        target = (await peer.request()).split(b" ", 2)[1]
        if target == b"/length":
            await peer.send(head + b"content-length: %d\r\n\r\n" % len(BODY), BODY)
        elif target == b"/chunks":
            await peer.send(head + b"transfer-encoding: chunked\r\n\r\n")
            sizes = random.Random(2)
            start = 0
            while start < len(BODY):
                chunk = BODY[start : start + sizes.randrange(1, 300_000)]
                await peer.send(b"%x\r\n%b\r\n" % (len(chunk), chunk))
                start += len(chunk)
            await peer.send(b"0\r\n\r\n")
        elif target == b"/close":
            await peer.send(head + b"connection: close\r\n\r\n", BODY)
            return
        else:
            await peer.send(SMALL)


async def ask(upstream: Upstream, path: bytes) -> Client:
    client = Client(path=path)
    await relay(client.x, upstream, b"accept: */*\r\n", 10.0)
    assert client.complete
    return client


def same(body: bytes) -> bool:
    return hashlib.sha256(body).digest() == hashlib.sha256(BODY).digest()


@both_loops
@pytest.mark.parametrize("path", [b"/length", b"/chunks"])
@pytest.mark.parametrize("crowd", [0, 1000], ids=["alone", "in a crowd"])
async def test_a_large_answer_is_passed_on_and_its_connection_used_again(path: bytes, crowd: int) -> None:
    async with scripted(large) as server, upstream_of(server.url) as upstream:
        upstream.sweeper.parts.bodies += crowd
        for _ in range(2):
            found = await ask(upstream, path)
            assert same(found.body)
            assert found.writes >= len(BODY) // 262_144
            assert (await ask(upstream, b"/small")).body == b"small"
        assert server.connections == 1
        assert upstream.sweeper.parts.bodies == crowd


@both_loops
async def test_one_that_ends_with_its_connection_is_whole() -> None:
    async with scripted(large) as server, upstream_of(server.url) as upstream:
        assert same((await ask(upstream, b"/close")).body)


@both_loops
async def test_with_tls_it_is_the_same(tmp_path: Path) -> None:
    chain, key = pair(tmp_path)
    server_tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_tls.load_cert_chain(chain, key)
    client_tls = ssl.create_default_context(cafile=str(chain))
    async with (
        scripted(large, tls=server_tls) as server,
        upstream_of(f"https://localhost:{server.port}", tls=client_tls) as upstream,
    ):
        for path in (b"/length", b"/chunks"):
            assert same((await ask(upstream, path)).body)
            assert (await ask(upstream, b"/small")).body == b"small"
        assert server.connections == 1


def test_there_is_one_buffer_of_a_worker() -> None:
    parts = Parts()
    assert all(view.obj is parts.buffer.obj for view in (parts.view(), parts.smallest))
