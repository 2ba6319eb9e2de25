"""Disconnect: that a client has left, while something else is waited for. granian never cancels an application by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from kernel.exchange.asgi import Message, Receive


class Disconnect:
    """Calls `gone` once, when `receive` says that the client has left; `cancel` it when the response ends by itself.

    Only for a request whose body has been read to its end.

    PERF: the server's `receive` gives a future, so that a callback is all it takes; a task that awaits it costs 1 KiB more.
    """

    __slots__ = ("_gone", "_pending", "_receive")

    def __init__(self, receive: Receive, gone: Callable[[], None]) -> None:
        self._receive = receive
        self._gone = gone
        self._pending: asyncio.Future[Message] | None = None
        self._listen()

    def cancel(self) -> None:
        """Listen no longer. Harmless when the client has left."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.cancel()

    def _listen(self) -> None:
        # A future stays itself; what another server or a test gives becomes a task.
        self._pending = asyncio.ensure_future(self._receive())
        self._pending.add_done_callback(self._heard)

    def _heard(self, heard: asyncio.Future[Message]) -> None:
        if self._pending is None:
            return
        self._pending = None
        if heard.cancelled() or heard.exception() is not None or heard.result()["type"] == "http.disconnect":
            self._gone()
        else:
            self._listen()
