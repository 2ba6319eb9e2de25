"""Whether the gateway can listen where it is told to, found out before anything is started for it."""

from __future__ import annotations

import errno
import socket

from kernel.http.addresses import in_url

_REMEDIES = {
    errno.EADDRINUSE: "Stop the program that listens there (`ss -ltnp` names it), or set another PORT.",
    errno.EACCES: "Ports below 1024 need the capability CAP_NET_BIND_SERVICE; or set another PORT.",
    errno.EADDRNOTAVAIL: "HOST must be an address of this machine, or 0.0.0.0 for all of them.",
    errno.EAFNOSUPPORT: "This machine has no IPv6: set HOST=0.0.0.0.",
}


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
