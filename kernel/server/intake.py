"""Intake: how granian's requests reach the gateway.

granian makes a handle, a task and a coroutine for each. Here they are taken in batches and entered at once, and most are
answered by callbacks (see upstream/callback_lane.py); one that has to wait for anything else becomes a task.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Iterator
from typing import Any, Protocol

from kernel.exchange import asgi
from kernel.exchange.asgi import Receive, Scope, Send
from kernel.exchange.exchange import Exchange, Lane, Stage
from kernel.server.granian import Watcher

# What one turn of the loop takes: a few milliseconds at most.
_BATCH = 256


class Entrance(Protocol):
    """What is needed of the gateway (see app.py)."""

    def enter(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        lane: Lane | None = None,
        watcher: asgi.Watcher | None = None,
    ) -> Awaitable[None] | None: ...

    def go_on(
        self, x: Exchange, stages: Iterator[Stage], stage: Stage | None, outcome: Any
    ) -> Awaitable[None]: ...

    def finish(self, x: Exchange) -> None: ...

    def clients(self) -> Iterator[str]: ...

    def cut_short(self) -> None: ...


class Connections(Protocol):
    """What is told of clients (see client_connections.py)."""

    # By a client's port, the version of HTTP that it has asked by; None: nobody wants to know.
    noted: dict[str, str] | None

    def ended(self, client: tuple[str, str]) -> None:
        """What the one at an address and port was sent has been broken off, or its WebSocket is over."""


class Intake:
    """One a worker. It is every exchange's lane."""

    def __init__(self, loop: asyncio.AbstractEventLoop, gateway: Entrance, connections: Connections) -> None:
        self._loop = loop
        self._gateway = gateway
        self._connections = connections
        self._enter = gateway.enter if connections.noted is None else self._noting
        self._waiting: deque[Watcher] = deque()
        self._idle = True
        # With the port of the client.
        self._tasks: dict[asyncio.Task[None], str] = {}

    def put(self, watcher: Watcher) -> None:
        """Called with the interpreter's lock, from another thread than the loop's."""
        self._waiting.append(watcher)
        # Two threads may both find it idle: a call too many does no harm. It is never one too few: the loop says that it
        # is idle before it looks.
        if self._idle:
            self._idle = False
            self._loop.call_soon_threadsafe(self._take)

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A request that does not come by `put`: all of it is the task that granian has made."""
        task = asyncio.current_task()
        assert task is not None
        client = scope["client"]
        self._tasks[task] = client[1]
        socket = scope["type"] == "websocket"
        try:
            rest = self._enter(scope, receive, send)
            if rest is not None:
                await rest
        except BaseException:
            socket = True
            raise
        finally:
            del self._tasks[task]
            if socket:
                self._connections.ended(client)

    def in_flight(self) -> set[str]:
        """The ports of all clients whose request is under way."""
        return {*self._tasks.values(), *self._gateway.clients()}

    def cut_short(self) -> None:
        """End what is still under way: it is answered as far as that is possible, and logged."""
        for task in list(self._tasks):
            task.cancel()
        self._gateway.cut_short()

    def _take(self) -> None:
        self._idle = True
        waiting = self._waiting
        enter = self._enter
        lane: Lane = self
        for _ in range(min(len(waiting), _BATCH)):
            watcher = waiting.popleft()
            proto = watcher.proto
            scope = watcher.scope
            try:
                rest = enter(scope, proto.receive, proto.send, lane, watcher)
            except Exception as error:
                # The gateway answers whatever happens to an exchange; this one was not even made. granian answers 500.
                watcher.err(error)
                continue
            if rest is not None:
                self._run(watcher, scope, rest)
        if waiting and self._idle:
            self._idle = False
            self._loop.call_soon(self._take)

    def _noting(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        lane: Lane | None = None,
        watcher: asgi.Watcher | None = None,
    ) -> Awaitable[None] | None:
        noted = self._connections.noted
        assert noted is not None
        noted[scope["client"][1]] = scope["http_version"]
        return self._gateway.enter(scope, receive, send, lane, watcher)

    def _run(self, watcher: asgi.Watcher, scope: Scope, rest: Awaitable[None]) -> None:
        client = scope["client"]
        task = self._loop.create_task(self._request(watcher, client, scope["type"] == "websocket", rest))
        self._tasks[task] = client[1]
        task.add_done_callback(self._tasks.pop)
        watcher.taskref(task)

    async def _request(
        self, watcher: asgi.Watcher, client: tuple[str, str], socket: bool, rest: Awaitable[None]
    ) -> None:
        try:
            await rest
        except BaseException as error:
            self._connections.ended(client)
            watcher.err(error)
            return
        if socket:
            self._connections.ended(client)
        watcher.done()

    # --- Lane ---

    def over(self, x: Exchange) -> None:
        self._gateway.finish(x)
        watcher = x.watcher
        assert watcher is not None
        watcher.done()

    def go_on(self, x: Exchange, rest: Awaitable[None]) -> None:
        assert x.watcher is not None
        self._run(x.watcher, x.scope, self._gateway.go_on(x, iter(()), None, rest))
