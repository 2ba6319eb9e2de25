"""The least an ASGI proxy in Python can do: granian, a list of connections, httptools, no policy, GET only.

The fixed reference of the regression gate (same interpreter, server, loop and parser as the gateway, so the ratio to it
hardly depends on the machine), and a row that shows what the policies cost. Not to be tuned: the baseline hangs on it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Any

import httptools

HOST, _, PORT = os.environ["BARE_UPSTREAM"].partition(":")
_DROPPED = frozenset({b"connection", b"keep-alive", b"transfer-encoding"})


class Connection(asyncio.Protocol):
    """One keep-alive connection to the upstream; `ask` is for one request at a time."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport
        self._waiter: asyncio.Future[None] | None = None

    def ask(self, request: bytes) -> asyncio.Future[None]:
        """Send `request`; done when the answer is whole."""
        self._parser = httptools.HttpResponseParser(self)
        self.headers: list[tuple[bytes, bytes]] = []
        self.body: list[bytes] = []
        self._waiter = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return self._waiter

    @property
    def status(self) -> int:
        return int(self._parser.get_status_code())

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name not in _DROPPED:
            self.headers.append((name, value))

    def on_body(self, body: bytes) -> None:
        self.body.append(body)

    def on_message_complete(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(exc or ConnectionResetError())


class Proxy:
    """The application."""

    def __init__(self) -> None:
        self._idle: list[Connection] = []

    async def __call__(
        self,
        scope: dict[str, Any],
        receive: Callable[[], Awaitable[Any]],
        send: Callable[[Any], Awaitable[None]],
    ) -> None:
        if scope["type"] != "http":
            return
        query = scope["query_string"]
        target = scope["raw_path"] + (b"?" + query if query else b"")
        lines = [b"GET %b HTTP/1.1\r\n" % target]
        lines += [b"%b: %b\r\n" % pair for pair in scope["headers"] if pair[0] not in _DROPPED]
        lines.append(b"\r\n")
        if self._idle:
            connection = self._idle.pop()
        else:
            _, connection = await asyncio.get_running_loop().create_connection(Connection, HOST, int(PORT))
        await connection.ask(b"".join(lines))
        await send(
            {"type": "http.response.start", "status": connection.status, "headers": connection.headers}
        )
        await send({"type": "http.response.body", "body": b"".join(connection.body)})
        self._idle.append(connection)


app = Proxy()
