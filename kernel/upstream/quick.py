"""Whole responses, read at once: most are small, of known length, and come in one piece.

Heads and lines are looked up in memos; what is not plainly of this kind is left to the full parser, which has seen none of
it: other versions, 1xx, 204, 304, every Transfer-Encoding, `Connection` other than keep-alive, two lengths, a body longer or
shorter than the length, anything RFC 9112 does not allow.

PERF: 0.4 us for a head that came before (a service asked often says the same for a second), 1.5 for another one with five
headers, where the full parser with its call a header takes 8.
"""

from __future__ import annotations

import re

from kernel.upstream.names import CONNECTION, ENCODING, LENGTH, ResponseNames

# RFC 9112 section 4; RFC 9110 section 5.5: a value is of visible characters, spaces, tabs and obs-text.
_STATUS_LINE = re.compile(rb"HTTP/1\.1 (2[0-9]{2}|[45][0-9]{2}|30[0-35-9]) [\t\x20-\x7e\x80-\xff]*")
_FIELD_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\t\x20-\x7e\x80-\xff]*)")
_NUMBER = re.compile(rb"0|[1-9][0-9]{0,15}")
_NO_BODY = (204,)
# Long lines are rarely sent twice, and the memo is to stay small: 512 KiB at most.
_MEMO_LIMIT = 2048
_MEMO_LINE = 256
_MAX_LINES = 64
_HEADS_LIMIT = 64
_HEADS_LENGTH = 1024

# What a line is when it is not a pair to pass on.
DROPPED, UNUSUAL = -1, -2

Pair = tuple[bytes, bytes]


class QuickReader:
    """One an upstream."""

    __slots__ = ("_heads", "_lines", "_statuses", "names")

    def __init__(self, names: ResponseNames) -> None:
        self.names = names
        self._statuses: dict[bytes, int] = {}
        # A head up to its last line's end -> status, headers, content length.
        self._heads: dict[bytes, tuple[int, list[Pair], int]] = {}
        # A pair, a content length, or one of the two codes above.
        self._lines: dict[bytes, Pair | int] = {}

    def read(self, data: bytes) -> tuple[int, list[Pair], bytes] | None:
        """(status, headers to pass on, body) when `data` is exactly one plain response to a request other than HEAD."""
        end = data.find(b"\r\n\r\n")
        if end < 0:
            return None
        head = data[:end]
        known = self._heads.get(head) or self._head(head)
        if known is None:
            return None
        status, headers, length = known
        if end + 4 + length != len(data):
            return None
        return status, headers.copy(), data[end + 4 :]

    def _head(self, head: bytes) -> tuple[int, list[Pair], int] | None:
        """What a plain head says; kept for the next one like it."""
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
        found = status, headers, length
        if len(head) <= _HEADS_LENGTH:
            if len(self._heads) >= _HEADS_LIMIT:
                self._heads.clear()
            self._heads[head] = found
        return found

    def _status(self, line: bytes) -> int:
        match = _STATUS_LINE.fullmatch(line)
        status = int(match[1]) if match is not None else 0
        if status in _NO_BODY:
            return 0
        if status and len(self._statuses) < _MEMO_LIMIT and len(line) < _MEMO_LINE:
            self._statuses[line] = status
        return status

    def _line(self, line: bytes) -> Pair | int:
        entry = self._judge(line)
        if len(line) < _MEMO_LINE and entry != UNUSUAL:
            if len(self._lines) >= _MEMO_LIMIT:
                self._lines.clear()  # dates and ids go by; what is sent all the time is soon back
            self._lines[line] = entry
        return entry

    def _judge(self, line: bytes) -> Pair | int:
        match = _FIELD_LINE.fullmatch(line)
        if match is None:
            return UNUSUAL
        kind = self.names[match[1]]
        value = match[2].rstrip(b" \t")
        if isinstance(kind, bytes):
            return kind, value
        if kind == LENGTH:
            return int(value) if _NUMBER.fullmatch(value) else UNUSUAL
        if kind == ENCODING or (kind == CONNECTION and value.lower() != b"keep-alive"):
            return UNUSUAL
        return DROPPED
