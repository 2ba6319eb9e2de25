"""The gateway's own calls: what is said, what is believed, and what bounds them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from kernel.http.problems import (
    UPSTREAM_CONNECT,
    UPSTREAM_PROTOCOL,
    UPSTREAM_RESET,
    UPSTREAM_TIMEOUT,
    GatewayError,
    Problem,
)
from kernel.upstream.balance import Upstream
from kernel.upstream.client import Answer, ServiceClient
from tests.support.gateway import free_port
from tests.support.scripted_upstream import (
    OK,
    Peer,
    Script,
    both_loops,
    eventually,
    replies,
    scripted,
    upstream_of,
)


async def ask(upstream: Upstream, method: str = "GET", body: bytes | None = None, **options: Any) -> Answer:
    client = ServiceClient({"inventory": upstream}, None, timeout=1.0)
    return await client.call("inventory", method, "/x", body, **options)


async def problem(upstream: Upstream, method: str = "GET", **options: Any) -> Problem:
    with pytest.raises(GatewayError) as caught:
        await ask(upstream, method, **options)
    return caught.value.problem


def noting(seen: list[bytes], reply: bytes = OK) -> Script:
    async def script(peer: Peer) -> None:
        while True:
            seen.append(await peer.request())
            await peer.send(reply)

    return script


@both_loops
async def test_what_is_asked_is_said_to_the_byte_and_nothing_else() -> None:
    seen: list[bytes] = []
    async with scripted(noting(seen)) as server, upstream_of(server.url) as upstream:
        client = ServiceClient({"inventory": upstream}, lambda: "token")
        answer = await client.call(
            "inventory", "POST", "/a%2fb/../c?q=%c3%a9+x&q", b'{"a": 1}', ((b"x-tenant-id", b"t"),)
        )
        assert answer == Answer(200, b"ok", ((b"content-length", b"2"),))
    head, _, body = seen[0].partition(b"\r\n\r\n")
    first, host, *rest = head.split(b"\r\n")
    assert first == b"POST /a%2fb/../c?q=%c3%a9+x&q HTTP/1.1"
    assert host == b"host: 127.0.0.1:%d" % server.port
    assert sorted(line.lower() for line in rest) == [
        b"accept: application/json",
        b"authorization: bearer token",
        b"content-length: 8",
        b"content-type: application/json",
        b"x-forwarded-by: bakery-gateway",
        b"x-tenant-id: t",
    ]
    assert body == b'{"a": 1}'


@both_loops
async def test_a_cookie_of_a_service_is_never_sent_to_it_again() -> None:
    seen: list[bytes] = []
    reply = b"HTTP/1.1 200 OK\r\nset-cookie: session=of-one-tenant; Path=/\r\ncontent-length: 0\r\n\r\n"
    async with scripted(noting(seen, reply)) as server, upstream_of(server.url) as upstream:
        client = ServiceClient({"inventory": upstream}, None)
        first = await client.call("inventory", "GET", "/")
        assert (b"set-cookie", b"session=of-one-tenant; Path=/") in first.headers
        await client.call("inventory", "GET", "/", headers=((b"cookie", b"refresh_token=mine"),))
        await client.call("inventory", "GET", "/")
    cookies = [[line for line in head.split(b"\r\n") if line.startswith(b"cookie")] for head in seen]
    assert cookies == [[], [b"cookie: refresh_token=mine"], []]


@both_loops
@pytest.mark.parametrize("location", [b"/elsewhere", b"http://127.0.0.1:1/", b"\xff"])
async def test_a_redirect_is_an_answer(location: bytes) -> None:
    reply = b"HTTP/1.1 302 Found\r\nlocation: %b\r\ncontent-length: 0\r\n\r\n" % location
    async with scripted(replies(reply)) as server, upstream_of(server.url) as upstream:
        assert (await ask(upstream)).status == 302
        assert server.connections == 1


@both_loops
async def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    async with scripted(replies(OK)) as server, upstream_of(server.url) as upstream:
        assert (await ask(upstream)).body == b"ok"


@both_loops
async def test_an_answer_of_a_mebibyte_is_read_and_a_longer_one_refused() -> None:
    size = 1024 * 1024

    async def script(peer: Peer) -> None:
        for more in (0, 1):
            await peer.request()
            await peer.send(
                b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % (size + more), bytes(size + more)
            )

    async with scripted(script) as server, upstream_of(server.url) as upstream:
        assert len((await ask(upstream)).body) == size
        found = await problem(upstream)
        assert (found.kind, found.detail) == (UPSTREAM_PROTOCOL, "inventory: the answer is too large.")


@both_loops
@pytest.mark.parametrize(
    "reply", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf"]
)
async def test_an_answer_that_does_not_end_is_given_up_in_time(reply: bytes) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(reply)
        await peer.gone()

    async with scripted(script) as server, upstream_of(server.url) as upstream:
        client = ServiceClient({"inventory": upstream}, None, timeout=0.1)
        with pytest.raises(GatewayError) as caught:
            await client.call("inventory", "GET", "/")
        assert caught.value.problem.kind is UPSTREAM_TIMEOUT
        assert caught.value.problem.detail.startswith("inventory: ")


@both_loops
async def test_an_answer_that_drips_is_given_up_in_time() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n")
        while True:
            await peer.send(b".")
            await asyncio.sleep(0.01)

    async with scripted(script) as server, upstream_of(server.url) as upstream:
        client = ServiceClient({"inventory": upstream}, None, timeout=0.2)
        with pytest.raises(GatewayError) as caught:
            await client.call("inventory", "GET", "/")
        assert caught.value.problem.kind is UPSTREAM_TIMEOUT


@both_loops
async def test_calls_count_for_the_service_and_probes_do_not() -> None:
    async with scripted(replies(OK)) as server, upstream_of(server.url) as upstream:
        await ask(upstream)
        await ask(upstream, probe=True)
        assert upstream.meter.outcomes == {"2xx": 1}
    async with upstream_of(f"http://127.0.0.1:{free_port()}") as upstream:
        assert (await problem(upstream)).kind is UPSTREAM_CONNECT
        assert (await problem(upstream, probe=True)).kind is UPSTREAM_CONNECT
        assert upstream.meter.outcomes == {"upstream-connect": 1}


@both_loops
@pytest.mark.parametrize(
    ("method", "options", "twice"),
    [
        ("GET", {}, True),
        ("PUT", {}, False),
        ("POST", {}, False),
        ("POST", {"repeatable": True}, True),
        ("GET", {"repeatable": False}, False),
        ("GET", {"probe": True}, True),
    ],
)
async def test_what_met_a_connection_that_was_just_closed_is_repeated_if_it_may_be(
    method: str, options: dict[str, Any], twice: bool
) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)
        await peer.request()

    async with scripted(script) as server, upstream_of(server.url) as upstream:
        await ask(upstream)
        if twice:
            assert (await ask(upstream, method, **options)).body == b"ok"
        else:
            assert (await problem(upstream, method, **options)).kind is UPSTREAM_RESET
        assert upstream.meter.retries == twice
        assert server.connections == 1 + twice
        assert not upstream.replicas[0].breaker.troubled


@both_loops
async def test_a_call_that_is_cancelled_leaves_nothing_behind() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.gone()

    async with scripted(script) as server, upstream_of(server.url) as upstream:
        call = asyncio.ensure_future(ask(upstream))
        await eventually(lambda: upstream.snapshot()["active"])
        call.cancel()
        await asyncio.wait([call])
        assert call.cancelled()
        await eventually(lambda: server.open == 0)
