"""Idle connections: ends client connections on which nothing is said, so that whoever opens many takes no place.

granian looks at the first bytes of a connection to tell HTTP/2 from HTTP/1.1, and waits for them without end; the same goes
for an HTTP/2 connection between two requests. The kernel knows how long each has been silent (TCP_INFO, Linux).
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import re
import socket
import struct
import sys
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path

# struct tcp_info of <linux/tcp.h>: state at 0, milliseconds since data was sent and received, bytes received in all.
_INFO_BYTES = 136
_QUIET = struct.Struct("=I4xI")
_QUIET_AT = 44
_RECEIVED = struct.Struct("=Q")
_RECEIVED_AT = 128
_ESTABLISHED = b"\x01"
# The preface of HTTP/2 (RFC 9113 section 3.4); no request of HTTP/1 that takes long is shorter.
_PREFACE_BYTES = 24
_STATUS = Path("/proc/self/status")
_TABLE = re.compile(rb"^FDSize:\s*([0-9]+)$", re.MULTILINE)
# So many are looked at in one turn of the loop, 0.3 ms.
_SHARE = 128
_PAUSE = 0.01

SILENT, IDLE = "silent", "idle"


class IdleConnections:
    """One a worker. `closed` counts what it ended, by reason.

    Args:
        loop: where it runs.
        port: the local port of clients' connections; all others are left alone.
        first: seconds until a connection must have said what it speaks.
        idle: seconds that nothing may pass in either direction; longer than any request, stream or socket may be silent.
        report: told how many a look has ended, by reason, if any.
    """

    __slots__ = (
        "_first",
        "_getsockopt",
        "_idle",
        "_info",
        "_loop",
        "_port",
        "_report",
        "_size",
        "_timer",
        "closed",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        port: int,
        first: float,
        idle: float,
        report: Callable[[Mapping[str, int]], None],
    ) -> None:
        self.closed = {SILENT: 0, IDLE: 0}
        self._loop = loop
        self._port = port
        self._first = first * 1000
        self._idle = idle * 1000
        self._report = report
        self._info = ctypes.create_string_buffer(_INFO_BYTES)
        self._size = ctypes.c_uint32()
        self._getsockopt = ctypes.CDLL(None).getsockopt
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Look twice within the shorter time, where the kernel tells (Linux)."""
        if sys.platform.startswith("linux"):
            self._wait()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wait(self) -> None:
        self._timer = self._loop.call_later(max(0.25, min(self._first, self._idle) / 2000), self._begin)

    def _begin(self) -> None:
        # PERF: the size of the table of descriptors; a list of the 10,000 in it stops the loop for 10 ms.
        size = _TABLE.search(_STATUS.read_bytes())
        assert size is not None
        self._look(iter(range(int(size[1]))), dict(self.closed))

    def _look(self, files: Iterator[int], before: Mapping[str, int]) -> None:
        share = list(islice(files, _SHARE))
        for file in share:
            if self._judge(file):
                self._end(file)
        if len(share) == _SHARE:
            self._timer = self._loop.call_later(_PAUSE, self._look, files, before)
            return
        ended = {reason: count - before[reason] for reason, count in self.closed.items()}
        if any(ended.values()):
            self._report(ended)
        self._wait()

    def _judge(self, file: int) -> str:
        """Why the connection behind a descriptor has to go; "" when it may stay, or is none."""
        # PERF: 2 us; a socket object takes 5.
        info, size = self._info, self._size
        size.value = _INFO_BYTES
        if self._getsockopt(file, socket.IPPROTO_TCP, socket.TCP_INFO, info, ctypes.byref(size)):
            return ""
        if size.value < _INFO_BYTES or info[0] != _ESTABLISHED:
            return ""
        sent, received = _QUIET.unpack_from(info, _QUIET_AT)
        quiet = min(sent, received)
        if quiet > self._idle:
            return IDLE
        if quiet > self._first and _RECEIVED.unpack_from(info, _RECEIVED_AT)[0] < _PREFACE_BYTES:
            return SILENT
        return ""

    def _end(self, file: int) -> None:
        """Shut the connection down, if it is a client's; the server sees its end and lets go of it."""
        try:
            # A copy: should the server close its own in between, the number is not another connection's.
            with socket.socket(fileno=os.dup(file)) as connection:
                reason = self._judge(connection.fileno())
                if reason and connection.getsockname()[1] == self._port:
                    connection.shutdown(socket.SHUT_RDWR)
                    self.closed[reason] += 1
        except OSError:
            pass  # it has just gone by itself
