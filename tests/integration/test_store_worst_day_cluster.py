"""A cluster on its worst days, under load: as for one server, and whatever nodes are left of it."""

from __future__ import annotations

import asyncio
import re
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.crc import key_slot

from kernel.store.redis import Store
from tests.support.store import RawServer, until
from tests.support.worst_day import Load

pytestmark = pytest.mark.slow

CONFIG = """cluster-enabled yes
cluster-node-timeout 500
cluster-allow-replica-migration no
cluster-replica-validity-factor 0
repl-diskless-sync-delay 0
"""
SHARES = ((0, 5460), (5461, 10922), (10923, 16383))


async def formed(nodes: list[RawServer]) -> None:
    async with asyncio.timeout(15):
        while any("cluster_state:ok" not in str(node.call("CLUSTER", "INFO")) for node in nodes):
            await asyncio.sleep(0.05)


@pytest.fixture
async def nodes(tmp_path: Path) -> AsyncIterator[list[RawServer]]:
    """Three primaries."""
    nodes: list[RawServer] = []
    try:
        for number, share in enumerate(SHARES):
            nodes.append(RawServer(tmp_path / str(number), CONFIG))
            nodes[-1].call("CLUSTER", "ADDSLOTSRANGE", *share)
        for node in nodes[1:]:
            nodes[0].call("CLUSTER", "MEET", "127.0.0.1", node.port)
        await formed(nodes)
        yield nodes
    finally:
        for node in nodes:
            node.signal(signal.SIGCONT)
            node.kill()


def url(nodes: list[RawServer]) -> str:
    """It names the first node only."""
    return f"redis+cluster://127.0.0.1:{nodes[0].port}"


async def join(nodes: list[RawServer], directory: Path) -> tuple[RawServer, str]:
    """Another node without slots, and its id."""
    node = RawServer(directory, CONFIG)
    nodes.append(node)
    me = str(node.call("CLUSTER", "MYID"))
    node.call("CLUSTER", "MEET", "127.0.0.1", nodes[0].port)
    async with asyncio.timeout(10):
        while any(
            me not in str(each.call("CLUSTER", "NODES")) or "handshake" in str(each.call("CLUSTER", "NODES"))
            for each in nodes
        ):
            await asyncio.sleep(0.05)
    await formed(nodes)
    return node, me


async def test_all_nodes_die_and_come_back(nodes: list[RawServer]) -> None:
    async with Load(url(nodes)) as load:
        await load.well()
        for node in nodes:
            await asyncio.to_thread(node.kill)
        assert (await load.lost()).startswith("not reachable")
        await load.bear(0.5)
        for node in nodes:
            await asyncio.to_thread(node.start)
        await formed(nodes)
        await load.well()
        load.check()


async def test_it_may_be_unreachable_at_first(nodes: list[RawServer]) -> None:
    for node in nodes:
        node.kill()
    async with Load(url(nodes)) as load:
        assert not load.store.connected
        await load.bear(0.5)
        for node in nodes:
            await asyncio.to_thread(node.start)
        await formed(nodes)
        await load.well()
        load.check()


async def test_the_one_node_that_the_address_names_dies(nodes: list[RawServer], tmp_path: Path) -> None:
    named = nodes[0].call("CLUSTER", "MYID")
    replica, _ = await join(nodes, tmp_path / "replica")
    replica.call("CLUSTER", "REPLICATE", named)
    await until(lambda: "master_link_status:up" in replica.call("INFO", "replication"), 10)
    async with Load(url(nodes)) as load:
        await load.well()
        await asyncio.to_thread(nodes[0].kill)
        await load.lost()
        await until(lambda: "role:master" in replica.call("INFO", "replication"), 15)
        await formed(nodes[1:])
        await load.well()
        assert await load.store.endpoints() == {("127.0.0.1", node.port) for node in nodes[1:]}
        load.check()


async def test_a_node_hangs(nodes: list[RawServer]) -> None:
    async with Load(url(nodes)) as load:
        await load.well()
        nodes[1].signal(signal.SIGSTOP)
        await load.lost()
        await load.bear(1)
        nodes[1].signal(signal.SIGCONT)
        await formed(nodes)
        await load.well()
        load.check()


async def test_slots_are_nobodys(nodes: list[RawServer]) -> None:
    async with Load(url(nodes)) as load:
        await load.well()
        for node in nodes:
            node.call("CLUSTER", "DELSLOTSRANGE", *SHARES[2])
        assert re.match("cluster down", await load.lost())
        await load.bear(0.5)
        nodes[2].call("CLUSTER", "ADDSLOTSRANGE", *SHARES[2])
        await formed(nodes)
        await load.well()
        load.check()


async def test_slots_move_to_a_new_node_unnoticed(nodes: list[RawServer], tmp_path: Path) -> None:
    """Key by key, as `redis-cli --cluster reshard` does it: MOVED, ASK and TRYAGAIN are followed."""
    # What is asked here is not how long it takes: others use this machine, too.
    async with Load(url(nodes), rate=100, timeout=2.0) as load:
        await load.well()
        for number in range(50):
            await load.store.execute("SET", f"moving:{number}", number)
        node, me = await join(nodes, tmp_path / "new")
        source = str(nodes[0].call("CLUSTER", "MYID"))
        slots = {key_slot(b"moving:%d" % number) for number in range(50)} & set(range(*SHARES[0]))
        before = load.store.snapshot()
        for slot in slots:
            node.call("CLUSTER", "SETSLOT", slot, "IMPORTING", source)
            nodes[0].call("CLUSTER", "SETSLOT", slot, "MIGRATING", me)
            for number in range(50):
                if key_slot(b"moving:%d" % number) == slot:
                    # A key that has gone is asked for at its new home, one that has not at the old.
                    nodes[0].call("MIGRATE", "127.0.0.1", node.port, f"moving:{number}", 0, 1000)
                    assert await load.store.execute("GET", f"moving:{number}") == b"%d" % number
            for each in (node, *nodes[:3]):
                each.call("CLUSTER", "SETSLOT", slot, "NODE", me)
        for number in range(50):
            assert await load.store.execute("GET", f"moving:{number}") == b"%d" % number
        assert load.store.connected
        assert load.store.snapshot()["errors"] == before["errors"]
        assert await load.store.endpoints() == {("127.0.0.1", each.port) for each in nodes}
        await load.well()
        load.check()


async def test_a_node_that_is_no_cluster_is_said(tmp_path: Path) -> None:
    single = RawServer(tmp_path / "single", "")
    try:
        store = Store(f"redis+cluster://127.0.0.1:{single.port}")
        await store.start()
        assert not store.connected
        assert "cluster support disabled" in store.last_error
        await store.close()
    finally:
        single.kill()
