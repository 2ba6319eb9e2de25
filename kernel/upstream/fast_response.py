"""Whole responses, read at once: most are small, of known length, and come in one piece.

A head is compared with the last one, lines are looked up in a memo. What is not plainly of this kind is left to the full
parser, which has seen none of it: other versions, 1xx, 204, 304, every Transfer-Encoding, `Connection` other than keep-alive,
two lengths, a body longer or shorter than the length, anything RFC 9112 does not allow.

PERF: 0.2 us for the last head again (a service asked often says the same for a second), 1.2 for another one of known lines,
where the full parser with its call a header takes 1.8.
"""

from __future__ import annotations

import re
from math import inf

from kernel.primitives.memo import keep
from kernel.upstream.response_headers import (
    CONNECTION,
    ENCODING,
    KEEP_ALIVE,
    LENGTH,
    LOCATIONS,
    ResponseHeaders,
    reference,
)

# RFC 9112 section 4; RFC 9110 section 5.5: a value is of visible characters, spaces, tabs and obs-text.
_STATUS_LINE = re.compile(rb"HTTP/1\.1 (2[0-9]{2}|[45][0-9]{2}|30[0-35-9]) [\t\x20-\x7e\x80-\xff]*")
_FIELD_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\t\x20-\x7e\x80-\xff]*)")
_KEEP_ALIVE = re.compile(rb'(?:.*[,\t ])?timeout[\t ]*=[\t ]*"?([0-9]{1,9})(?:[",\t ].*)?', re.IGNORECASE)
_NUMBER = re.compile(rb"0|[1-9][0-9]{0,15}")
_NO_BODY = (204,)
# Long lines are rarely sent twice, and the memo is to stay small: 512 KiB at most.
_MEMO_LIMIT = 2048
_MEMO_LINE = 256
_MAX_LINES = 64

# What a line is when it is not a pair to pass on.
DROPPED, UNUSUAL = -1, -2

Pair = tuple[bytes, bytes]


class FastResponseReader:
    """One an upstream. `rest` is how long its connections may be idle, in seconds, by what it has told; `own` are the
    authorities of its replicas, in lower case."""

    __slots__ = ("_head", "_known", "_lines", "_statuses", "names", "own", "rest")

    def __init__(self, names: ResponseHeaders, own: frozenset[bytes] = frozenset()) -> None:
        self.names = names
        self.own = own
        self.rest = inf
        self._statuses: dict[bytes, int] = {}
        # The last plain head, with the empty line, and what it says: status, headers, content length.
        self._head = b""
        self._known: tuple[int, list[Pair], int] | None = None
        # A pair, a content length, or one of the two codes above.
        self._lines: dict[bytes, Pair | int] = {}

    def read(self, data: bytes) -> tuple[int, list[Pair], bytes] | None:
        """(status, headers to pass on, body) when `data` is exactly one plain response to a request other than HEAD."""
        known = self._known
        if known is None or not data.startswith(self._head):
            end = data.find(b"\r\n\r\n")
            if end < 0:
                return None
            known = self._plain(data[:end])
            if known is None:
                return None
            self._head = data[: end + 4]
            self._known = known
        status, headers, length = known
        end = len(self._head)
        if end + length != len(data):
            return None
        return status, headers.copy(), data[end:]

    def keep_alive(self, value: bytes) -> None:
        """A `Keep-Alive` field: the service closes what is idle for `timeout` seconds, the last of which is not safe."""
        match = _KEEP_ALIVE.fullmatch(value)
        if match is not None:
            self.rest = min(self.rest, int(match[1]) - 1.0)

    def _plain(self, head: bytes) -> tuple[int, list[Pair], int] | None:
        """What a plain head says."""
        lines = head.split(b"\r\n")
        first = lines[0]
        status = self._statuses.get(first) or self._status(first)
        if not status or len(lines) > _MAX_LINES:
            return None
        del lines[0]
        known = self._lines
        headers: list[Pair] = []
        length = -1
        for line in lines:
            entry = known.get(line)
            if entry is None:
                entry = self._line(line)
            if isinstance(entry, tuple):
                headers.append(entry)
            elif entry != DROPPED:
                if length >= 0 or entry == UNUSUAL:
                    return None
                length = entry
                headers.append((b"content-length", b"%d" % length))
        if length < 0:
            return None
        return status, headers, length

    def _status(self, line: bytes) -> int:
        match = _STATUS_LINE.fullmatch(line)
        status = int(match[1]) if match is not None else 0
        if status in _NO_BODY:
            return 0
        return (
            keep(self._statuses, line, status, _MEMO_LIMIT) if status and len(line) < _MEMO_LINE else status
        )

    def _line(self, line: bytes) -> Pair | int:
        entry = self._judge(line)
        usual = len(line) < _MEMO_LINE and entry != UNUSUAL
        return keep(self._lines, line, entry, _MEMO_LIMIT) if usual else entry

    def _judge(self, line: bytes) -> Pair | int:
        match = _FIELD_LINE.fullmatch(line)
        if match is None:
            return UNUSUAL
        kind = self.names[match[1]]
        value = match[2].rstrip(b" \t")
        if isinstance(kind, bytes):
            return kind, value
        if kind == KEEP_ALIVE:
            self.keep_alive(value)
        if kind in LOCATIONS:
            return LOCATIONS[kind], reference(value, self.own)
        if kind == LENGTH:
            return int(value) if _NUMBER.fullmatch(value) else UNUSUAL
        if kind == ENCODING or (kind == CONNECTION and value.lower() != b"keep-alive"):
            return UNUSUAL
        return DROPPED
