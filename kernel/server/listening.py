"""Whether the gateway can listen where it is told to, found out before anything is started for it."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import socket
import struct
import sys
from itertools import starmap

from kernel.http.addresses import in_url

_REMEDIES = {
    errno.EADDRINUSE: "Stop the program that listens there (`ss -ltnp` names it), or set another PORT.",
    errno.EACCES: "Ports below 1024 need the capability CAP_NET_BIND_SERVICE; or set another PORT.",
    errno.EADDRNOTAVAIL: "HOST must be an address of this machine, or 0.0.0.0 for all of them.",
    errno.EAFNOSUPPORT: "This machine has no IPv6: set HOST=0.0.0.0.",
}
# Of <asm-generic/socket.h> and <linux/filter.h>: a program that takes what is no SYN, or a SYN with its ACK.
_ATTACH_FILTER, _DETACH_FILTER = 26, 27
_NO_SYN = (
    (0x30, 0, 0, 13),  # load the flags of the TCP header
    (0x54, 0, 0, 0x12),  # of these SYN and ACK
    (0x15, 0, 1, 0x02),  # SYN alone?
    (0x06, 0, 0, 0),  # dropped
    (0x06, 0, 0, 0xFFFFFFFF),  # taken
)


class CannotListen(RuntimeError):
    """The message says where, why and what to do."""


def claim(host: str, port: int) -> bool:
    """Try `host` (an IP address) and `port` as the workers will; whether others listen there too, and share it.

    Raises:
        CannotListen: it is taken, not allowed, or not of this machine.
    """
    try:
        probe(host, port)
    except OSError as error:
        if error.errno == errno.EADDRINUSE and _can_share(host, port):
            return True
        remedy = _REMEDIES.get(error.errno or 0, "Set another HOST or PORT.")
        raise CannotListen(f"cannot listen on {in_url(host)}:{port}: {error.strerror}. {remedy}") from None
    return False


def _can_share(host: str, port: int) -> bool:
    """Whether those who listen there have SO_REUSEPORT, as a gateway's workers have."""
    try:
        probe(host, port, shared=True)
    except OSError:
        return False
    return True


def probe(host: str, port: int, *, shared: bool = False) -> int:
    """Bind there, alone or with others, and let go of it; the port, a free one for 0. Raises OSError."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind((host, port))
        bound: int = listener.getsockname()[1]
        return bound


def hold_off(listener: int) -> bool:
    """Let nobody in any more at a listening socket's descriptor, but for those who are at the door; False: not possible here.

    Whoever the kernel has let in is in the socket's queue, and closed with it: a request that has been written is lost. So
    requests for a connection are dropped first (Linux): who repeats one, a second later, is refused by then.
    """
    if not sys.platform.startswith("linux"):
        return False
    instructions = ctypes.create_string_buffer(b"".join(starmap(struct.Struct("=HBBI").pack, _NO_SYN)))
    program = struct.pack("HP", len(_NO_SYN), ctypes.addressof(instructions))
    with socket.socket(fileno=os.dup(listener)) as shared, contextlib.suppress(OSError):
        shared.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, program)
        return True
    return False


def let_in(listener: int) -> None:
    """The end of `hold_off`: where others have the same socket, they go on with it."""
    with socket.socket(fileno=os.dup(listener)) as shared:
        shared.setsockopt(socket.SOL_SOCKET, _DETACH_FILTER, 0)
