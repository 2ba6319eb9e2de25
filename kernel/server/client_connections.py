"""Client connections: ends those that take a place for nothing, as the kernel sees them (TCP_INFO, Linux).

granian waits without end for the first bytes of a connection, for a TLS client's first request, for an HTTP/2 client's next,
and for one who does not read what is left of a response. A connection is closed when it
1. has brought no request within `first` seconds (SILENT). Whether it has is what the kernel has received; with TLS and
   HTTP/2, where bytes come before a request does, what the intake has noted.
2. has begun a request's head and not ended it within `first` seconds, however it trickles (SLOW_HEAD): more has come since
   anything was sent, and no request of its is in flight. Not for HTTP/2, whose clients speak between requests; nor for a
   beginning that came before the last answer, and rests: it takes no more than a connection at rest does.
3. rests for `keep` seconds between two requests, or for `idle` in the midst of one (IDLE).
4. was given up by the gateway (a response broken off, a socket that has ended), and its client does not take what was sent
   (UNREAD): `_LINGER` seconds later; while the worker stops, any whose client took nothing for a second.
Each is closed up to a quarter of `first` later.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import fcntl
import os
import re
import socket
import struct
import sys
import termios
from collections.abc import Callable, Collection, Iterator, Mapping
from ipaddress import ip_address
from itertools import islice
from pathlib import Path

# struct tcp_info of <linux/tcp.h>: state at 0, milliseconds since data was sent and received, bytes received in all.
_INFO_BYTES = 136
_QUIET = struct.Struct("=I4xI")
_QUIET_AT = 44
_RECEIVED = struct.Struct("=Q")
_RECEIVED_AT = 128
# ESTABLISHED, and CLOSE_WAIT: the client has said all it had to say.
_OPEN = b"\x01\x08"
# Both struct sockaddr_in and sockaddr_in6 have the port there.
_ADDRESS_BYTES = 128
_PORT = slice(2, 4)
_IPV6_BYTES = 28
_MAPPED = bytes(10) + b"\xff\xff"
# The preface of HTTP/2 (RFC 9113 section 3.4); no request of HTTP/1 that takes long is shorter.
_PREFACE_BYTES = 24
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: what is not taken yet is thrown away
_STATUS = Path("/proc/self/status")
_TABLE = re.compile(rb"^FDSize:\s*([0-9]+)$", re.MULTILINE)
# So many are looked at in one turn of the loop, 0.3 ms.
_SHARE = 128
_PAUSE = 0.01
_LINGER = 5.0
# While the worker stops: between two looks, and what a client may take to go on reading.
_STOP_PERIOD, _STOP_MS = 0.25, 1000

SILENT, SLOW_HEAD, IDLE, UNREAD = "silent", "slow-head", "idle", "unread"


class ClientConnections:
    """One a worker. `closed` counts what it ended, by reason.

    Args:
        loop: where it runs.
        port: the local port of clients' connections; all others are left alone.
        first: seconds until a connection must have brought a request.
        keep: seconds between two requests.
        idle: seconds that nothing may pass in either direction; longer than any request, stream or socket may be silent.
        report: told how many a look has ended, by reason, if any.
        noting: bytes come before a request does (TLS, HTTP/2): the intake notes in `noted` who has brought one.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        port: int,
        first: float,
        keep: float,
        idle: float,
        report: Callable[[Mapping[str, int]], None],
        *,
        noting: bool = False,
    ) -> None:
        self.closed = {SILENT: 0, SLOW_HEAD: 0, IDLE: 0, UNREAD: 0}
        # Port of a client -> the version of HTTP that it has asked by. Two clients may have the same port: it is then only as
        # if either had asked.
        self.noted: dict[str, str] | None = {} if noting else None
        self._loop = loop
        self._port = port
        self._first = first
        self._keep = keep * 1000
        self._idle = idle * 1000
        self._report = report
        self._in_flight: Callable[[], Collection[str]] = set
        self._stopping = False
        # By the client's address: when a connection without a request was first seen, and when the head of one.
        self._new: dict[bytes, float] = {}
        self._heads: dict[bytes, float] = {}
        # By the client's address, less what belongs to IPv6 alone, and port: when it was given up.
        self._given_up: dict[tuple[bytes, str], float] = {}
        # Ports and addresses that a look has come across, and ports that were noted before it: to forget all others.
        self._seen: set[str | bytes] = set()
        self._known: set[str] = set()
        self._info = ctypes.create_string_buffer(_INFO_BYTES)
        self._address = ctypes.create_string_buffer(_ADDRESS_BYTES)
        self._size = ctypes.c_uint32()
        self._libc = ctypes.CDLL(None)
        self._timer: asyncio.TimerHandle | None = None
        self._linux = sys.platform.startswith("linux")

    def start(self, in_flight: Callable[[], Collection[str]]) -> None:
        """Look four times within `first`, where the kernel tells (Linux). `in_flight`: ports of clients whose request is."""
        self._in_flight = in_flight
        if self._linux:
            self._wait()

    def ended(self, client: tuple[str, str]) -> None:
        """The gateway has broken off what it sent to a client (its address and port), or ended its socket.

        SECURITY: by the port alone, whoever breaks off on purpose would have others cut who have the same one.
        """
        if self._linux:
            with contextlib.suppress(ValueError):  # a unix socket's
                self._given_up[_packed(client[0]), client[1]] = self._loop.time()

    def hasten(self) -> None:
        """The worker stops: nobody who does not read holds it up."""
        self._stopping = True
        if self._timer is not None:
            self._timer.cancel()
            self._begin()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wait(self) -> None:
        period = _STOP_PERIOD if self._stopping else max(0.25, min(self._first, self._keep / 1000) / 4)
        self._timer = self._loop.call_later(period, self._begin)

    def _begin(self) -> None:
        # PERF: the size of the table of descriptors; a list of the 10,000 in it stops the loop for 10 ms.
        size = _TABLE.search(_STATUS.read_bytes())
        assert size is not None
        self._known = set(self.noted or ())
        self._look(iter(range(int(size[1]))), dict(self.closed), self._loop.time())

    def _look(self, files: Iterator[int], before: Mapping[str, int], began: float) -> None:
        share = list(islice(files, _SHARE))
        suspects = [file for file in share if self._judge(file)]
        if suspects:
            # A request that has just come is not in flight yet; but then its connection is not quiet.
            in_flight = self._in_flight()
            for file in suspects:
                self._end(file, in_flight)
        if len(share) == _SHARE:
            self._timer = self._loop.call_later(_PAUSE, self._look, files, before, began)
            return
        self._forget(began)
        closed = {reason: count - before[reason] for reason, count in self.closed.items()}
        if any(closed.values()):
            self._report(closed)
        self._wait()

    def _forget(self, began: float) -> None:
        """Let go of what is known of connections that are gone; what was learnt during the look is kept."""
        seen, self._seen = self._seen, set()
        for known in (self._new, self._heads):
            for peer in [peer for peer, since in known.items() if peer not in seen and since < began]:
                del known[peer]
        for port in [port for port in self._known if port not in seen]:
            if self.noted is not None:
                self.noted.pop(port, None)
        for client in [client for client, since in self._given_up.items() if since < began - _LINGER]:
            del self._given_up[client]

    def _judge(self, file: int) -> str:
        """Why the connection behind a descriptor has to go, if no request of its is in flight; "" when it may stay."""
        # PERF: 2 us; a socket object takes 5. What follows is for few, but with TLS and HTTP/2.
        info, size = self._info, self._size
        size.value = _INFO_BYTES
        if self._libc.getsockopt(file, socket.IPPROTO_TCP, socket.TCP_INFO, info, ctypes.byref(size)):
            return ""
        if size.value < _INFO_BYTES or info[0] not in _OPEN:
            return ""
        sent, received = _QUIET.unpack_from(info, _QUIET_AT)
        quiet = min(sent, received)
        mute = quiet > self._first * 1000 and _RECEIVED.unpack_from(info, _RECEIVED_AT)[0] < _PREFACE_BYTES
        plain = self.noted is None and not self._given_up and not self._stopping
        if plain and not mute and received >= sent and quiet <= self._keep:
            return ""
        if self._port_of(self._libc.getsockname, file) != self._port:
            return ""
        port = str(self._port_of(self._libc.getpeername, file))
        peer = self._address.raw[: self._size.value]
        now = self._loop.time()
        self._seen |= {port, peer}
        if mute or self._has_not_asked(port, peer, now):
            return SILENT
        if self._is_in_head(port, peer, now, sent, received):
            return SLOW_HEAD
        if self._is_unread(file, peer, port, now, quiet):
            return UNREAD
        return IDLE if quiet > self._keep else ""

    def _has_not_asked(self, port: str, peer: bytes, now: float) -> bool:
        if self.noted is None or port in self.noted:
            return False
        return now - self._new.setdefault(peer, now) > self._first

    def _is_in_head(self, port: str, peer: bytes, now: float, sent: float, received: float) -> bool:
        if received >= sent or (self.noted is not None and self.noted.get(port) != "1.1"):
            return False
        began = self._heads.setdefault(peer, now)
        if now - sent / 1000 > began:
            self._heads[peer] = now  # it had an answer since: this is another head
            return False
        return now - began > self._first

    def _is_unread(self, file: int, peer: bytes, port: str, now: float, quiet: float) -> bool:
        given_up = self._given_up.get((_host(peer), port)) if self._given_up else None
        late = given_up is not None and now - given_up > _LINGER
        return (late or (self._stopping and quiet > _STOP_MS)) and _unread(file)

    def _port_of(self, ask: Callable[..., int], file: int) -> int:
        """The port of one end of a connection, whose whole address is then in `_address`."""
        self._size.value = _ADDRESS_BYTES
        if ask(file, self._address, ctypes.byref(self._size)):
            return 0
        return int.from_bytes(self._address.raw[_PORT], "big")

    def _end(self, file: int, in_flight: Collection[str]) -> None:
        """Shut the connection down; the server sees its end and lets go of it."""
        try:
            # A copy: should the server close its own in between, the number is not another connection's.
            with socket.socket(fileno=os.dup(file)) as connection:
                reason = self._judge(connection.fileno())
                if not reason:
                    return
                if str(connection.getpeername()[1]) in in_flight and not self._is_dead(reason):
                    return
                if reason == UNREAD:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                connection.shutdown(socket.SHUT_RDWR)
                self.closed[reason] += 1
        except OSError:
            pass  # it has just gone by itself

    def _is_dead(self, reason: str) -> bool:
        """Whether nothing has passed, in the midst of a request, for longer than anything may take."""
        return reason == IDLE and min(_QUIET.unpack_from(self._info, _QUIET_AT)) > self._idle


def _packed(address: str) -> bytes:
    """An address as bytes, IPv4 in the one way whatever the listener is. Raises ValueError."""
    parsed = ip_address(address)
    return (getattr(parsed, "ipv4_mapped", None) or parsed).packed


def _host(peer: bytes) -> bytes:
    """The same of a struct sockaddr_in or sockaddr_in6."""
    if len(peer) < _IPV6_BYTES:
        return peer[4:8]
    return peer[20:24] if peer[8:20] == _MAPPED else peer[8:24]


def _unread(file: int) -> bool:
    """Whether the client has yet to take something that was sent."""
    left: int = struct.unpack("i", fcntl.ioctl(file, termios.TIOCOUTQ, b"\0\0\0\0"))[0]
    return left > 0
