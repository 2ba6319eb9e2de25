"""A pool of connections to one replica of a service, and the sweeper that keeps time for all of a worker's pools.

Rules:
- `acquire` gives an idle connection at once; a new one while there are fewer than `max_connections`; else a place in a
  bounded queue.
- Every connection that was acquired is released exactly once. `size` counts connections that are open or being opened;
  it never exceeds the cap and reaches zero when everything is closed. A slot is freed when its transport is gone, or when
  opening failed: `on_lost` is set only once opening has succeeded, so that never both count.
- At most half of the connections take bodies that are still being sent: slow clients cannot have all of them. No more have
  responses that take long (bodies.py).
- Idle connections are used last in, first out, so that the surplus grows old and is closed.
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
import ssl
from collections import deque
from collections.abc import Callable
from functools import partial
from math import inf
from typing import Any, cast

from msgspec import Struct

from kernel.exchange.disconnect import Disconnect
from kernel.exchange.exchange import Exchange
from kernel.http.problems import (
    UPSTREAM_CONNECT,
    UPSTREAM_CONNECT_TIMEOUT,
    ClientGone,
    GatewayError,
)
from kernel.primitives.tls import explain
from kernel.upstream.address import Address
from kernel.upstream.bodies import Bodies
from kernel.upstream.dialing import dial
from kernel.upstream.fast_response import FastResponseReader
from kernel.upstream.http1 import Connection, Outbox
from kernel.upstream.parts import Parts
from kernel.upstream.queue import Queue, Slots
from kernel.upstream.timeouts import Timeouts

_TICK = 0.05


class PoolLimits(Struct, frozen=True):
    """Times in seconds."""

    max_connections: int = 128
    max_waiting: int = 1024
    queue_timeout: float = 5.0
    connect_timeout: float = 3.0
    keepalive: float = 4.0
    max_age: float = inf


class Sweeper:
    """One timer a worker: deadlines of busy connections, clients that left, idle connections grown old."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.pools: list[Pool] = []
        self.watchers: list[Callable[[], None]] = []  # called once a second
        self._ticks = 0
        self.outbox = Outbox(loop)
        self.parts = Parts()
        self.timeouts = Timeouts()
        self.now = loop.time()
        self._timer: asyncio.TimerHandle | None = loop.call_later(_TICK, self._tick)

    def close(self) -> None:
        """Stop the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        self.now = now = self._loop.time()
        self.timeouts.sweep(now)
        slow = 0
        for pool in list(self.pools):
            pool.sweep(now)
            slow += pool.bodies.slow(now)
        self.parts.slow = slow
        self._ticks += 1
        if self._ticks * _TICK >= 1:
            self._ticks = 0
            for watcher in list(self.watchers):
                watcher()
        self._timer = self._loop.call_later(_TICK, self._tick)


class Pool:
    """Connections to `address`. `size` is all of them, `idle` those at rest, `busy` those in use."""

    __slots__ = (
        "_closed",
        "_limits",
        "_loop",
        "_queue",
        "_reader",
        "_tls_failed_at",
        "_tls_failure",
        "address",
        "bodies",
        "busy",
        "doubt",
        "idle",
        "ips",
        "opened",
        "owner",
        "reused",
        "size",
        "sweeper",
        "tls",
        "uploads",
    )

    def __init__(
        self,
        address: Address,
        limits: PoolLimits,
        sweeper: Sweeper,
        reader: FastResponseReader,
        tls: ssl.SSLContext | None,
        ips: tuple[str, ...] = (),
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.address = address
        self.ips = ips  # where `address` is, and where else; empty: at its name
        self.owner: Any = None  # the Replica
        self.doubt: Callable[[], None] | None = None  # called when it cannot be reached
        self._limits = limits
        self._reader = reader
        self.tls = tls
        self._tls_failure = ""
        self._tls_failed_at = 0.0
        self._queue = Queue(self._loop, limits.max_waiting, limits.queue_timeout, self._hand_on)
        half = max(1, limits.max_connections // 2)
        self.uploads = Slots(self._loop, half, limits.max_waiting, limits.queue_timeout)
        self.bodies = Bodies(half, sweeper.parts)
        self._closed = False
        self.idle: deque[Connection] = deque()
        self.busy: set[Connection] = set()
        self.size = 0
        self.opened = 0
        self.reused = 0
        self.sweeper = sweeper
        sweeper.pools.append(self)

    @property
    def max_connections(self) -> int:
        """The cap."""
        return self._limits.max_connections

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._queue) + len(self.uploads.queue)

    @property
    def outstanding(self) -> int:
        """Requests that have a connection, wait for one to open, or queue."""
        return self.size - len(self.idle) + self.waiting

    @property
    def tls_failure(self) -> str:
        """Why new connections fail, for operators; empty when it was not TLS, or one made since has served."""
        if self._tls_failure and any(each.born > self._tls_failed_at for each in self.idle):
            self._tls_failure = ""
        return self._tls_failure

    def blame_tls(self, error: BaseException | None) -> None:
        """A connection could not be made, or was lost at once; remember why if it was for TLS."""
        if isinstance(error, ssl.SSLError):
            self._tls_failed_at = self._loop.time()
            self._tls_failure = explain(error)

    def take_idle(self) -> Connection | None:
        """An idle connection, or None; never waits."""
        while self.idle:
            connection = self.idle.pop()
            if not connection.closed:
                self.reused += 1
                self.busy.add(connection)
                return connection
        return None

    async def acquire(self, x: Exchange | None = None) -> Connection:
        """A connection for one exchange: idle, new, or the next to be released. Waits no longer than the client of `x`.

        Raises:
            GatewayError: UPSTREAM_BUSY, UPSTREAM_CONNECT, UPSTREAM_CONNECT_TIMEOUT; ClientGone.
        """
        connection = self.take_idle()
        if connection is not None:
            return connection
        if self.size < self._limits.max_connections:
            self.size += 1
            return await self._open()
        given = await self._queue.wait(x, self.sweeper.now)
        if given is None:
            return await self._open()  # the slot of one that was closed
        if given.closed:  # since it was given
            self.busy.discard(given)
            return await self.acquire(x)
        self.reused += 1
        return given

    async def fresh(self, x: Exchange | None = None) -> Connection:
        """A new connection, for a request that a used one failed; others may be as stale. Raises as `acquire`."""
        if self.size < self._limits.max_connections:
            self.size += 1
            return await self._open()
        used = self.idle.popleft() if self.idle else await self._queue.wait(x, self.sweeper.now)
        if used is not None:
            self.busy.discard(used)
            if used.lost:  # and its slot with it
                return await self.fresh(x)
            used.on_lost = None  # its slot is the new one's
            used.abort()
        return await self._open()

    def release(self, connection: Connection) -> None:
        """Give a connection back after its exchange, however that ended."""
        self.busy.discard(connection)
        if not connection.finish() or connection.expires <= self.sweeper.now or self._reader.rest <= 0:
            connection.abort()
            return
        if self._queue.places and self._queue.give(connection):
            self.busy.add(connection)
            return
        connection.idle_since = self.sweeper.now
        self.idle.append(connection)

    def sweep(self, now: float) -> None:
        """Fail what is over its deadline, watch the clients of what takes long, close what rested too long."""
        for connection in list(self.busy):
            if connection.deadline <= now:
                connection.expire()
            elif (
                connection.watching is None
                and connection.watched is not None
                and connection.watched.body_done
            ):
                connection.watching = Disconnect(connection.watched.receive, partial(_left, connection))
        self._queue.sweep(now)
        self.uploads.queue.sweep(now)
        if self.bodies:
            self.bodies.sweep(now, self._queue.waited(now))
        oldest = now - min(self._limits.keepalive, self._reader.rest)
        while self.idle and (self.idle[0].closed or self.idle[0].idle_since < oldest):
            self.idle.popleft().abort()
        if self._closed and not self.size:
            self.sweeper.pools.remove(self)

    def renew(self) -> None:
        """Close those at rest that are too old."""
        now = self.sweeper.now
        for connection in [each for each in self.idle if each.expires <= now]:
            self.idle.remove(connection)
            connection.abort()

    def move(self, ips: tuple[str, ...]) -> None:
        """Connect to `ips` from now on: connections at rest are closed now, busy ones when they are released."""
        self.ips = ips
        for connection in (*self.idle, *self.busy):
            connection.expires = 0.0
        self.renew()

    def retire(self) -> None:
        """No more requests are meant for it: close what is at rest now, the rest when it is released."""
        self._closed = True
        self.move(self.ips)

    async def close(self) -> None:
        """Close idle connections now and busy ones when they are released; refuse those in the queue."""
        self.retire()
        self._queue.close()
        self.uploads.queue.close()

    # --- inside ---

    def _hand_on(self, given: Connection | None) -> None:
        """Whoever was given this is gone: give it to the next."""
        if given is not None:
            self.release(given)
        else:
            self._slot_free()

    def _slot_free(self) -> None:
        """A connection less: the next in the queue may open one, on its behalf."""
        self.size -= 1
        if self._queue.give(None):
            self.size += 1

    async def _open(self) -> Connection:
        """Open a connection; `size` already counts it."""
        ips = self.ips
        try:
            async with asyncio.timeout(self._limits.connect_timeout):
                connection = await self.connect()
        except TimeoutError:
            self._unreachable()
            raise GatewayError(UPSTREAM_CONNECT_TIMEOUT("the connection was not accepted in time")) from None
        except OSError as error:  # TLS failures are of this kind too
            self._unreachable()
            self.blame_tls(error)
            raise GatewayError(UPSTREAM_CONNECT(unreachable(error))) from None
        except BaseException:
            self._slot_free()
            raise
        connection.on_lost = self._lost
        if connection.lost:
            self._slot_free()
            raise GatewayError(UPSTREAM_CONNECT("the connection was closed as soon as it was made"))
        self.opened += 1
        connection.pool = self
        connection.born = now = self._loop.time()
        if ips == self.ips and not self._closed:
            age = self._limits.max_age * random.uniform(0.9, 1.1)  # noqa: S311  # spreads load, hides nothing
            connection.expires = now + age
        self.busy.add(connection)
        return connection

    async def connect(self) -> Connection:
        """A connection that is none of the pool's. Raises OSError."""

        def make() -> Any:  # what asyncio calls a protocol
            return Connection(self._loop, self._reader, self.sweeper.outbox, self.sweeper.parts)

        return cast("Connection", await dial(make, self.address, self.ips, self.tls))

    def _unreachable(self) -> None:
        self._slot_free()
        if self.doubt is not None:
            self.doubt()

    def _lost(self, connection: Connection) -> None:
        # With TLS 1.3 a service refuses our certificate, or that there is none, when we take the handshake for done.
        if connection.exchanges <= 1:
            self.blame_tls(connection.cause)
        self._slot_free()


def unreachable(error: OSError) -> str:
    """Why no connection could be made, without addresses: clients read it."""
    if isinstance(error, ssl.SSLError):
        return "the TLS handshake failed"
    if isinstance(error, socket.gaierror):
        return "its host name is not known"
    if isinstance(error, FileNotFoundError):
        return "its socket does not exist"
    refused = isinstance(error, ConnectionRefusedError) or not error.errno
    return (
        "the connection was refused" if refused else f"no connection: {os.strerror(error.errno or 0).lower()}"
    )


def _left(connection: Connection) -> None:
    """End the exchange whose client has left."""
    connection.watching = None
    x = connection.watched
    if x is not None:
        x.disconnected = True
        connection.fail(ClientGone("the client left while the service was at work"))
