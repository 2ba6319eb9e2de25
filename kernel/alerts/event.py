"""Alerts on the wire: the payload that the store keeps, and the frames of an event stream (WHATWG HTML section 9.2).

A frame is a block of `field: value` lines and an empty line. An `id` alone is a block too: a browser takes it as its last
event id without telling the page.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterable, Iterator

import msgspec
from msgspec import Struct

from kernel.store.alertlog import Position

# An empty comment: bytes on the wire that mean nothing.
HEARTBEAT = b":\n\n"

# For `retry_frame`: a stream that breaks off by itself, and one that ends because its worker does.
RETRY_USUAL = (2000, 4000)
RETRY_DRAINED = (200, 5000)


class Payload(Struct, array_like=True, frozen=True):
    """An alert as recorded. `data` is the publisher's JSON on one line; `severity` is lower-case, "" when there is none."""

    key: str
    severity: str
    type: str
    data: bytes


encode_payload = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(Payload)


class Event:
    """A recorded alert, encoded for the wire once for all streams of a worker."""

    __slots__ = ("frame", "position", "severity", "type")

    def __init__(self, position: Position, raw: bytes) -> None:
        """`raw` is an encoded Payload. Raises ValueError."""
        payload = _decoder.decode(raw)
        self.position = position
        self.severity = payload.severity
        self.type = payload.type
        self.frame = block(b"alert", payload.data, position)


def decoded(entries: Iterable[tuple[Position, bytes]]) -> Iterator[Event]:
    """The events of what the store kept; what a stranger put there is passed over."""
    for position, raw in entries:
        with contextlib.suppress(ValueError):
            yield Event(position, raw)


def payload_key(raw: bytes) -> str:
    """The alert id of an encoded Payload. Raises ValueError."""
    return _decoder.decode(raw).key


def block(event: bytes, data: bytes, position: Position | None = None) -> bytes:
    """A frame that a page is told of.

    SECURITY: every kind of line end begins another `data` line, so that nobody can end the field and forge others.
    """
    lines = b"data: " + data
    if b"\n" in data or b"\r" in data:
        lines = b"\n".join(b"data: " + line for line in _lines(data))
    head = b"id: %b\n" % str(position).encode() if position is not None else b""
    return b"%bevent: %b\n%b\n\n" % (head, event, lines)


def _lines(data: bytes) -> list[bytes]:
    return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")


def id_frame(position: Position) -> bytes:
    """The position alone."""
    return b"id: %b\n\n" % str(position).encode()


def retry_frame(bounds: tuple[int, int]) -> bytes:
    """How many milliseconds a client is to wait before it connects again: drawn anew for each, for the clients of one
    worker must not come back in step."""
    return b"retry: %d\n\n" % random.randint(*bounds)  # noqa: S311


def reset_frame(reason: str, position: Position) -> bytes:
    """What a client knows of the alerts has a gap that cannot be filled. See `kernel.alerts.client`."""
    return block(b"reset", b'{"reason":"%b"}' % reason.encode(), position)


def expired_frame(code: str) -> bytes:
    """The stream ends because its identity has lost its rights; `code` is that of the problem a request would get."""
    return block(b"auth-expired", b'{"code":"%b"}' % code.encode())
