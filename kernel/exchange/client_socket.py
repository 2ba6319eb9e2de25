"""Client sockets: what the kernel knows of a WebSocket client's connection and the server does not tell (Linux).

The server assembles messages up to 64 MiB before anybody hears of them, keeps pings to itself, and closes the connection
with its close frame, which is a reset when the client has just said something: what was not read by then is lost. A copy of
the connection's descriptor shows how much has come (TCP_INFO), and keeps it open until the client has read the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import fcntl
import os
import re
import select
import socket
import struct
import sys
import termios
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path

# struct tcp_info of <linux/tcp.h>: milliseconds since data was received, bytes received in all.
_INFO_BYTES = 136
_QUIET = struct.Struct("=I")
_QUIET_AT = 52
_RECEIVED = struct.Struct("=Q")
_RECEIVED_AT = 128
# Both struct sockaddr_in and sockaddr_in6 have the port there.
_ADDRESS_BYTES = 128
_PORT = slice(2, 4)
_STATUS = Path("/proc/self/status")
_TABLE = re.compile(rb"^FDSize:\s*([0-9]+)$", re.MULTILINE)
# So many descriptors are looked at in one turn of the loop, 0.1 ms.
_SHARE = 128
# Between two looks, 3 us each: at a socket that receives, at one amid a large message, at one that waits for the service.
_LOOK = 0.02
_LOOK_LARGE = 0.005
_LOOK_WAITING = 0.25
# What the server reads ahead, and the heads of frames. A ping with all it may carry once a second is nobody's message.
_AHEAD = 256 * 1024
_PING = 131
# From so much on, what has come is the beginning of a message, and no sign of life.
_PART = 64 * 1024
_SERVER_POLLS = 40
_POLL_SECONDS = 0.005
_READ = 256 * 1024
# Told of each arrival once. EPOLLOUT, since an arrival that the server has taken before it is asked for would not be told.
_ARRIVALS = select.EPOLLIN | select.EPOLLOUT | select.EPOLLET if sys.platform == "linux" else 0


class ClientSocket:
    """A client's connection. `close` must be called.

    `heard` tells how many messages were received, `over` is called once when more than `limit` bytes and 256 KiB have come
    that are no whole message yet.
    """

    __slots__ = (
        "_file",
        "_heard",
        "_limit",
        "_mark",
        "_messages",
        "_over",
        "_own",
        "_since",
        "_sockets",
        "_taken",
        "due",
    )

    def __init__(self, sockets: ClientSockets, own: socket.socket, file: int) -> None:
        self._sockets = sockets
        self._own = own
        # The server's descriptor: as long as it is the same connection's.
        self._file = file
        self._limit = 0
        self._messages = 0
        # Bytes that the server had taken when a message was last received, and when that was; and at the last look.
        self._mark = self._taken = self._read()[0]
        self._since = sockets.now()
        self.due = 0.0

    def fileno(self) -> int:
        return self._own.fileno()

    def watch(self, limit: int, heard: Callable[[], int], over: Callable[[], None]) -> None:
        self._limit = limit + _AHEAD
        self._heard = heard
        self._over = over
        self._sockets.watch(self)

    def quiet(self) -> float:
        """Seconds since anything came from the client, a ping for instance; not while a message is under way."""
        self.judge(self._sockets.now())
        return (
            float("inf")
            if self._pending(self._sockets.now()) > _PART
            else self._info(_QUIET, _QUIET_AT) / 1000
        )

    def judge(self, now: float) -> bool:
        """Look; False when nothing is to be seen before something comes."""
        taken, waiting = self._read()
        moved = taken != self._taken
        self._taken = taken
        messages = self._heard()
        if messages != self._messages:
            self._messages = messages
            self._mark, self._since = taken, now
        elif self._pending(now) > self._limit:
            self._over()
            return False
        if moved:
            self.due = now + (_LOOK if self._pending(now) < _AHEAD else _LOOK_LARGE)
        else:
            self.due = now + (_LOOK_WAITING if waiting else _LOOK)
        return moved or waiting > 0

    def _pending(self, now: float) -> float:
        return self._taken - self._mark - (now - self._since) * _PING

    def _read(self) -> tuple[int, int]:
        """Bytes that the server has taken, and those that wait for it."""
        received = self._info(_RECEIVED, _RECEIVED_AT)
        waiting: int = struct.unpack("i", fcntl.ioctl(self._own, termios.FIONREAD, b"\0\0\0\0"))[0]
        return received - waiting, waiting

    def _info(self, field: struct.Struct, place: int) -> int:
        info = self._own.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_BYTES)
        value: int = field.unpack_from(info, place)[0]
        return value

    async def linger(self, seconds: float) -> None:
        """After a close frame: let the client read the end, and drop what it still says, for so long at most.

        The server's side is closed first (RFC 6455 section 7.1.1), when it has no more to write.
        """
        self._sockets.forget(self)
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(seconds):
                for _ in range(_SERVER_POLLS):
                    if not self._is_server_s():
                        break
                    await asyncio.sleep(_POLL_SECONDS)
                self._own.shutdown(socket.SHUT_WR)
                while await loop.sock_recv(self._own, _READ):
                    pass
        except (TimeoutError, OSError):
            pass  # it says no more, too much, or has gone
        finally:
            self._end()

    def _is_server_s(self) -> bool:
        try:
            return os.path.sameopenfile(self._file, self._own.fileno())
        except OSError:
            return False

    def _end(self) -> None:
        with contextlib.suppress(OSError):  # it has gone
            self._own.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Let go of it; the connection is the server's alone again."""
        self._sockets.forget(self)
        self._own.close()


class ClientSockets:
    """One a worker; `port` is the local one of clients' connections.

    PERF: nothing is looked at until something comes, and then fifty times a second at most.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._loop = asyncio.get_running_loop()
        self.now = self._loop.time
        self._epoll: select.epoll | None = None
        self._watched: dict[int, ClientSocket] = {}
        self._busy: dict[int, ClientSocket] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._hint = 0

    async def reset(self, address: str, port: str) -> None:
        """Break a client's connection off, so that it cannot take it for a clean end."""
        client = await self.find(address, port)
        if client is not None:
            # The one way to have a reset sent while the server has a descriptor too: connect(2), "dissolve the association".
            ctypes.CDLL(None).connect(client.fileno(), bytes(16), 16)
            client.close()

    async def find(self, address: str, port: str) -> ClientSocket | None:
        """The connection of the client at `address` and `port`; None where the kernel does not tell."""
        if sys.platform != "linux":
            return None
        libc = ctypes.CDLL(None)
        buffer, size = ctypes.create_string_buffer(_ADDRESS_BYTES), ctypes.c_uint32()
        wanted = int(port).to_bytes(2, "big")
        length = _table()
        # New ones have the lowest free number, which is often the one after the last.
        first = self._hint % length
        for number in range(length):
            if number and not number % _SHARE:
                await asyncio.sleep(0)
            file = (first + number) % length
            size.value = _ADDRESS_BYTES
            if libc.getpeername(file, buffer, ctypes.byref(size)) or buffer.raw[_PORT] != wanted:
                continue
            found = self._take(file, address, int(port))
            if found is not None:
                self._hint = file + 1
                return found
        return None

    def _take(self, file: int, address: str, port: int) -> ClientSocket | None:
        try:
            own = socket.socket(fileno=os.dup(file))
        except OSError:
            return None  # it has just been closed
        try:
            peer = own.getpeername()
            if (
                peer[1] == port
                and own.getsockname()[1] == self._port
                and ip_address(peer[0]) == ip_address(address)
            ):
                own.setblocking(False)
                return ClientSocket(self, own, file)
        except (OSError, ValueError, IndexError):
            pass  # it has gone, or is none of TCP
        own.close()
        return None

    def watch(self, client: ClientSocket) -> None:
        if self._epoll is None:
            self._epoll = select.epoll()
            self._loop.add_reader(self._epoll.fileno(), self._came)
        self._watched[client.fileno()] = client
        self._epoll.register(client.fileno(), _ARRIVALS)  # tells of it at once, too

    def forget(self, client: ClientSocket) -> None:
        file = client.fileno()
        if self._watched.pop(file, None) is not None and self._epoll is not None:
            self._busy.pop(file, None)
            self._epoll.unregister(file)

    async def close(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
        if self._epoll is not None:
            self._loop.remove_reader(self._epoll.fileno())
            self._epoll.close()

    def _came(self) -> None:
        assert self._epoll is not None
        for file, _ in self._epoll.poll(0):
            client = self._watched.get(file)
            if client is not None and file not in self._busy:
                client.due = self.now() + _LOOK_LARGE
                self._busy[file] = client
                self._look_by(client.due)

    def _look_by(self, when: float) -> None:
        if self._timer is not None:
            if self._timer.when() <= when:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(when, self._look)

    def _look(self) -> None:
        self._timer = None
        now = self.now()
        for file, client in list(self._busy.items()):
            if client.due <= now and file in self._busy and not client.judge(now):
                self._busy.pop(file, None)
        if self._busy:
            self._look_by(max(min(client.due for client in self._busy.values()), now + _LOOK_LARGE))


def _table() -> int:
    """How many descriptors there is room for. PERF: a list of those in use stops the loop for 10 ms when they are 10,000."""
    size = _TABLE.search(_STATUS.read_bytes())
    assert size is not None
    return int(size[1])
