"""A store on its worst days, under load: nobody waits for it, nobody fails for it, and it is back by itself."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import redis

from kernel.store.eviction import eviction_policy
from kernel.store.keys import tenant_read_only
from tests.support.store import RawServer, until
from tests.support.worst_day import BOUND, Load

pytestmark = pytest.mark.slow

CONFIG = """enable-debug-command yes
busy-reply-threshold 200
appendonly no
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RawServer]:
    server = RawServer(tmp_path / "store", CONFIG)
    try:
        yield server
    finally:
        server.signal(signal.SIGCONT)
        server.kill()


def url(server: RawServer) -> str:
    return server.url


def aside(server: RawServer, *command: str | int) -> None:
    """A command whose reply takes long."""
    threading.Thread(target=_call, args=(server, *command), daemon=True).start()


def _call(server: RawServer, *command: str | int) -> None:
    with contextlib.suppress(redis.RedisError):
        server.call(*command)


def _change_password(server: RawServer) -> None:
    server.call("CONFIG", "SET", "requirepass", "another")
    kill = redis.Redis(port=server.port, password="another")
    kill.client_kill_filter(_type="normal", skipme=True)
    kill.close()


def _restore_password(server: RawServer) -> None:
    with redis.Redis(port=server.port, password="another") as client:
        client.config_set("requirepass", "")


class Fault(NamedTuple):
    """What is done to a server, what the operator reads of it, and what ends it."""

    name: str
    strike: Callable[[RawServer], object]
    reason: str
    heal: Callable[[RawServer], object]


FAULTS = [
    Fault(
        "replica",
        lambda server: server.call("REPLICAOF", "127.0.0.1", 1),
        "read-only",
        lambda server: server.call("REPLICAOF", "NO", "ONE"),
    ),
    Fault(
        "all-paused",
        lambda server: server.call("CLIENT", "PAUSE", 3000, "ALL"),
        "no answer in time",
        lambda server: None,
    ),
    Fault(
        "stopped",
        lambda server: server.signal(signal.SIGSTOP),
        "no answer in time",
        lambda server: server.signal(signal.SIGCONT),
    ),
    Fault("killed", RawServer.kill, "not reachable", RawServer.start),
    Fault(
        "full",
        lambda server: server.call("CONFIG", "SET", "maxmemory", 1),
        "out of memory",
        lambda server: server.call("CONFIG", "SET", "maxmemory", 0),
    ),
    Fault("password", _change_password, "password refused", _restore_password),
    Fault(
        "no-scripts",
        lambda server: server.call("ACL", "SETUSER", "default", "-@scripting"),
        "not permitted",
        lambda server: server.call("ACL", "SETUSER", "default", "+@all"),
    ),
    Fault(
        "sleeping",
        lambda server: aside(server, "DEBUG", "SLEEP", 3),
        "no answer in time",
        lambda server: None,
    ),
    Fault(
        "busy-script",
        lambda server: aside(server, "EVAL", "while true do end", 0),
        "(no answer in time|busy with a script)",
        lambda server: server.call("SCRIPT", "KILL"),
    ),
    Fault(
        "no-replica",
        lambda server: server.call("CONFIG", "SET", "min-replicas-to-write", 1),
        "too few replicas",
        lambda server: server.call("CONFIG", "SET", "min-replicas-to-write", 0),
    ),
]


@pytest.mark.parametrize("fault", FAULTS, ids=[fault.name for fault in FAULTS])
async def test_a_fault_costs_no_request_its_time_and_ends_by_itself(server: RawServer, fault: Fault) -> None:
    async with Load(url(server)) as load:
        await load.well()
        before = load.store.snapshot()
        await asyncio.to_thread(fault.strike, server)
        assert re.match(fault.reason, await load.lost()), load.store.last_error
        await load.bear(1.0)
        assert not load.store.connected
        # Asked again and again, but not without a pause.
        assert load.store.snapshot()["errors"] - before["errors"] < 20
        await asyncio.to_thread(fault.heal, server)
        await load.well()
        load.check()
        assert load.store.snapshot()["reconnects"] - before["reconnects"] <= 2


async def test_paused_writes_leave_the_reads_alone(server: RawServer) -> None:
    """What a planned failover does, for as long as it takes."""
    locked = tenant_read_only("locked")
    async with Load(url(server)) as load:
        await load.well()
        server.client.set(locked, "stocktaking")
        server.call("CLIENT", "PAUSE", 60000, "WRITE")
        assert "no answer in time" in await load.lost()
        # Those who were waiting for their limit just then have no patience left to read.
        await load.bear(BOUND)
        seen = len(load.asked)
        await load.bear(0.5)
        assert load.tracked.live
        assert await load.tracked.fetch([locked]) == ["stocktaking"]
        assert all(each.read for each in load.asked[seen:])
        server.call("CLIENT", "UNPAUSE")
        await load.well()
        load.check()


async def test_a_store_that_loads_its_data_is_not_there_yet(server: RawServer) -> None:
    async with Load(url(server)) as load:
        await load.well()
        server.call("DEBUG", "POPULATE", 2000)
        server.call("SAVE")
        with (server.directory / "server.conf").open("a") as config:
            config.write("key-load-delay 1000\nloading-process-events-interval-bytes 1024\n")
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.start)
        await until(lambda: load.store.last_error.startswith("loading"))
        assert not load.store.connected
        await load.bear(0.5)
        await load.well(10)
        load.check()


async def test_closed_means_that_the_limit_is_refused_in_time(server: RawServer) -> None:
    async with Load(url(server), fail_open=False) as load:
        await load.well()
        server.call("REPLICAOF", "127.0.0.1", 1)
        await load.lost()
        seen = len(load.asked)
        await load.bear(0.3)
        assert all(each.refused for each in load.asked[seen:])
        server.call("REPLICAOF", "NO", "ONE")
        await load.well()
        load.check()
        assert not load.asked[-1].refused


async def test_the_rights_that_the_docs_name_are_enough(server: RawServer) -> None:
    docs = (Path(__file__).parents[2] / "docs" / "operate.md").read_text()
    found = re.search(r"the gateway's user needs `([^`]+)`", docs)
    assert found is not None
    server.call("ACL", "SETUSER", "gateway", "on", ">secret", "~*", "&*", "-@all", *found[1].split())
    async with Load(f"redis://gateway:secret@127.0.0.1:{server.port}") as load:
        await load.well()
        await load.bear(1.5)
        load.check()
        assert load.store.snapshot()["errors"] == 0
        assert eviction_policy(await load.store.execute("INFO", "memory")) == ""
        assert load.limiter.snapshot()["workers"] == 1


async def test_twenty_bad_rounds_leave_nothing_behind(server: RawServer) -> None:
    async with Load(url(server)) as load:
        await load.well()
        descriptors, objects = set(os.listdir("/proc/self/fd")), 0
        for turn in range(20):
            server.call("REPLICAOF", "127.0.0.1", 1)
            await load.lost()
            server.call("REPLICAOF", "NO", "ONE")
            await until(lambda: load.store.connected)
            if turn == 4:
                gc.collect()
                objects = len(gc.get_objects())
        await load.well()
        load.check()
        load.asked.clear()
        gc.collect()
        assert len(os.listdir("/proc/self/fd")) <= len(descriptors) + 2
        assert len(gc.get_objects()) < objects * 1.1 + 2000
