"""A link: one connection to one server that carries every command of a worker, pipelined.

Commands of one loop tick leave in one write and are answered in order. A reader waits all the time, so that a dead
connection is noticed when it dies and not when it is next needed.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import deque
from collections.abc import Callable, Iterable
from time import monotonic
from typing import Any, Protocol

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import NoScriptError, ReadOnlyError, RedisError, ResponseError

from kernel.store.errors import StoreRefused

Argument = str | bytes | int | float


class Command:
    """A command on its way. `source` is the script to send in full should the server not know its digest."""

    __slots__ = ("args", "future", "resent", "sent", "source")

    def __init__(
        self, args: tuple[Argument, ...], future: asyncio.Future[Any], source: str | None = None
    ) -> None:
        self.args = args
        self.future = future
        self.source = source
        self.sent = 0.0
        self.resent = False

    def in_full(self) -> Command:
        """Itself, with the script's text in place of its digest."""
        assert self.source is not None
        self.args = ("EVAL", self.source, *self.args[2:])
        self.source = None
        return self

    def answer(self, reply: Any) -> None:
        """Hand over the reply, unless the caller has given up."""
        if not self.future.done():
            self.future.set_result(reply)

    def fail(self, error: Exception) -> None:
        """Hand over a failure, unless the caller has given up."""
        if not self.future.done():
            self.future.set_exception(error)


Lost = Callable[["Carrier", Exception, list[Command]], None]
Landed = Callable[[float], None]


class Carrier(Protocol):
    """What takes commands to the store: a `Link`, or a cluster's many.

    `lost` is called once, with every unanswered command, when it breaks, and then has to `close` it; `landed` is called
    with each reply's latency in seconds.
    """

    async def open(self) -> None:
        """Connect. Raises RedisError or OSError (TimeoutError is one)."""

    def submit(self, command: Command) -> None:
        """Send with the other commands of this tick."""

    async def close(self) -> list[Command]:
        """End at once and return the unanswered commands; `lost` is not called."""


class Link:
    """A `Carrier` over one connection.

    It breaks when the peer closes, when a reply takes longer than `timeout` seconds, or when the server turns out to
    be a replica.
    """

    def __init__(self, connection: AbstractConnection, timeout: float, lost: Lost, landed: Landed) -> None:
        self._connection = connection
        self._timeout = timeout
        self._lost = lost
        self._landed = landed
        self._loop = asyncio.get_running_loop()
        self._queue: list[Command] = []
        self._pending: deque[Command] = deque()
        self._wake = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._suspect: Command | None = None
        self._broken = False

    async def open(self) -> None:
        try:
            async with asyncio.timeout(self._timeout):
                await self._connection.connect()  # type: ignore[no-untyped-call]
        except BaseException:
            await self._connection.disconnect(nowait=True)
            raise
        self._tasks = [self._loop.create_task(self._write()), self._loop.create_task(self._read())]

    def submit(self, command: Command) -> None:
        self._queue.append(command)
        self._wake.set()

    async def close(self) -> list[Command]:
        self._broken = True
        await self._release()
        return [*self._pending, *self._queue]

    async def _write(self) -> None:
        connection, wake, pending = self._connection, self._wake, self._pending
        try:
            while True:
                await wake.wait()
                wake.clear()
                batch, self._queue = self._queue, []
                now = monotonic()
                for command in batch:
                    command.sent = now
                pending.extend(batch)
                if self._timer is None:
                    self._timer = self._loop.call_later(self._timeout, self._check)
                packed = connection.pack_commands(command.args for command in batch)
                await connection.send_packed_command(packed, check_health=False)
        except (RedisError, OSError) as error:
            self._break(error)

    async def _read(self) -> None:
        read, pending = self._connection.read_response, self._pending
        try:
            while True:
                try:
                    reply = await read(timeout=math.inf, disconnect_on_error=False)
                except ReadOnlyError:
                    raise  # a demoted master: this command, too, goes to its successor
                except ResponseError as error:
                    self._refuse(pending.popleft(), error)
                else:
                    command = pending.popleft()
                    self._landed(monotonic() - command.sent)
                    command.answer(reply)
        except (RedisError, OSError) as error:
            self._break(error)

    def _refuse(self, command: Command, error: ResponseError) -> None:
        if isinstance(error, NoScriptError) and command.source is not None:
            self.submit(command.in_full())
        else:
            command.fail(StoreRefused(str(error)))

    def _check(self) -> None:
        """The oldest command's time is up, or may be: a loop that was held up has not yet read what has come in."""
        self._timer = None
        if not self._pending or self._broken:
            return
        oldest = self._pending[0]
        left = oldest.sent + self._timeout - monotonic()
        if left > 0:
            self._timer = self._loop.call_later(left, self._check)
        elif oldest is self._suspect:
            self._break(TimeoutError(f"no reply within {self._timeout * 1000:.0f} ms"))
        else:
            self._suspect = oldest
            self._timer = self._loop.call_later(self._timeout / 5, self._check)

    def _break(self, error: Exception) -> None:
        if self._broken:
            return
        self._broken = True
        unanswered = [*self._pending, *self._queue]
        self._pending.clear()
        self._queue = []
        self._lost(self, error, unanswered)

    async def _release(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        try:
            await stop(self._tasks)
        finally:
            with contextlib.suppress(RedisError, OSError):
                await self._connection.disconnect(nowait=True)


async def stop(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel `tasks` and wait until they have ended."""
    running = [task for task in tasks if task is not asyncio.current_task()]
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
