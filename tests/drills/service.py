"""The service behind the gateways: echoes who called, counts how often each request came, and misbehaves on demand."""

from __future__ import annotations

import asyncio
import json
import random
import select
from collections import Counter

_STALE = b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 16\r\n\r\n{"nonce": "old"}'


class Service:
    """One listener that plays every service. The flags are faults; `arrived` counts requests by their nonce."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.port = 0
        self.arrived: Counter[str] = Counter()
        self.resets = False  # a third of the requests are reset before their answer
        self.errors = False  # half of them get a 500
        self.cuts = False  # half of the bodies break off
        self.hangs = False  # the path /slow never answers
        self.chatter = False  # answers come on connections that asked for nothing
        self._server: asyncio.Server | None = None
        self._resting: dict[asyncio.StreamReader, asyncio.StreamWriter] = {}
        self._open: set[asyncio.StreamWriter] = set()

    async def start(self) -> None:
        """Listen, on the port it had before if it had one."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, limit=64 * 1024)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """End as a crash would: every connection goes."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in list(self._open):
            writer.transport.abort()
        await asyncio.sleep(0)

    def calm(self) -> None:
        """No fault any more."""
        self.resets = self.errors = self.cuts = self.hangs = self.chatter = False

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            while True:
                self._resting[reader] = writer
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                self._resting.pop(reader, None)
                if not await self._one(reader, writer, head):
                    return
        except (OSError, EOFError, ValueError, asyncio.LimitOverrunError, asyncio.CancelledError):
            pass  # the task is the end of it
        finally:
            self._resting.pop(reader, None)
            self._open.discard(writer)
            writer.transport.abort()

    def _speak_unasked(self) -> None:
        """An answer on every connection whose client has sent nothing: what it sends from now on, it sends after that."""
        for reader, writer in list(self._resting.items()):
            socket = writer.get_extra_info("socket")
            poll = select.poll()
            poll.register(socket.fileno(), select.POLLIN)
            unread: bytearray = reader._buffer  # type: ignore[attr-defined]
            if not unread and not poll.poll(0):
                writer.write(_STALE)

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: str) -> bool:
        lines = head.split("\r\n")
        method, target, _ = lines[0].split(" ", 2)
        headers = {
            name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:-2])
        }
        size = await _drop_body(reader, headers)
        path, _, nonce = target.partition("?n=")
        self.arrived[nonce] += 1
        if self.hangs and path.endswith("/slow"):
            await asyncio.sleep(3600)
        if self.resets and self._rng.random() < 1 / 3:
            return False
        if self.chatter:
            self._speak_unasked()
        if path.endswith("/login"):
            document: dict[str, object] = {"access_token": "x", "nonce": nonce}
        else:
            document = {
                "nonce": nonce,
                "user": headers.get("x-user-id", ""),
                "tenant": headers.get("x-tenant-id", ""),
                "size": size,
                "pad": "." * self._rng.choice((0, 0, 0, 20_000)),
            }
        body = json.dumps(document).encode()
        status = b"500 Internal Server Error" if self.errors and self._rng.random() < 0.5 else b"200 OK"
        start = b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % (
            status,
            len(body),
        )
        if self.cuts and self._rng.random() < 0.5:
            writer.write(start + body[: len(body) // 2])
            await writer.drain()
            return False
        writer.write(start + body)
        await writer.drain()
        return method != "CONNECT"


async def _drop_body(reader: asyncio.StreamReader, headers: dict[str, str]) -> int:
    size = 0
    if headers.get("transfer-encoding") == "chunked":
        while length := int(await reader.readuntil(b"\r\n"), 16):
            await reader.readexactly(length + 2)
            size += length
        await reader.readexactly(2)
        return size
    left = int(headers.get("content-length", "0"))
    while left:
        data = await reader.read(min(left, 64 * 1024))
        if not data:
            raise EOFError
        size += len(data)
        left -= len(data)
    return size
