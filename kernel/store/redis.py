"""Store: the one way to Redis (or Valkey) for everything that runs inside a worker.

A dead store costs a request nothing: after the first failure every command fails at once, while a task in the
background tries to reconnect every quarter of a second. A connection that merely broke is replaced and its unanswered
commands are sent once more, so that a failover or a `CLIENT KILL` is not felt; a command may therefore be executed
twice.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Callable, Sequence
from typing import Any

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError

from kernel.store.address import Address, Endpoint, parse
from kernel.store.cluster import ClusterLink
from kernel.store.errors import StoreDown
from kernel.store.link import Argument, Carrier, Command, Link, stop
from kernel.store.sentinel import find_master

_TIMEOUT = 0.1
_PROBE = 0.25


class Script:
    """A Lua script and the digest it is called by."""

    __slots__ = ("sha", "source")

    def __init__(self, source: str) -> None:
        self.source = source
        self.sha = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()


class Store:
    """Commands to the store, pipelined on one connection. Make it anywhere; `start` it in the loop that will use it.

    `url`: see `kernel.store.address`. `timeout`: seconds to connect, and for a reply. `probe`: seconds between
    attempts to reach a store that is down. Raises AddressError.
    """

    def __init__(self, url: str, *, timeout: float = _TIMEOUT, probe: float = _PROBE) -> None:
        self.address: Address = parse(url)
        self.timeout = timeout
        self.connected = False
        self._probe = probe
        self._carrier: Carrier | None = None
        # Commands that wait for the first attempt to replace a broken connection; None: there is no such attempt.
        self._parked: list[Command] | None = None
        self._opener: asyncio.Task[None] | None = None
        # Broken connections on their way out: `close` waits for them, or they would outlive the loop.
        self._ending: set[asyncio.Task[list[Command]]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._listeners: list[Callable[[bool], None]] = []
        self._closed = False
        self._commands = 0
        self._seconds = 0.0
        self._errors = 0
        self._reconnects = -1
        self._last_error = ""

    async def start(self) -> None:
        """Connect if it can be done at once; else go on trying in the background. Raises nothing about the store."""
        self._loop = asyncio.get_running_loop()
        if not await self._open():
            self._keep_trying()

    async def close(self) -> None:
        """Disconnect; unanswered and later commands fail with StoreDown."""
        self._closed = True
        self.connected = False
        if self._opener is not None:
            await stop([self._opener])
        carrier, self._carrier = self._carrier, None
        if carrier is not None:
            self._give_up(await carrier.close(), "closed")
        parked, self._parked = self._parked, None
        self._give_up(parked or [], "closed")
        await asyncio.gather(*self._ending, return_exceptions=True)

    def execute(self, *args: Argument) -> asyncio.Future[Any]:
        """The raw RESP3 reply of one command (strings as bytes), sent with the others of this loop tick.

        Raises StoreDown at once when the store is known to be down. The future raises StoreDown or StoreRefused. The
        command may be executed twice if the connection breaks before the reply: it must bear that.
        """
        return self._submit(args, None)

    def run(self, script: Script, keys: Sequence[str], args: Sequence[Argument]) -> asyncio.Future[Any]:
        """The reply of a Lua script; otherwise as `execute`."""
        return self._submit(("EVALSHA", script.sha, len(keys), *keys, *args), script.source)

    def on_connect(self, listener: Callable[[bool], None]) -> None:
        """Call `listener` after every (re)connection: the store may have lost its data, or be another one.

        Its argument tells whether commands failed meanwhile. Commands that it submits go out before any that waited.
        """
        self._listeners.append(listener)

    async def endpoints(self) -> frozenset[Endpoint]:
        """The servers that hold the keys now: one, or the primaries of a cluster. Raises StoreDown."""
        address = self.address
        if address.kind == "single":
            return frozenset(address.endpoints)
        try:
            if address.kind == "sentinel":
                return frozenset({await find_master(address, within=self.timeout)})
            if isinstance(self._carrier, ClusterLink):
                return await self._carrier.primaries()
        except (RedisError, OSError) as error:
            raise StoreDown(str(error)) from error
        raise StoreDown(self._last_error or "not connected")

    def connection(self, endpoint: Endpoint, *, protocol: int = 3) -> AbstractConnection:
        """An unopened connection of the caller's own, for what cannot share one (tracking, subscriptions)."""
        return self.address.connection(endpoint, self.timeout, protocol=protocol)

    def snapshot(self) -> dict[str, float]:
        """Numbers for metrics: connected (0/1), commands, seconds (summed latency), errors, reconnects."""
        return {
            "connected": float(self.connected),
            "commands": self._commands,
            "seconds": self._seconds,
            "errors": self._errors,
            "reconnects": max(self._reconnects, 0),
        }

    @property
    def last_error(self) -> str:
        """Why the store was lost last; empty if it never was."""
        return self._last_error

    def _submit(self, args: tuple[Argument, ...], source: str | None) -> asyncio.Future[Any]:
        loop = self._loop
        if loop is None or (self._carrier is None and self._parked is None):
            raise StoreDown(self._last_error or "not connected")
        command = Command(args, loop.create_future(), source)
        if self._carrier is not None:
            self._carrier.submit(command)
        elif self._parked is not None:
            self._parked.append(command)
        return command.future

    async def _open(self) -> bool:
        """One attempt to connect."""
        address = self.address
        carrier: Carrier
        try:
            if address.kind == "cluster":
                carrier = ClusterLink(address, self.timeout, self._lost, self._landed)
            else:
                endpoint = address.endpoints[0]
                if address.kind == "sentinel":
                    endpoint = await find_master(address, within=self.timeout)
                carrier = Link(self.connection(endpoint), self.timeout, self._lost, self._landed)
            await carrier.open()
        except (RedisError, OSError) as error:
            self._failed(error)
            return False
        self._carrier = carrier
        self.connected = True
        self._reconnects += 1
        parked, self._parked = self._parked, None
        for listener in self._listeners:
            listener(parked is None)
        for command in parked or ():
            carrier.submit(command)
        return True

    def _landed(self, seconds: float) -> None:
        self._commands += 1
        self._seconds += seconds

    def _failed(self, error: Exception) -> None:
        self._errors += 1
        self._last_error = str(error) or type(error).__name__

    def _lost(self, carrier: Carrier, error: Exception, unanswered: list[Command]) -> None:
        """The connection broke: replace it at once, and keep what was on its way for the new one."""
        self._failed(error)
        ending = asyncio.get_running_loop().create_task(carrier.close())
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)
        if carrier is not self._carrier:
            return
        self._carrier = None
        self._parked = []
        for command in unanswered:
            if command.resent:
                command.fail(StoreDown(self._last_error))
            else:
                command.resent = True
                self._parked.append(command)
        if not self._closed:
            self._keep_trying(at_once=True)

    def _keep_trying(self, *, at_once: bool = False) -> None:
        self._opener = asyncio.get_running_loop().create_task(self._reopen(at_once))

    async def _reopen(self, at_once: bool) -> None:
        if at_once and await self._open():
            return
        self.connected = False
        parked, self._parked = self._parked, None
        self._give_up(parked or [], self._last_error)
        while True:
            # Jitter, so that the workers of a fleet do not knock in step.
            await asyncio.sleep(self._probe * random.uniform(0.75, 1.25))  # noqa: S311
            if await self._open():
                return

    def _give_up(self, commands: Sequence[Command], reason: str) -> None:
        for command in commands:
            command.fail(StoreDown(reason))
