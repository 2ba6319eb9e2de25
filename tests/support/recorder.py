"""An upstream that records what reaches it, byte for byte, and answers every request with what it saw."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httptools


@dataclass
class Seen:
    """One request as it arrived."""

    method: str = ""
    target: bytes = b""
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes = b""

    def header(self, name: str) -> list[str]:
        """Every value of `name`, in order; the name's case does not matter."""
        return [value.decode() for key, value in self.headers if key.lower() == name.lower().encode()]


class _Recording(asyncio.Protocol):
    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self.parser = httptools.HttpRequestParser(self)
        self.seen = Seen()
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.recorder.connections += 1
        self.recorder.transports.add(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.recorder.transports.discard(self.transport)

    def data_received(self, data: bytes) -> None:
        self.recorder.raw += data
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError as error:
            self.recorder.errors.append(repr(error))
            assert self.transport is not None
            self.transport.close()

    def on_url(self, url: bytes) -> None:
        self.seen.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.seen.headers.append((name, value))

    def on_body(self, body: bytes) -> None:
        self.seen.body += body

    def on_message_complete(self) -> None:
        seen, self.seen = self.seen, Seen()
        seen.method = self.parser.get_method().decode()
        assert self.transport is not None
        own = self.recorder.answer(seen) if self.recorder.answer is not None else None
        if own is not None:
            status, document = own
            if not status:
                self.transport.abort()
                return
            body = document if isinstance(document, bytes) else json.dumps(document).encode()
            head = b"HTTP/1.1 %d Own\r\ncontent-length: %d\r\n\r\n" % (status, len(body))
            self.transport.write(head + body)
            return
        # The gateway's own probes come when they like.
        if seen.target != b"/health" or seen.header("x-request-id"):
            self.recorder.requests.append(seen)
        document = {
            "method": seen.method,
            "target": seen.target.decode("latin-1"),
            "headers": [[name.decode("latin-1"), value.decode("latin-1")] for name, value in seen.headers],
            "body": seen.body.decode("latin-1"),
        }
        body = json.dumps(document).encode()
        extra = b"".join(b"%b: %b\r\n" % pair for pair in self.recorder.response_headers)
        head = b"HTTP/1.1 %d OK\r\ncontent-type: application/json\r\n%bcontent-length: %d\r\n\r\n" % (
            self.recorder.status,
            extra,
            len(body),
        )
        self.transport.write(head + (b"" if seen.method == "HEAD" else body))


@dataclass
class Recorder:
    """What arrived; `clear()` between tests."""

    port: int = 0
    raw: bytes = b""
    requests: list[Seen] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    connections: int = 0
    status: int = 200
    response_headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    # Answers in place of the echo with a status and a JSON document, unrecorded; status 0 breaks the connection.
    answer: Callable[[Seen], tuple[int, Any] | None] | None = None
    transports: set[asyncio.Transport | None] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def clear(self) -> None:
        self.raw = b""
        self.requests.clear()
        self.errors.clear()
        self.status = 200
        self.response_headers.clear()


@contextmanager
def recording_upstream() -> Iterator[Recorder]:
    """A recorder on a loopback port, served by a thread of its own."""
    recorder = Recorder()
    ready = threading.Event()
    loop = asyncio.new_event_loop()

    async def serve() -> asyncio.Server:
        server = await loop.create_server(lambda: _Recording(recorder), "127.0.0.1", 0)
        recorder.port = server.sockets[0].getsockname()[1]
        return server

    async def end(server: asyncio.Server) -> None:
        server.close()
        for _ in range(10):  # one that has just been accepted has no transport for some turns
            for transport in list(recorder.transports):
                assert transport is not None
                transport.abort()
            await asyncio.sleep(0)

    def run() -> None:
        asyncio.set_event_loop(loop)
        server = loop.run_until_complete(serve())
        ready.set()
        loop.run_forever()
        loop.run_until_complete(end(server))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    ready.wait()
    yield recorder
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
