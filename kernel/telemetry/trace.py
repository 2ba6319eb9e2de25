"""Request ids, and W3C Trace Context (https://www.w3.org/TR/trace-context/) continued or started.

A `traceparent` that is not exactly right starts a new trace, and then the client's `tracestate` is worth nothing
either: the caller passes tracestate on only when `Tracer.child` answered.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator

_BATCH = 64
# Set the version and the variant bits of a random byte (RFC 9562 section 5.4).
_VERSION = bytes(0x40 | value & 0x0F for value in range(256))
_VARIANT = bytes(0x80 | value & 0x3F for value in range(256))
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


def _ids() -> Iterator[tuple[str, bytes]]:
    spans = _spans()
    while True:
        batch = bytearray(os.urandom(16 * _BATCH))
        batch[6::16] = batch[6::16].translate(_VERSION)
        batch[8::16] = batch[8::16].translate(_VARIANT)
        digits = batch.hex()
        raw = digits.encode()
        for at in range(0, 32 * _BATCH, 32):
            d = digits[at : at + 32]
            trace = b"00-%b-%b-01" % (raw[at : at + 32], next(spans))
            yield f"{d[:8]}-{d[8:12]}-{d[12:16]}-{d[16:20]}-{d[20:]}", trace


def _spans() -> Iterator[bytes]:
    while True:
        digits = os.urandom(8 * _BATCH).hex().encode()
        for at in range(0, 16 * _BATCH, 16):
            span = digits[at : at + 16]
            if span != b"0000000000000000":
                yield span


class RequestIds:
    """Makes version 4 UUIDs (RFC 9562) as text from batches of system randomness, each with a new trace of the same digits.

    Build one after the fork: two processes sharing a batch would give out the same ids.
    """

    __slots__ = ("new",)

    def __init__(self) -> None:
        # PERF: 0.8 us a pair; str(uuid.uuid4()) alone takes 2.5. The generator's own __next__ spares a Python call.
        self.new: Callable[[], tuple[str, bytes]] = _ids().__next__


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
