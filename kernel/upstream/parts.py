"""Parts: how much of a large answer is read at a time, and passed on as one part.

What a client does not read lies with the server in front: eight parts (its queue has four, the rest waits before and after)
and 64 KiB. uvloop reads 256 KB at a time: 2 MiB for each such client. Parts of 16 KB make it 200 KiB, but cost twice the
time: each is a round trip to the server's thread. A stream of HTTP/2 takes 100 KiB more by itself, so its small parts are of
10 KB: 230 KiB. So parts are small

- in answers longer than 1 MiB, until more has been passed on than the kernel takes for a client that does not read;
- in a crowd: of many answers under way, or of fewer that go slowly. 8 slow ones hold 17 MiB, 24 14, 200 40.

PERF: 1 MiB takes 0.9 ms of CPU in parts of 256 or 128 KB, 1.1 in 64, 1.6 in 16.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

# The size of a part, and the largest crowd it is for. PERF: of powers of two the allocator makes a page more each.
_SIZES = ((256_000, 32), (128_000, 64), (64_000, 96), (32_000, 128))
_LARGEST, _SMALLEST, _SMALLEST_HTTP2 = 256_000, 16_000, 10_000
# One that goes slowly counts for so many.
_WEIGHT = 4
_SHORT_BYTES = 1024 * 1024
# Linux: a socket's send buffer (tcp_wmem) grows to 4 MiB.
_PROOF_BYTES = 4 * 1024 * 1024


class Parts:
    """One a worker. All that is read from services in parts is read into one `buffer`, and taken from there at once.

    Of the answers under way `bodies` is the number, `slow` that of those that have been for some time.
    """

    __slots__ = ("_views", "bodies", "buffer", "slow", "smallest", "smallest_http2")

    def __init__(self) -> None:
        self.bodies = 0
        self.slow = 0
        self.buffer = memoryview(bytearray(_LARGEST))
        self.smallest = self.buffer[:_SMALLEST]
        self.smallest_http2 = self.buffer[:_SMALLEST_HTTP2]
        self._views = [(self.buffer[:size], most) for size, most in _SIZES]

    def view(self) -> memoryview:
        """Where the next part of a client that reads is read into: it has the size of one."""
        crowd = max(self.bodies, _WEIGHT * self.slow)
        return next((view for view, most in self._views if crowd <= most), self.smallest)


class Receiver(Protocol):
    """What reads: a connection."""

    def data_received(self, data: bytes) -> None: ...

    def eof_received(self) -> None: ...

    def connection_lost(self, exc: Exception | None) -> None: ...

    def pause_writing(self) -> None: ...

    def resume_writing(self) -> None: ...


class PartReader(asyncio.BufferedProtocol):
    """Stands in for `receiver` while it takes a large answer, of `length` bytes if that is known; `http2`: for such a client.

    PERF: for that only: a read by way of it takes 0.45 us more.
    """

    def __init__(self, receiver: Receiver, parts: Parts, length: int | None, *, http2: bool = False) -> None:
        self._receiver = receiver
        self._parts = parts
        self._smallest = parts.smallest_http2 if http2 else parts.smallest
        self._left = 0 if length is not None and length <= _SHORT_BYTES else _PROOF_BYTES

    def view(self) -> memoryview:
        """Where the next part is read into."""
        view = self._smallest if self._left > 0 else self._parts.view()
        return self._smallest if view is self._parts.smallest else view

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.view()

    def buffer_updated(self, nbytes: int) -> None:
        self._left -= nbytes
        self._receiver.data_received(bytes(self._parts.buffer[:nbytes]))

    def eof_received(self) -> None:
        self._receiver.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._receiver.connection_lost(exc)

    def pause_writing(self) -> None:
        self._receiver.pause_writing()

    def resume_writing(self) -> None:
        self._receiver.resume_writing()
