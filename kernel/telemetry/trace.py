"""Request ids, and W3C Trace Context (https://www.w3.org/TR/trace-context/) continued or started.

A `traceparent` that is not exactly right starts a new trace, and then the client's `tracestate` is worth nothing
either: the caller passes tracestate on only when `Tracer.child` answered.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain

Made = tuple[str, bytes, bytes]

_BATCH = 128
# A digit's place is an x.
_PLACE = ord("x")
_ID = b"xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx\n"
_TRACE = b"00-xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx-xxxxxxxxxxxxxxxx-01\n"
# Set the version and the variant bits of a random byte (RFC 9562 section 5.4).
_VERSION = bytes(0x40 | value & 0x0F for value in range(256))
_VARIANT = bytes(0x80 | value & 0x3F for value in range(256))
# A span's id may not be zero: its first byte is not.
_SPAN = bytes(value or 1 for value in range(256))
# Version 00 is exactly 55 bytes; a later version may go on after another dash (section 3.2.4). ff is never valid.
_TRACEPARENT = re.compile(
    rb"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-[!-~]*)?"
)
# Bits 0 (sampled) and 1 (random, level 2) have a meaning; the others are set to zero when passed on.
_FLAGS = {b"%02x" % value: b"-%02x" % (value & 3) for value in range(256)}
# A list member of tracestate (section 3.3.1.3): a simple key or tenant@system, and a value that does not end with a blank.
_MEMBER = re.compile(
    rb"(?:[a-z0-9][a-z0-9_*/-]{0,255}|[a-z0-9][a-z0-9_*/-]{0,240}@[a-z][a-z0-9_*/-]{0,13})"
    rb"=[ -+\--<>-~]{0,255}[!-+\--<>-~]"
)
_MAX_MEMBERS = 32


def sound_state(tracestate: bytes) -> bool:
    """Whether `tracestate` may be passed on: one that cannot be parsed, or has too many members, is discarded whole."""
    members = [member for each in tracestate.split(b",") if (member := each.strip(b" \t"))]
    return 0 < len(members) <= _MAX_MEMBERS and all(_MEMBER.fullmatch(member) for member in members)


def _fill(template: bytes, digits: Sequence[bytes]) -> bytes:
    """`_BATCH` copies of `template`; the first place of all of them takes `digits[0]`, the second `digits[1]`."""
    text = bytearray(template * _BATCH)
    places = [place for place, byte in enumerate(template) if byte == _PLACE]
    for place, column in zip(places, digits, strict=True):
        text[place :: len(template)] = column
    return bytes(text)


def _batches() -> Iterator[Iterable[Made]]:
    while True:
        octets = bytearray(os.urandom(24 * _BATCH))
        octets[6::24] = octets[6::24].translate(_VERSION)
        octets[8::24] = octets[8::24].translate(_VARIANT)
        octets[16::24] = octets[16::24].translate(_SPAN)
        digits: list[bytes] = []
        for at in range(24):
            column = octets[at::24].hex().encode()
            digits += column[::2], column[1::2]
        ids = _fill(_ID, digits[:32])[:-1]
        traces = _fill(_TRACE, digits)[:-1]
        yield zip(ids.decode().split("\n"), ids.split(b"\n"), traces.split(b"\n"), strict=True)


class RequestIds:
    """Makes version 4 UUIDs (RFC 9562) from batches of system randomness, as text and bytes, each with a new `traceparent` of
    the same digits.

    Build one after the fork: two processes sharing a batch would give out the same ids.
    """

    __slots__ = ("new",)

    def __init__(self) -> None:
        # PERF: 0.5 us; str(uuid.uuid4()) alone takes 2.5. Columns of a whole batch are filled at once, and an iterator of
        # iterators spares a call.
        self.new: Callable[[], Made] = chain.from_iterable(_batches()).__next__


def _spans() -> Iterator[bytes]:
    while True:
        digits = os.urandom(8 * _BATCH).hex().encode()
        for at in range(0, 16 * _BATCH, 16):
            span = digits[at : at + 16]
            if span != b"0000000000000000":
                yield span


class Tracer:
    """Makes the `traceparent` to send upstream. Build one after the fork, like `RequestIds`."""

    __slots__ = ("_span",)

    def __init__(self) -> None:
        self._span: Callable[[], bytes] = _spans().__next__

    def child(self, traceparent: bytes) -> bytes | None:
        """The client's trace with a span of our own, or None when the header is not valid.

        Always version 00, as this is the version understood here. A repeated header arrives joined by a comma and so is
        refused, as the specification demands.
        """
        found = _TRACEPARENT.fullmatch(traceparent)
        if found is None or (found[5] is not None and found[1] == b"00"):
            return None
        return b"00-" + found[2] + b"-" + self._span() + _FLAGS[found[4]]

    def start(self, request_id: str) -> bytes:
        """A new, sampled trace. Its trace id is the request id's digits, so that logs and traces find each other."""
        digits = request_id.replace("-", "")
        if len(digits) != 32 or _TRACE_ID.fullmatch(digits) is None:
            # A trusted proxy's request id need not be a UUID.
            return b"00-" + self._span() + self._span() + b"-" + self._span() + b"-01"
        return b"00-" + digits.encode() + b"-" + self._span() + b"-01"


_TRACE_ID = re.compile(r"(?!0{32})[0-9a-f]{32}")
