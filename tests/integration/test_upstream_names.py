"""A service's name that moves, or stands for several addresses, while requests flow."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from kernel.http.problems import GatewayError
from kernel.upstream.balance import Upstream
from kernel.upstream.resolver import Resolver
from tests.support.gateway import free_port
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

ONE, TWO, THREE = "127.0.0.1", "127.0.0.2", "127.0.0.3"


def _has_them() -> bool:
    """macOS has no 127.0.0.2 unless it is told to."""
    try:
        with socket.socket() as probe:
            probe.bind((THREE, 0))
    except OSError:
        return False
    return True


pytestmark = pytest.mark.skipif(not _has_them(), reason="no loopback addresses but 127.0.0.1")


class Notes:
    def info(self, event: str, **fields: Any) -> None:
        pass

    warning = info


class Names:
    """A DNS that says what it is told to, and a resolver that asks it all the time."""

    def __init__(self, *addresses: str) -> None:
        self.addresses: Sequence[str] = addresses

    async def lookup(self, host: str) -> Sequence[str]:
        assert host == "svc.test"
        return self.addresses

    @asynccontextmanager
    async def upstream(self, port: int, **limits: Any) -> AsyncIterator[Upstream]:
        """Of http://svc.test, when its addresses are known."""
        notes: Any = Notes()
        resolver = Resolver(notes, 0.02, self.lookup)
        try:
            async with upstream_of(f"http://svc.test:{port}", resolver=resolver, **limits) as upstream:
                await self.known(upstream)
                yield upstream
                await resolver.close()
        finally:
            await resolver.close()

    async def known(self, upstream: Upstream) -> None:
        wanted = {(each,) for each in self.addresses}
        await eventually(lambda: {replica.pool.ips for replica in upstream.replicas} == wanted)


def says(text: bytes) -> Script:
    return replies(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(text), text))


async def ask(upstream: Upstream) -> bytes:
    client = Client()
    await relay(client.x, upstream, b"accept: */*\r\n", 5.0)
    return client.body


@both_loops
async def test_requests_spread_over_all_addresses_of_a_name() -> None:
    port = free_port()
    names = Names(ONE, TWO, THREE)
    async with (
        scripted(says(b"one"), host=ONE, port=port),
        scripted(says(b"two"), host=TWO, port=port),
        scripted(says(b"three"), host=THREE, port=port),
        names.upstream(port) as upstream,
    ):
        answers = [await ask(upstream) for _ in range(180)]
        assert all(answers.count(each) > 20 for each in (b"one", b"two", b"three"))
        assert upstream.only is None


@both_loops
async def test_a_name_that_moves_is_followed_and_its_connections_are_left() -> None:
    port = free_port()
    names = Names(ONE)
    async with (
        scripted(says(b"old"), host=ONE, port=port) as old,
        scripted(says(b"new"), host=TWO, port=port),
        names.upstream(port) as upstream,
    ):
        assert await ask(upstream) == b"old"
        names.addresses = [TWO]
        await names.known(upstream)
        assert [await ask(upstream) for _ in range(3)] == [b"new"] * 3
        await eventually(lambda: not old.open)
        assert upstream.only is upstream.replicas[0]


@both_loops
async def test_a_response_under_way_ends_where_it_began() -> None:
    port = free_port()
    names = Names(ONE)
    go_on = asyncio.Event()

    async def slow(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nol")
        await go_on.wait()
        await peer.send(b"d!")
        await peer.gone()

    async with (
        scripted(slow, host=ONE, port=port) as old,
        scripted(says(b"new"), host=TWO, port=port),
        scripted(says(b"new"), host=THREE, port=port),
        names.upstream(port) as upstream,
    ):
        # Of three addresses one is left: the slow one is moved or retired.
        running = asyncio.ensure_future(ask(upstream))
        await eventually(lambda: old.connections)
        names.addresses = [TWO, THREE]
        await names.known(upstream)
        assert await ask(upstream) == b"new"
        names.addresses = [THREE]
        await names.known(upstream)
        assert await ask(upstream) == b"new"
        go_on.set()
        assert await running == b"old!"
        await eventually(lambda: not old.open)
        assert [len(replica.pool.busy) for replica in upstream.replicas] == [0]
        await eventually(lambda: not upstream._leaving)


@both_loops
async def test_no_request_is_lost_while_addresses_come_and_go() -> None:
    port = free_port()
    names = Names(ONE)
    async with (
        scripted(says(b"1"), host=ONE, port=port),
        scripted(says(b"2"), host=TWO, port=port),
        scripted(says(b"3"), host=THREE, port=port),
        names.upstream(port, max_connections=4) as upstream,
    ):
        over = False

        async def user() -> int:
            count = 0
            while not over:
                assert await ask(upstream) in {b"1", b"2", b"3"}
                count += 1
            return count

        users = [asyncio.ensure_future(user()) for _ in range(12)]
        for addresses in ([ONE, TWO], [TWO], [TWO, THREE, ONE], [THREE], [ONE, THREE], [ONE]) * 2:
            names.addresses = addresses
            await names.known(upstream)
            await asyncio.sleep(0.02)
        over = True
        assert all(await asyncio.gather(*users))
        assert set(upstream.meter.outcomes) == {"2xx"}


@both_loops
async def test_what_is_known_of_an_address_stays_with_it() -> None:
    port = free_port()
    names = Names(ONE, TWO)
    async with (
        scripted(replies(OK), host=TWO, port=port),
        names.upstream(port) as upstream,
    ):
        (dead,) = (replica for replica in upstream.replicas if replica.pool.ips == (ONE,))
        for _ in range(60):
            await ask(upstream)  # who is refused goes to the other
        assert dead.breaker.troubled
        names.addresses = [ONE, TWO, THREE]
        await names.known(upstream)
        assert dead in upstream.replicas
        assert dead.breaker.troubled
        assert dead.name == f"svc.test:{port} (127.0.0.1)"
        # Another machine in its place is not blamed for it.
        names.addresses = [TWO, THREE]
        await names.known(upstream)
        names.addresses = [TWO]
        await names.known(upstream)
        assert not any(replica.breaker.troubled for replica in upstream.replicas)


@both_loops
async def test_the_other_family_stands_in_when_one_cannot_be_reached() -> None:
    """`localhost` is ::1 and 127.0.0.1, and a service may listen on one of them: one replica, not two."""
    names = Names("::1", ONE)
    async with scripted(says(b"v4"), host=ONE) as server:
        notes: Any = Notes()
        resolver = Resolver(notes, 0.02, names.lookup)
        async with upstream_of(f"http://svc.test:{server.port}", resolver=resolver) as upstream:
            await eventually(lambda: upstream.replicas[0].pool.ips == ("::1", ONE))
            assert [await ask(upstream) for _ in range(3)] == [b"v4"] * 3
            assert len(upstream.replicas) == 1
            assert upstream.meter.retries == 0
            assert upstream.breaker_state == "closed"
            await resolver.close()


@both_loops
async def test_a_connection_is_not_used_for_ever() -> None:
    async with scripted(says(b"x")) as server, upstream_of(server.url, max_age=0.2) as upstream:
        async with asyncio.timeout(20):
            while server.connections < 4:
                assert await ask(upstream) == b"x"
                await asyncio.sleep(0.005)
        # Nor kept at rest.
        await eventually(lambda: not upstream.snapshot()["idle"])
        assert set(upstream.meter.outcomes) == {"2xx"}


@both_loops
async def test_until_a_name_is_known_it_is_connected_to_by_name() -> None:
    names = Names()
    notes: Any = Notes()
    resolver = Resolver(notes, 0.02, names.lookup)
    async with scripted(says(b"x")), upstream_of("http://svc.test:1", resolver=resolver) as upstream:
        with pytest.raises(GatewayError) as caught:
            await ask(upstream)
        assert caught.value.problem.detail == "inventory failed in phase connect: its host name is not known."
        await resolver.close()
