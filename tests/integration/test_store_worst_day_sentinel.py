"""A master watched by sentinels on its worst days, under load: failovers planned and not, and an old master that returns."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import pytest
import redis

from tests.support.store import RawServer, until
from tests.support.worst_day import Load

pytestmark = pytest.mark.slow

REPLICA = "repl-diskless-sync-delay 0\nrepl-timeout 5\n"


class Watch(NamedTuple):
    """A master and its replica, and two sentinels of which one is enough."""

    first: RawServer
    second: RawServer
    sentinels: list[RawServer]

    @property
    def url(self) -> str:
        places = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis+sentinel://{places}/mymaster"


def is_master(server: RawServer) -> bool:
    try:
        return "role:master" in server.call("INFO", "replication")
    except redis.ConnectionError:
        return False  # a sentinel that changes a server's role cuts its clients off


@pytest.fixture
async def watch(tmp_path: Path) -> AsyncIterator[Watch]:
    servers: list[RawServer] = []
    try:
        first = RawServer(tmp_path / "first", REPLICA)
        servers.append(first)
        second = RawServer(tmp_path / "second", f"{REPLICA}replicaof 127.0.0.1 {first.port}\n")
        servers.append(second)
        config = (
            f"sentinel monitor mymaster 127.0.0.1 {first.port} 1\n"
            "sentinel down-after-milliseconds mymaster 500\n"
            "sentinel failover-timeout mymaster 3000\n"
        )
        servers.extend(RawServer(tmp_path / f"sentinel{number}", config, "--sentinel") for number in range(2))
        watch = Watch(first, second, servers[2:])

        def seen() -> bool:
            # The replica is known, and the sentinels to each other: a failover needs both.
            told = [sentinel.call("SENTINEL", "MASTER", "mymaster") for sentinel in watch.sentinels]
            return all(each["num-slaves"] == "1" and each["num-other-sentinels"] == "1" for each in told)

        await until(lambda: "master_link_status:up" in second.call("INFO", "replication"), 15)
        await until(seen, 15)
        yield watch
    finally:
        for server in servers:
            server.signal(signal.SIGCONT)
            server.kill()


async def test_a_planned_failover(watch: Watch) -> None:
    async with Load(watch.url) as load:
        await load.well()
        await until(lambda: "slave0" in watch.first.call("INFO", "replication"), 10)
        watch.sentinels[0].call("SENTINEL", "FAILOVER", "mymaster")
        await until(lambda: is_master(watch.second), 15)
        await until(lambda: not is_master(watch.first), 15)
        await load.well()
        await until(lambda: load.store.home("any") == ("127.0.0.1", watch.second.port))
        load.check()


async def test_a_master_that_hangs_is_succeeded_and_does_no_harm_when_it_returns(watch: Watch) -> None:
    async with Load(watch.url) as load:
        await load.well()
        watch.first.signal(signal.SIGSTOP)
        await load.lost()
        await until(lambda: is_master(watch.second), 20)
        await load.well()
        assert load.store.home("any") == ("127.0.0.1", watch.second.port)
        reconnects = load.store.snapshot()["reconnects"]
        watch.first.signal(signal.SIGCONT)
        await until(lambda: not is_master(watch.first), 20)
        await load.bear(1)
        assert load.store.connected
        assert load.store.snapshot()["reconnects"] == reconnects
        assert load.store.home("any") == ("127.0.0.1", watch.second.port)
        load.check()


async def test_a_sentinel_that_hangs_and_a_master_that_dies(watch: Watch) -> None:
    async with Load(watch.url) as load:
        await load.well()
        watch.sentinels[0].signal(signal.SIGSTOP)
        await asyncio.to_thread(watch.first.kill)
        assert (await load.lost()).startswith(("not reachable", "no answer in time", "no master"))
        await load.bear(1)
        # The other one cannot fail over alone: that takes a majority.
        watch.sentinels[0].signal(signal.SIGCONT)
        await until(lambda: is_master(watch.second), 20)
        watch.sentinels[0].signal(signal.SIGSTOP)
        await load.well()
        load.check()
