"""Subscription: one connection that hears what is published, and says when it may have missed something.

It is made anew whenever it breaks, is silent for too long, or the store turns out to be another server. It is not when the
store was only out of reach for others: whoever reads on from one connection to one server has missed nothing. In a cluster
one node is enough: nodes pass on what is published.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError, ResponseError

from kernel.store.address import Endpoint
from kernel.store.errors import StoreDown, StoreRefused
from kernel.store.kept import KeptSession
from kernel.store.link import stop
from kernel.store.redis import Store

_BEAT = 5.0
_SILENCE = 12.0
_SETUP = 1.0
# A server names its process by this, in the answer to INFO server.
_RUN_ID = b"run_id:"
# Messages, and bytes, heard before others get the loop: what has come in is read without a pause.
_RUN = 32
_RUN_BYTES = 64 * 1024

Hear = Callable[[bytes, bytes], None]


class Subscription:
    """`start` it in the loop that uses it, after its store. Times in seconds.

    `hear(channel, data)` is called for every message in the order of the server; `connected()` whenever the subscription
    is in force (again): what was published before may have been missed. While `busy()` says that what was heard is still
    being dealt with, nothing more is heard; the server keeps it, or cuts the connection when it gets too much.
    `hello`, a channel and a message, is published right before each subscription, in one write with it: who hears it hears
    all that is published before, and this subscription all that is published after.
    """

    def __init__(
        self,
        store: Store,
        channels: Sequence[str],
        patterns: Sequence[str],
        hear: Hear,
        connected: Callable[[], None],
        busy: Callable[[], bool] = lambda: False,
        *,
        hello: tuple[str, str] | None = None,
        beat: float = _BEAT,
        silence: float = _SILENCE,
    ) -> None:
        self.live = False
        self._store = store
        self._channels = tuple(channels)
        self._patterns = tuple(patterns)
        self._hear = hear
        self._connected = connected
        self._busy = busy
        self._hello = () if hello is None else (("PUBLISH", *hello),)
        self._beat = beat
        self._silence = silence
        self._heard = 0.0
        self._kept = KeptSession(self._subscribe, self._over)

    async def start(self) -> None:
        """Subscribe; done when that is in force, or has failed once (it is then retried in the background)."""
        self._store.on_connect(lambda _after_outage: self._kept.due.set())
        await self._kept.start()

    async def close(self) -> None:
        """Hear nothing any more."""
        await self._kept.close()

    @property
    def last_error(self) -> str:
        """Why it failed or broke last; empty if it never did."""
        return self._kept.last_error

    def _over(self) -> None:
        self.live = False

    async def _subscribe(self) -> None:
        """Connect, go live and stay so until anything is wrong, which is raised."""
        self._kept.due.clear()
        endpoint = min(await self._store.endpoints(), key=str)
        run = b""
        # RESP2: messages are replies like others, and redis-py hands them out by its public interface.
        connection = self._store.connection(endpoint, protocol=2)
        tasks: list[asyncio.Task[None]] = []
        try:
            async with asyncio.timeout(_SETUP):
                await connection.connect()  # type: ignore[no-untyped-call]
                subscribe = (("SUBSCRIBE", *self._channels), ("PSUBSCRIBE", *self._patterns))
                packed = connection.pack_commands((("INFO", "server"), *self._hello, *subscribe))
                await connection.send_packed_command(packed, check_health=False)
                with contextlib.suppress(ResponseError):  # it need not be allowed
                    run = _run_id(await connection.read_response())
                if self._hello:
                    await connection.read_response()
                missing = len(self._channels) + len(self._patterns)
                while missing:
                    missing -= self._take(await connection.read_response())
            self._heard = monotonic()
            self.live = True
            self._connected()
            self._kept.established()
            loop = asyncio.get_running_loop()
            watch = self._watch(connection, endpoint, run)
            tasks = [loop.create_task(self._listen(connection)), loop.create_task(watch)]
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            try:
                await stop(tasks)
            finally:  # also when this very wait is cancelled
                with contextlib.suppress(RedisError, OSError):
                    await connection.disconnect(nowait=True)

    async def _listen(self, connection: AbstractConnection) -> None:
        run = size = 0
        while True:
            reply = await connection.read_response(timeout=math.inf, disconnect_on_error=False)
            self._heard = monotonic()
            self._take(reply)
            run += 1
            size += len(reply[-1])
            if run >= _RUN or size >= _RUN_BYTES:
                run = size = 0
                await asyncio.sleep(0)
                while self._busy():  # noqa: ASYNC110  # a turn of the loop is what is waited for
                    await asyncio.sleep(0)

    def _take(self, reply: list[Any]) -> bool:
        """Pass a message on; True for the confirmation of a subscription."""
        kind = reply[0]
        if kind == b"pmessage":
            self._hear(reply[2], reply[3])
        elif kind == b"message":
            self._hear(reply[1], reply[2])
        return kind in (b"subscribe", b"psubscribe")

    async def _watch(self, connection: AbstractConnection, endpoint: Endpoint, run: bytes) -> None:
        """Ping the server, and see that it is still the right one."""
        while True:
            await connection.send_command("PING", check_health=False)
            silence = self._heard + self._silence - monotonic()
            if silence <= 0:
                raise TimeoutError(f"the server was not heard of for {self._silence:g} s")
            try:
                async with asyncio.timeout(min(self._beat, silence)):
                    await self._kept.due.wait()
            except TimeoutError:
                continue
            self._kept.due.clear()
            if not await self._is_still_at(endpoint, run):
                raise ConnectionResetError("the store is another server")
            # It has to show that it is heard. What a network lost it would send again too late for us.
            self._heard = min(self._heard, monotonic() - self._silence + _SETUP)

    async def _is_still_at(self, endpoint: Endpoint, run: bytes) -> bool:
        """Whether the store, reconnected, is the process that is heard: behind one name or address there may be several."""
        try:
            if self._store.address.kind == "cluster":  # its nodes are known by address
                return endpoint in await self._store.endpoints()
            if endpoint != self._store.home(""):
                return False
            return bool(run) and run == _run_id(await self._store.execute("INFO", "server"))
        except StoreRefused:
            return False
        except StoreDown:
            # It is lost again: that it has come back will be told again.
            return True


def _run_id(info: bytes) -> bytes:
    """The server's own name for its process; it has another one after a restart."""
    return info.partition(_RUN_ID)[2].partition(b"\r")[0]
