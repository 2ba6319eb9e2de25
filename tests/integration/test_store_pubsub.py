"""The subscription: it hears everything in order, and knows when it may have missed something."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator

import pytest
import redis

from kernel.server.embedded_store import EmbeddedStore
from kernel.store.pubsub import Subscription
from kernel.store.redis import Store
from tests.support.store import until


class Ear:
    """A subscription and what it heard."""

    def __init__(self, store: Store) -> None:
        self.heard: list[tuple[bytes, bytes]] = []
        self.store = store
        self.connections = 0
        self.subscription = Subscription(
            store,
            ("news",),
            ("sport:*", "art:*"),
            lambda channel, data: self.heard.append((channel, data)),
            self._connected,
            beat=0.05,
            silence=0.3,
        )

    def _connected(self) -> None:
        self.connections += 1

    def asks(self) -> bool:
        """Something of the store, so that it is found to be lost."""
        self.store.execute("SET", "a", "1").add_done_callback(lambda reply: reply.exception())
        return False


@pytest.fixture
async def ear(mortal_store: EmbeddedStore) -> AsyncIterator[Ear]:
    store = Store(mortal_store.url, probe=0.05)
    await store.start()
    ear = Ear(store)
    await ear.subscription.start()
    yield ear
    await ear.subscription.close()
    await store.close()


async def test_messages_come_in_order_from_all_channels(ear: Ear, mortal_store: EmbeddedStore) -> None:
    assert ear.subscription.live
    with redis.Redis.from_url(mortal_store.url) as cli:
        for number in range(100):
            cli.publish(("news", "sport:tennis", "art:", "other")[number % 4], b"\xff%d" % number)
    await until(lambda: len(ear.heard) == 75)
    assert [data for _, data in ear.heard] == [b"\xff%d" % n for n in range(100) if n % 4 != 3]
    assert {channel for channel, _ in ear.heard} == {b"news", b"sport:tennis", b"art:"}


async def test_a_connection_that_breaks_is_made_anew_and_told(ear: Ear, mortal_store: EmbeddedStore) -> None:
    with redis.Redis.from_url(mortal_store.url) as cli:
        for count in (2, 3):
            cli.client_kill_filter(_type="pubsub")
            await until(lambda: ear.connections == count and ear.subscription.live)  # noqa: B023
        cli.publish("news", "x")
    await until(lambda: ear.heard == [(b"news", b"x")])


async def test_a_store_that_goes_and_comes_back_is_heard_again(ear: Ear, mortal_store: EmbeddedStore) -> None:
    mortal_store.kill()
    await until(lambda: not ear.subscription.live)
    mortal_store.start()
    await until(lambda: ear.subscription.live)
    assert ear.connections >= 2
    assert ear.subscription.last_error


async def test_a_store_that_falls_silent_counts_as_lost(ear: Ear, mortal_store: EmbeddedStore) -> None:
    assert mortal_store.pid is not None
    os.kill(mortal_store.pid, signal.SIGSTOP)
    try:
        await until(lambda: not ear.subscription.live)
    finally:
        os.kill(mortal_store.pid, signal.SIGCONT)
    await until(lambda: ear.subscription.live)
    assert ear.connections >= 2


async def test_it_goes_on_hearing_while_the_store_is_out_of_reach_for_commands(
    ear: Ear, mortal_store: EmbeddedStore
) -> None:
    with redis.Redis.from_url(mortal_store.url) as cli:
        for turn in range(3):
            cli.execute_command("REPLICAOF", "127.0.0.1", "1")
            await until(lambda: not ear.store.connected or ear.asks())
            cli.execute_command("REPLICAOF", "NO", "ONE")
            cli.publish("news", b"%d" % turn)
            await until(lambda: ear.store.connected)
            # It has looked at the server again when it has pinged twice.
            await asyncio.sleep(0.15)
    assert [data for _, data in ear.heard] == [b"0", b"1", b"2"]
    assert ear.connections == 1


@pytest.mark.parametrize("info", [b"run_id:another\r\n", b""])
async def test_behind_one_address_may_be_another_server(
    ear: Ear, mortal_store: EmbeddedStore, monkeypatch: pytest.MonkeyPatch, info: bytes
) -> None:
    execute = ear.store.execute
    answer = asyncio.get_running_loop().create_future()
    answer.set_result(info)
    monkeypatch.setattr(ear.store, "execute", lambda *args: answer if args[0] == "INFO" else execute(*args))
    with redis.Redis.from_url(mortal_store.url) as cli:
        cli.client_kill_filter(_type="normal", skipme=True)
    await until(lambda: ear.connections == 2 and ear.subscription.live)
