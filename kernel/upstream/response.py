"""Response: what httptools reads from a service, held to RFC 9112 and kept until it is taken.

- The head decides the framing (RFC 9112 section 6.3). Whatever is ambiguous is refused: `error` is set.
- Trailers are never merged into the head (RFC 9110 section 6.5.1); they are dropped.
- Bytes after the end of a response make the connection `dirty`: they would become the next client's response.

The stages of an exchange on a connection, and what leads from one to another. All that is not in the table ends both:

| stage    | the request is written | head read | body read | end of the response | the exchange is over |
| -------- | ---------------------- | --------- | --------- | ------------------- | -------------------- |
| IDLE     | by way of UNSENT       |           |           |                     |                      |
| UNSENT   | HEAD                   |           |           |                     | closed, never sent   |
| HEAD     |                        | BODY      |           | COMPLETE (no body)  | closed               |
| BODY     |                        |           | BODY      | COMPLETE            | closed               |
| COMPLETE |                        |           |           |                     | IDLE                 |
"""

from __future__ import annotations

import re
from typing import Final, Literal

import httptools

from kernel.http.headers import connection_options
from kernel.http.problems import UPSTREAM_PROTOCOL, GatewayError
from kernel.upstream.fast_response import FastResponseReader
from kernel.upstream.response_headers import (
    CONNECTION,
    ENCODING,
    KEEP_ALIVE,
    LENGTH,
    LOCATIONS,
    reference,
)

MAX_HEADERS = 256
# The parser takes any version, and any byte in the reason (RFC 9112 section 4).
_VERSIONS = frozenset({"1.0", "1.1"})
_BAD_TEXT = re.compile(rb"[^\t\x20-\x7e\x80-\xff]")

# How far an exchange is; see the table. PERF: plain integers, compared several times a read: 13 ns, 68 by an enum's name.
Stage = Literal[0, 1, 2, 3, 4]
IDLE: Final = 0  # there is none
UNSENT: Final = 1  # its connection is taken, its request about to be written
HEAD: Final = 2  # the response's head is awaited
BODY: Final = 3  # its body is
COMPLETE: Final = 4


class Response:
    """The response being read; one after the other on a connection.

    `headers` are (lower-case name, value) less hop-by-hop fields and the gateway's own; `chunks` the body so far.
    """

    __slots__ = (
        "_begun",
        "_buffered",
        "_connection_names",
        "_fields",
        "_head_only",
        "_informational",
        "_keep_alive",
        "_names",
        "_parser",
        "_quick",
        "_unframed",
        "chunks",
        "dirty",
        "error",
        "headers",
        "stage",
        "status",
    )

    def __init__(self, reader: FastResponseReader) -> None:
        self._quick = reader
        self._names = reader.names
        self._begun = False  # the parser has been given something of this response
        self._parser = httptools.HttpResponseParser(self)
        self._fields: list[tuple[bytes, bytes]] = []
        self._head_only = False
        self._buffered = 0
        self._informational = False
        self._unframed = True
        self._keep_alive = False
        self._connection_names: frozenset[bytes] | None = None
        self.dirty = False  # no other exchange may follow
        self.error: GatewayError | None = None
        self.stage: Stage = IDLE
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.chunks: list[bytes] = []

    def expect(self, head_only: bool) -> None:
        """A request is about to be sent. Resets no more than a clean exchange leaves behind: no other can come before."""
        self.stage = UNSENT
        self.chunks = []
        self._fields = []
        self._head_only = head_only
        self._buffered = 0
        self._unframed = True
        self._begun = False

    def forget(self) -> None:
        """The exchange is over."""
        self.stage = IDLE
        self.chunks.clear()  # an idle connection must not hold a large body
        if self._head_only:
            # httptools cannot be told that this response has no body; a fresh parser has forgotten that it waits for one.
            self._parser = httptools.HttpResponseParser(self)

    def whole(self, data: bytes) -> bool:
        """Take `data` if it is all of a plain response and nothing of it came before."""
        if self._head_only or self._begun:
            return False
        read = self._quick.read(data)
        if read is None:
            self._begun = True
            return False
        self.status, self.headers, body = read
        self._keep_alive = True
        if body:
            self.chunks.append(body)
            self._buffered = len(body)
        self.stage = COMPLETE
        return True

    def feed(self, data: bytes) -> None:
        """Read `data`; nothing is raised, `error` is set."""
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self.dirty = True
            if self.stage != COMPLETE:  # after a complete response it only costs the connection
                self.refuse(f"malformed response ({type(error).__name__})")

    def refuse(self, detail: str) -> None:
        """The service does not speak HTTP/1.1 as it should."""
        if self.error is None:
            self.error = GatewayError(UPSTREAM_PROTOCOL(detail))

    # --- httptools ---

    def on_message_begin(self) -> None:
        if self.stage == COMPLETE:
            self.dirty = True

    def on_header(self, name: bytes, value: bytes) -> None:
        kind = self._names[name]
        if kind.__class__ is bytes:
            self._fields.append((kind, value.rstrip(b" \t")))  # OWS is no part of it (RFC 9110 section 5.5)
        elif self.stage != HEAD:
            self.dirty = True  # a trailer that says something about framing or the connection
        elif kind == LENGTH:
            self._unframed = False
            self._fields.append((b"content-length", value.strip()))
        elif kind == ENCODING:
            chunked = self._unframed and value.strip().lower() == b"chunked"
            if not chunked or self._parser.get_http_version() != "1.1":
                self.refuse("unsupported Transfer-Encoding")
            self._unframed = False
        elif kind == CONNECTION:
            named = connection_options(value)
            if named:
                self._connection_names = (self._connection_names or frozenset()) | named
        elif kind == KEEP_ALIVE:
            self._quick.keep_alive(value.strip())
        elif kind in LOCATIONS:
            self._fields.append((LOCATIONS[kind], reference(value.strip(b" \t"), self._quick.own)))

    def on_status(self, reason: bytes) -> None:
        if _BAD_TEXT.search(reason):
            self.refuse("a control character in the status line")

    def on_headers_complete(self) -> None:
        if self.stage != HEAD:
            return
        if self._parser.get_http_version() not in _VERSIONS:
            self.refuse("not HTTP/1")
        status = self.status = self._parser.get_status_code()
        if status < 200:
            if status < 100 or status == 101:
                self.refuse(f"unexpected status {status}")
            self._informational = True
            return
        headers = self._fields
        self._fields = []  # what comes now is a trailer
        if len(headers) > MAX_HEADERS:
            self.refuse("too many response headers")
        if self._connection_names:
            headers = [pair for pair in headers if pair[0] not in self._connection_names]
            self._connection_names = None
        if status in {204, 304}:
            self._unframed = False
        self._keep_alive = self._parser.should_keep_alive()
        self.headers = headers
        self.stage = COMPLETE if self._head_only else BODY

    def on_body(self, body: bytes) -> None:
        if self.stage != BODY:
            self.dirty = True  # a body after HEAD, or a second response
            return
        self.chunks.append(body)
        self._buffered += len(body)

    def on_message_complete(self) -> None:
        if self._informational:
            self._informational = False
            self._fields = []
            self._unframed = True
            self._connection_names = None
        elif self.stage == BODY:
            self.stage = COMPLETE
