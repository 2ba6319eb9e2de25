"""A link: one connection to one server that carries commands, pipelined.

Commands of one loop tick leave in one write and are answered in order. A reader waits all the time, so that a dead
connection is noticed when it dies and not when it is next needed.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from itertools import chain
from time import monotonic
from typing import Any, Protocol

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import AskError, NoScriptError, RedisError, ResponseError, TryAgainError

from kernel.store.errors import StoreDown, StoreRefused
from kernel.store.keys import PROBE
from kernel.store.reasons import DOUBTFUL, LOST, code, text

Argument = str | bytes | int | float

# That a server runs scripts and takes what they write: all that the limiter needs of it.
_PROBE = "return redis.call('SET', KEYS[1], '1', 'PX', 5000)"
# A reply is missed when this much of its time is left, and missing when the rest is over, too: a loop that was held up
# has not yet read what has come in.
_LAST_PART = 0.2
_PUSHED = object()


class Command:
    """A command on its way. `source` is the script to send in full should the server not know its digest; `due` is when
    (monotonic seconds) a reply comes too late, counted from the moment when it was submitted, wherever it waits."""

    __slots__ = ("args", "began", "due", "future", "hops", "resent", "source")

    def __init__(
        self,
        args: tuple[Argument, ...],
        future: asyncio.Future[Any],
        source: str | None = None,
        timeout: float = math.inf,
    ) -> None:
        self.args = args
        self.future = future
        self.source = source
        self.began = monotonic()
        self.due = self.began + timeout
        self.resent = False
        self.hops = 0  # how often a cluster sent it on

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


class Owner(Protocol):
    """Whoever uses a carrier, and hears of it."""

    def landed(self, seconds: float) -> None:
        """A reply came after `seconds`."""

    def lost(self, carrier: Any, error: Exception, unanswered: list[Command]) -> None:
        """`carrier` broke: called once. The owner has to `close` it."""

    def doubted(self, carrier: Any) -> None:
        """A command was refused in a way that may mean that all will be."""

    def redirected(self, carrier: Any, command: Command, error: ResponseError) -> None:
        """A cluster's node sends `command` to another one, or bids it wait."""


class Carrier(Protocol):
    """What takes commands to the store: a `Link`, or a cluster's many."""

    async def open(self) -> None:
        """Connect. Raises RedisError or OSError (TimeoutError is one)."""

    async def prove(self) -> None:
        """See it do what is needed: run a script that writes. Raises StoreError."""

    def submit(self, command: Command) -> None:
        """Send with the other commands of this tick."""

    def abandon(self, error: Exception) -> None:
        """Count as broken."""

    async def close(self) -> list[Command]:
        """End at once and return the unanswered commands; the owner's `lost` is not called."""


class Link:
    """A `Carrier` over one connection.

    It breaks when the peer closes, when a reply is not there when it is due, or when the server says that it is no good
    (see `reasons.LOST`). `hear` takes the server's pushes.
    """

    def __init__(
        self,
        connection: AbstractConnection,
        timeout: float,
        owner: Owner,
        hear: Callable[[list[Any]], Awaitable[None]] | None = None,
    ) -> None:
        self._connection = connection
        self._timeout = timeout
        self._owner = owner
        self._hear = hear
        self._loop = asyncio.get_running_loop()
        self._queue: list[Command] = []
        self._pending: deque[Command] = deque()
        self._wake = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._suspect: Command | None = None
        self._opened = 0.0
        self._broken = False

    async def open(self) -> None:
        try:
            async with asyncio.timeout(self._timeout):
                await self._connection.connect()  # type: ignore[no-untyped-call]
        except BaseException:
            await self._connection.disconnect(nowait=True)
            raise
        self._opened = monotonic()
        if self._hear is not None:
            parser: Any = self._connection._parser  # private: pinned, and held by a test
            parser.set_invalidation_push_handler(self._pushed)
        self._tasks = [self._loop.create_task(self._write()), self._loop.create_task(self._read())]

    async def prove(self, key: str | None = PROBE) -> None:
        """See it do what is needed, by a key that it holds; None: there is none, it has only to answer."""
        await (self.ask("PING") if key is None else self.ask("EVAL", _PROBE, 1, key))

    def ask(self, *args: Argument, timeout: float | None = None) -> asyncio.Future[Any]:
        """The reply to a command of its own."""
        command = Command(
            args, self._loop.create_future(), None, self._timeout if timeout is None else timeout
        )
        self.submit(command)
        return command.future

    def submit(self, command: Command) -> None:
        if self._broken:
            command.fail(StoreDown("the connection is broken"))
            return
        self._queue.append(command)
        self._wake.set()

    def abandon(self, error: Exception) -> None:
        if not self._broken:
            self._owner.lost(self, error, self.detach())

    def detach(self) -> list[Command]:
        """Count as broken without telling the owner; the unanswered commands."""
        self._broken = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        unanswered = [*self._pending, *self._queue]
        self._pending.clear()
        self._queue = []
        return unanswered

    async def close(self) -> list[Command]:
        unanswered = self.detach()
        try:
            await stop(self._tasks)
        finally:
            with contextlib.suppress(RedisError, OSError):
                await self._connection.disconnect(nowait=True)
        return unanswered

    async def _write(self) -> None:
        connection, wake, pending = self._connection, self._wake, self._pending
        try:
            while True:
                await wake.wait()
                wake.clear()
                batch, self._queue = self._queue, []
                try:
                    packed = connection.pack_commands(command.args for command in batch)
                except (RedisError, ValueError):
                    batch = [command for command in batch if self._packs(command)]
                    packed = connection.pack_commands(command.args for command in batch)
                pending.extend(batch)
                if self._timer is None:
                    self._check()
                await connection.send_packed_command(packed, check_health=False)
        except Exception as error:  # whatever ends the writer ends the link
            self.abandon(error)

    def _packs(self, command: Command) -> bool:
        """Whether it can be sent at all (a lone surrogate cannot): others must not suffer for it."""
        try:
            self._connection.pack_command(*command.args)
        except (RedisError, ValueError) as error:
            command.fail(StoreRefused(str(error)))
            return False
        return True

    async def _read(self) -> None:
        read, pending = self._connection.read_response, self._pending
        pushes = self._hear is not None
        try:
            while True:
                try:
                    reply = await read(timeout=math.inf, disconnect_on_error=False, push_request=pushes)
                except ResponseError as error:
                    if code(error) in LOST:
                        raise  # this command, too, goes to whoever answers better
                    self._refuse(pending.popleft(), error)
                else:
                    if reply is _PUSHED:
                        continue
                    command = pending.popleft()
                    self._owner.landed(monotonic() - command.began)
                    command.answer(reply)
        except Exception as error:  # whatever ends the reader ends the link
            self.abandon(error)

    async def _pushed(self, message: list[Any]) -> object:
        assert self._hear is not None
        await self._hear(message)
        return _PUSHED

    def _refuse(self, command: Command, error: ResponseError) -> None:
        if isinstance(error, NoScriptError) and command.source is not None:
            self.submit(command.in_full())
        elif isinstance(error, AskError | TryAgainError):
            self._owner.redirected(self, command, error)
        else:
            command.fail(StoreRefused(text(error)))
            if code(error) in DOUBTFUL:
                self._owner.doubted(self)

    def _check(self) -> None:
        """See whether the oldest command's reply is due."""
        self._timer = None
        if self._broken:
            return
        now = monotonic()
        for oldest in chain(self._pending, self._queue):
            if oldest.due <= now and oldest.began < self._opened:
                # It has waited for this connection, which need not have been slow: only its own time is up.
                oldest.fail(StoreDown("no answer in time"))
                oldest.due = math.inf
            if oldest.due < math.inf:
                break
        else:
            return
        left = oldest.due - now
        early = self._timeout * _LAST_PART
        if left > early:
            self._timer = self._loop.call_later(left - early, self._check)
        elif oldest is self._suspect:
            self.abandon(TimeoutError(f"no reply within {self._timeout * 1000:.0f} ms"))
        else:
            self._suspect = oldest
            self._timer = self._loop.call_later(max(left, early / 2), self._check)


async def stop(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel `tasks` and wait until they have ended."""
    running = [task for task in tasks if task is not asyncio.current_task()]
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
