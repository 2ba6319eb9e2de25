"""Store: the one way to Redis (or Valkey) for everything that runs inside a worker.

`connected` means that it answers what we need, and not that a connection stands: a connection counts only after a script
has written through it, and no longer when it answers READONLY, LOADING, CLUSTERDOWN or the like, or not in time.

    up          commands go out, and each is answered within `timeout` seconds from when it was submitted
     |  broke, or said that it is no good                     did not answer in time
     v                                                           |
    replacing   commands wait for one attempt at another         |
     |          connection, until the first of them is due       |
     v  it failed, or took too long                              v
    lost        every command fails at once; asked again at a growing pace

A connection that merely broke is thus replaced and its unanswered commands are sent once more, so that a failover or a
`CLIENT KILL` is not felt; a command may therefore be executed twice. No command ever waits longer than `timeout`.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from time import monotonic
from typing import Any

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ResponseError

from kernel.store.address import Address, Endpoint, parse
from kernel.store.cluster import ClusterLink, Slots
from kernel.store.errors import StoreDown, StoreError, StoreRefused
from kernel.store.link import Argument, Carrier, Command, Link, stop
from kernel.store.pace import Pace
from kernel.store.reasons import reason, text
from kernel.store.sentinel import find_master

_TIMEOUT = 0.1
_PROBE = 0.25
# Between two attempts, whatever hints there are.
_HURRY = 0.05
# A connection that breaks before it is this old does not count as a success: replaced at once a few times, then not.
_PROVEN = 1.0
_REPLACEMENTS = 20


class Script:
    """A Lua script and the digest it is called by."""

    __slots__ = ("sha", "source")

    def __init__(self, source: str) -> None:
        self.source = source
        self.sha = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()


class Store:
    """Commands to the store, pipelined on one connection. Make it anywhere; `start` it in the loop that will use it.

    `url`: see `kernel.store.address`. `timeout`: seconds to connect, and for a reply. `probe`: seconds until a store that
    was lost is asked again, at first. Raises AddressError.
    """

    def __init__(self, url: str, *, timeout: float = _TIMEOUT, probe: float = _PROBE) -> None:
        self.address: Address = parse(url)
        self.timeout = timeout
        self.connected = False
        self._pace = Pace(probe)
        self._carrier: Carrier | None = None
        # Of the one server, as far as it is known; unless it is a cluster.
        self._endpoint = self.address.endpoints[0] if self.address.kind == "single" else None
        self._slots = Slots()  # a cluster's, as far as they are known
        # Commands that wait for the attempt to replace a broken connection; None: there is no such attempt.
        self._parked: list[Command] | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._opener: asyncio.Task[None] | None = None
        self._hurried = asyncio.Event()
        self._sentinel = (
            0  # which one to ask first: another one after each failure, for one of them may be out of date
        )
        self._since = 0.0  # when the connection came
        self._replacements = 0  # of connections that did not live long, one after the other
        self._doubt: asyncio.Future[None] | None = None
        # Broken connections on their way out: `close` waits for them, or they would outlive the loop.
        self._ending: set[asyncio.Task[Any]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._listeners: list[Callable[[bool], None]] = []
        self._losers: list[Callable[[], None]] = []
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
            self._opener = self._loop.create_task(self._keep_opening(at_once=False))

    async def close(self) -> None:
        """Disconnect; unanswered and later commands fail with StoreDown."""
        self._closed = True
        if self._opener is not None:
            await stop([self._opener])
        carrier, self._carrier = self._carrier, None
        if carrier is not None:
            _fail(await carrier.close(), "closed")
        self._lose("closed")
        await asyncio.gather(*self._ending, return_exceptions=True)

    def execute(self, *args: Argument) -> asyncio.Future[Any]:
        """The raw RESP3 reply of one command (strings as bytes), sent with the others of this loop tick.

        Raises StoreDown at once when the store is known to be down. The future raises StoreDown or StoreRefused, within
        `timeout` seconds. The command may be executed twice if the connection breaks before the reply: it must bear that.
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

    def on_lost(self, listener: Callable[[], None]) -> None:
        """Call `listener` whenever the store counts as lost from now on: commands fail."""
        self._losers.append(listener)

    def hurry(self) -> None:
        """It was heard of by another way: a store that counts as lost is asked at once, or 50 ms after it was asked last."""
        self._hurried.set()

    async def endpoints(self) -> frozenset[Endpoint]:
        """The servers that hold the keys now: one, or the primaries of a cluster. Raises StoreDown."""
        address = self.address
        if address.kind == "single":
            return frozenset(address.endpoints)
        try:
            if address.kind == "cluster":
                if isinstance(self._carrier, ClusterLink):
                    await self._carrier.refresh()
                if self._slots.primaries:
                    return frozenset(self._slots.primaries)
                raise StoreDown(self._last_error or "not connected")
            master = await find_master(address, within=self.timeout, first=self._sentinel)
        except StoreError:
            raise
        except Exception as error:
            raise StoreDown(reason(error)) from error
        carrier = self._carrier
        if carrier is not None and self._endpoint not in (None, master):
            carrier.abandon(ConnectionResetError("the sentinels have made another server the master"))
        return frozenset({master})

    def home(self, key: str) -> Endpoint | None:
        """Which of the `endpoints` holds `key`, as far as is known."""
        if self.address.kind == "cluster":
            return self._slots.home(key)
        return self._endpoint

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
        """Why the store was lost last, "reason: detail"; empty if it never was."""
        return self._last_error

    # --- a carrier's owner ---------------------------------------------------------------------------------------

    def landed(self, seconds: float) -> None:
        """A reply came."""
        self._commands += 1
        self._seconds += seconds

    def lost(self, carrier: Carrier, error: Exception, unanswered: list[Command]) -> None:
        """The connection broke: replace it at once, and keep what was on its way for the new one."""
        self._failed(error)
        assert self._loop is not None
        self._end(carrier)
        if carrier is not self._carrier:
            _fail(unanswered, self._last_error)
            return
        self._carrier = None
        self._parked = []
        for command in unanswered:
            if command.resent:
                command.fail(StoreDown(self._last_error))
            else:
                command.resent = True
                self._parked.append(command)
        now = monotonic()
        if now - self._since >= _PROVEN:
            self._replacements = 0
            self._pace.rest()
        else:
            self._replacements += 1
        # Who did not answer in time has had it; and who breaks again and again would be asked without a pause.
        at_once = not isinstance(error, TimeoutError) and self._replacements <= _REPLACEMENTS
        if at_once:
            due = min((command.due for command in self._parked), default=now + self.timeout)
            self._deadline = self._loop.call_later(due - now, self._lose, self._last_error)
        else:
            self._lose(self._last_error)
        if not self._closed:
            self._opener = self._loop.create_task(self._keep_opening(at_once=at_once))

    def doubted(self, carrier: Carrier) -> None:
        """Find out whether the refusal was for that one command, or the store is full, or lets us do nothing."""
        if self._doubt is None and carrier is self._carrier:
            assert self._loop is not None
            self._doubt = self._loop.create_task(carrier.prove())
            self._doubt.add_done_callback(partial(self._resolved, carrier))

    def redirected(self, carrier: Carrier, command: Command, error: ResponseError) -> None:
        """A server that is a cluster's, under a URL that does not say so."""
        command.fail(StoreRefused(text(error)))

    # --- connecting ------------------------------------------------------------------------------------------------

    def _submit(self, args: tuple[Argument, ...], source: str | None) -> asyncio.Future[Any]:
        loop = self._loop
        carrier, parked = self._carrier, self._parked
        if loop is None or (carrier is None and parked is None):
            raise StoreDown(self._last_error or "not connected")
        command = Command(args, loop.create_future(), source, self.timeout)
        if carrier is not None:
            carrier.submit(command)
        elif parked is not None:
            parked.append(command)
        return command.future

    async def _keep_opening(self, *, at_once: bool) -> None:
        """Try to connect until that succeeds. Nothing else ends it."""
        if at_once and await self._open():
            return
        self._lose(self._last_error)
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._pace.pause()):
                    await asyncio.sleep(_HURRY)
                    await self._hurried.wait()
            self._hurried.clear()
            if await self._open():
                return

    async def _open(self) -> bool:
        """One attempt to connect, and to see it do what is needed. Takes a few times `timeout` at most."""
        carrier: Carrier | None = None
        endpoint: Endpoint | None = None
        try:
            if self.address.kind == "cluster":
                carrier = ClusterLink(self.address, self.timeout, self, self._slots)
            else:
                endpoint = self.address.endpoints[0]
                if self.address.kind == "sentinel":
                    endpoint = await find_master(self.address, within=self.timeout, first=self._sentinel)
                carrier = Link(self.connection(endpoint), self.timeout, self)
            await carrier.open()
            await carrier.prove()
        except StoreDown:
            self._sentinel += 1  # why was noted when it broke, by `lost`
            return False
        # redis-py has errors that are no RedisError, and whatever went wrong here may go well the next time.
        except Exception as error:
            self._sentinel += 1
            self._failed(error)
            if carrier is not None:
                self._end(carrier)
            return False
        except BaseException:
            if carrier is not None:
                self._end(carrier)
            raise
        self._took_over(carrier, endpoint)
        return True

    def _took_over(self, carrier: Carrier, endpoint: Endpoint | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._carrier = carrier
        self._endpoint = endpoint
        self._since = monotonic()
        self.connected = True
        self._reconnects += 1
        self._hurried.clear()
        parked, self._parked = self._parked, None
        for listener in self._listeners:
            listener(parked is None)
        for command in parked or ():
            carrier.submit(command)

    def _resolved(self, carrier: Carrier, proof: asyncio.Future[None]) -> None:
        self._doubt = None
        error = None if proof.cancelled() else proof.exception()
        if isinstance(error, StoreRefused) and carrier is self._carrier:
            carrier.abandon(error)

    def _lose(self, why: str) -> None:
        """Nobody waits any more."""
        if self.connected:
            self.connected = False
            for listener in self._losers:
                listener()
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        parked, self._parked = self._parked, None
        _fail(parked or [], why)

    def _failed(self, error: Exception) -> None:
        self._errors += 1
        self._last_error = reason(error)

    def _end(self, carrier: Carrier) -> None:
        ending = asyncio.get_running_loop().create_task(carrier.close())
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)


def _fail(commands: Sequence[Command], why: str) -> None:
    for command in commands:
        command.fail(StoreDown(why))
