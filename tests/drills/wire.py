"""A small HTTP/1.1 client on asyncio streams, for load: one request on a connection, kept if it may be."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field

_LIMIT = 64 * 1024


class Broken(Exception):
    """No whole answer came: the connection could not be made, or it ended in the middle."""


@dataclass
class Answer:
    """Header names in lower case, the last of a name."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


class Wire:
    """One kept connection to a port; made anew when it is gone."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self.used = 0

    async def ask(
        self, method: str, target: str, headers: dict[str, str] | None = None, body: bytes = b""
    ) -> Answer:
        """One request. Raises Broken; `used` tells whether the connection had been used before."""
        try:
            if self._writer is None:
                self._reader, self._writer = await asyncio.open_connection(
                    "127.0.0.1", self.port, limit=_LIMIT
                )
                self.used = 0
            self.used += 1
            lines = [f"{method} {target} HTTP/1.1", "host: gateway.test"]
            lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
            if body or method in {"POST", "PUT", "PATCH"}:
                lines.append(f"content-length: {len(body)}")
            self._writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
            await self._writer.drain()
            answer = await self._answer(method)
        except (OSError, EOFError, ValueError, asyncio.LimitOverrunError) as error:
            self.close()
            raise Broken(f"{type(error).__name__}: {error}") from None
        except BaseException:
            self.close()
            raise
        if answer.headers.get("connection", "").lower() == "close":
            self.close()
        return answer

    async def head(self) -> tuple[int, dict[str, str]]:
        """The next response's head."""
        assert self._reader is not None
        lines = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        status = int(lines[0].split(" ")[1])
        return status, {
            name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:-2])
        }

    async def part(self) -> bytes:
        """The next chunk of a chunked body; b"" at its end."""
        assert self._reader is not None
        size = int(await self._reader.readuntil(b"\r\n"), 16)
        data = await self._reader.readexactly(size + 2)
        return data[:-2]

    async def _answer(self, method: str) -> Answer:
        assert self._reader is not None
        status, headers = await self.head()
        if method == "HEAD" or status in {204, 304}:
            return Answer(status, headers)
        if headers.get("transfer-encoding") == "chunked":
            body = b""
            while part := await self.part():
                body += part
            return Answer(status, headers, body)
        length = headers.get("content-length")
        body = await self._reader.readexactly(int(length)) if length else await self._reader.read()
        return Answer(status, headers, body)

    def send(self, data: bytes) -> None:
        """Bytes as they are."""
        assert self._writer is not None
        self._writer.write(data)

    async def open(self) -> None:
        """Connect. Raises Broken."""
        try:
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self.port, limit=_LIMIT)
        except OSError as error:
            raise Broken(str(error)) from None

    def close(self) -> None:
        """At once."""
        writer, self._writer, self._reader = self._writer, None, None
        if writer is not None:
            with contextlib.suppress(OSError):
                writer.transport.abort()
