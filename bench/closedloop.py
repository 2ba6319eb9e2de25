"""A load generator and an upstream in one process, for the regression gate: it needs neither wrk nor nginx.

Both are bare uvloop protocols (about 15 us a request together), so that one core of them keeps any Python gateway busy.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from bench.rig import BODY

_BODY = BODY.encode()
_ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (
    len(_BODY),
    _BODY,
)
_OK = b"HTTP/1.1 200"


class Upstream(asyncio.Protocol):
    """Answers every GET with `BODY`."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport
        self._head = b""

    def data_received(self, data: bytes) -> None:
        self._head += data
        if self._head.endswith(b"\r\n\r\n"):
            self._head = b""
            self._transport.write(_ANSWER)


class Client(asyncio.Protocol):
    """Sends the load's request over and over; an answer is whole when it ends with the expected body."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._answer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport

    def go(self) -> None:
        """Send one request."""
        self.transport.write(self._load.request)

    def data_received(self, data: bytes) -> None:
        load = self._load
        answer = self._answer + data if self._answer else data
        if not answer.endswith(load.body):
            self._answer = answer
            if not _OK.startswith(answer[:12]) and not answer.startswith(_OK):
                load.errors += 1
            return
        self._answer = b""
        load.errors += not answer.startswith(_OK)
        load.done += 1
        if load.running:
            self.transport.write(load.request)
        else:
            load.resting += 1

    def connection_lost(self, exc: Exception | None) -> None:
        if self._load.open:
            self._load.errors += 1


class Load:
    """`connections` keep-alive connections to one peer, which answers with `body`; they run in slices and rest in between."""

    def __init__(self, port: int, path: str, token: str, connections: int, body: bytes = _BODY) -> None:
        head = (f"GET {path} HTTP/1.1", f"Host: 127.0.0.1:{port}", "Accept: application/json")
        self.request = "\r\n".join((*head, f"Authorization: Bearer {token}", "", "")).encode()
        self.body = body
        self.done = self.errors = self.resting = 0
        self.running = self.open = False
        self._port, self._count = port, connections
        self._clients: list[Client] = []

    async def connect(self) -> None:
        """Open the connections."""
        loop = asyncio.get_running_loop()
        self.open = True
        for _ in range(self._count):
            _, client = await loop.create_connection(lambda: Client(self), "127.0.0.1", self._port)
            self._clients.append(client)
        self.resting = self._count

    async def slice(self, seconds: float) -> float:
        """Load the peer for `seconds`; answers per second. Afterwards all connections are at rest."""
        before, began = self.done, time.perf_counter()
        self.running, self.resting = True, 0
        for client in self._clients:
            client.go()
        await asyncio.sleep(seconds)
        rate = (self.done - before) / (time.perf_counter() - began)
        self.running = False
        deadline = time.perf_counter() + 10
        while self.resting < self._count and time.perf_counter() < deadline:
            await asyncio.sleep(0.001)
        self.errors += self._count - self.resting
        return rate

    def close(self) -> None:
        """Drop the connections."""
        self.open = False
        for client in self._clients:
            client.transport.abort()
