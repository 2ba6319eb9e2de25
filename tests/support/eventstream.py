"""A client of event streams: raw sockets, and the parser of the WHATWG HTML standard (section 9.2.6)."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from typing import Any

from tests.support.tokens import access_token


class Message:
    """One dispatched event."""

    def __init__(self, event: str, data: str, last_id: str) -> None:
        self.event = event
        self.data = data
        self.id = last_id

    @property
    def json(self) -> Any:
        return json.loads(self.data)

    def __repr__(self) -> str:
        return f"{self.event}:{self.data}"


class Parser:
    """Feed it bytes in any pieces; it keeps what EventSource keeps: the last event id and the retry time."""

    def __init__(self) -> None:
        self.last_id = ""
        self.retry: int | None = None
        self.comments = 0
        self._rest = b""
        self._event = ""
        self._data: list[str] = []
        self._id = ""

    def feed(self, data: bytes) -> Iterator[Message]:
        *lines, self._rest = (self._rest + data).replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        for raw in lines:
            line = raw.decode()
            if not line:
                self.last_id = self._id
                if self._data:
                    yield Message(self._event or "message", "\n".join(self._data), self.last_id)
                self._event, self._data = "", []
                continue
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if not name:
                self.comments += 1
            elif name == "event":
                self._event = value
            elif name == "data":
                self._data.append(value)
            elif name == "id" and "\0" not in value:
                self._id = value
            elif name == "retry" and value.isdigit():
                self.retry = int(value)


class EventSource:
    """A stream over HTTP/1.1. `status` and `headers` are there at once; `messages` wait for what comes."""

    def __init__(
        self,
        port: int,
        target: str = "/api/v1/alerts/stream",
        *,
        token: bytes | None = b"",
        last_id: str = "",
        headers: dict[str, str] | None = None,
        method: str = "GET",
        timeout: float = 5.0,
    ) -> None:
        lines = [f"{method} {target} HTTP/1.1", "Host: gateway.test", "Accept: text/event-stream"]
        if token is not None:
            lines.append(f"Authorization: Bearer {(token or access_token()).decode()}")
        if last_id:
            lines.append(f"Last-Event-ID: {last_id}")
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        self.parser = Parser()
        self.closed = False
        self._pending: list[Message] = []
        self._raw = b""
        self._timeout = timeout
        self.socket = socket.create_connection(("127.0.0.1", port), timeout)
        try:
            self.socket.sendall("\r\n".join([*lines, "", ""]).encode())
            while b"\r\n\r\n" not in self._raw:
                self._receive()
        except BaseException:
            self.socket.close()
            raise
        head, _, self._raw = self._raw.partition(b"\r\n\r\n")
        first, *rest = head.decode("latin-1").split("\r\n")
        self.status = int(first.split()[1])
        self.headers = dict(line.split(": ", 1) for line in rest)
        self._unchunk()

    def __enter__(self) -> EventSource:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def last_id(self) -> str:
        return self.parser.last_id

    def close(self) -> None:
        self.socket.close()

    def next(self) -> Message:
        """The next event; AssertionError when none comes in time or the stream has ended."""
        self.wait(lambda: bool(self._pending))
        return self._pending.pop(0)

    def take(self, count: int) -> list[Message]:
        return [self.next() for _ in range(count)]

    def pending(self) -> list[Message]:
        """What has been read and not been asked for."""
        found, self._pending = self._pending, []
        return found

    def ready(self) -> EventSource:
        """Itself, once it has an id: from then on it misses nothing."""
        self.wait(lambda: bool(self.last_id) or bool(self._pending))
        return self

    def wait(self, condition: Any) -> None:
        deadline = time.monotonic() + self._timeout
        while not condition():
            assert not self.closed, f"the stream has ended: {self._pending}"
            assert time.monotonic() < deadline, "nothing came"
            self._receive()
            self._unchunk()

    def until_closed(self) -> list[Message]:
        """All that comes until the stream ends."""
        deadline = time.monotonic() + self._timeout
        while not self.closed:
            assert time.monotonic() < deadline, "the stream goes on"
            self._receive()
            self._unchunk()
        return self.pending()

    def _receive(self) -> None:
        try:
            data = self.socket.recv(65536)
        except ConnectionResetError:
            data = b""
        if not data:
            self.closed = True
        self._raw += data
        assert data or b"\r\n\r\n" in self._raw or hasattr(self, "status"), "no response"

    def _unchunk(self) -> None:
        if self.headers.get("transfer-encoding") != "chunked":
            return
        while b"\r\n" in self._raw:
            size, _, rest = self._raw.partition(b"\r\n")
            length = int(size, 16)
            if len(rest) < length + 2:
                return
            self._raw = rest[length + 2 :]
            if not length:
                self.closed = True
                return
            self._pending += self.parser.feed(rest[:length])
