"""What an ASGI server hands to an application, and the watcher it is told the end of a request by."""

from __future__ import annotations

from asyncio import Task
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

Scope = dict[str, Any]
Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
HeaderList = list[tuple[bytes, bytes]]


class Watcher(Protocol):
    """The server's own object for a request; see kernel/server/granian.py. It is told the end, once."""

    def taskref(self, task: Task[None]) -> None:
        """The task that handles it."""

    def done(self) -> None:
        """The answer is out."""

    def err(self, error: BaseException) -> None:
        """It failed: the server answers 500, or breaks the response off."""
