"""A raw socket client: exact bytes out, exact bytes back."""

from __future__ import annotations

import socket
from dataclasses import dataclass


@dataclass
class Reply:
    """One response, split but not interpreted beyond its framing by Content-Length or chunks."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        """The first value of `name`."""
        return next((value for key, value in self.headers if key == name.lower()), None)

    def all(self, name: str) -> list[str]:
        """Every value of `name`."""
        return [value for key, value in self.headers if key == name.lower()]


def send_raw(port: int, data: bytes, timeout: float = 5.0) -> bytes:
    """Send `data`, then read until the gateway closes or falls silent for `timeout`/5 seconds."""
    received = b""
    with socket.create_connection(("127.0.0.1", port), timeout) as sock:
        sock.sendall(data)
        sock.settimeout(timeout / 5)
        try:
            while part := sock.recv(65536):
                received += part
        except (TimeoutError, ConnectionResetError):
            pass
    return received


def parse_replies(data: bytes) -> list[Reply]:
    """Every complete response in `data`."""
    replies: list[Reply] = []
    while data:
        head, separator, data = data.partition(b"\r\n\r\n")
        if not separator:
            break
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = [
            (name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines)
        ]
        fields = dict(headers)
        if fields.get("transfer-encoding") == "chunked":
            body = b""
            while data:
                size, _, data = data.partition(b"\r\n")
                length = int(size, 16)
                body += data[:length]
                data = data[length + 2 :]
                if not length:
                    break
        else:
            length = int(fields.get("content-length", 0))
            body, data = data[:length], data[length:]
        replies.append(Reply(int(first.split()[1]), headers, body))
    return replies


def ask(port: int, data: bytes) -> Reply:
    """Send one request (it should say `Connection: close`) and return its response."""
    replies = parse_replies(send_raw(port, data))
    assert replies, "no response"
    return replies[0]


def request(
    method: str = "GET",
    target: bytes = b"/api/v1/inventory/items",
    headers: list[tuple[bytes, bytes]] | None = None,
    body: bytes = b"",
    host: bytes | None = b"gateway.test",
) -> bytes:
    """The bytes of one request that asks for the connection to be closed."""
    lines = [b"%b %b HTTP/1.1" % (method.encode(), target)]
    if host is not None:
        lines.append(b"Host: " + host)
    lines += [b"%b: %b" % pair for pair in headers or []]
    if body:
        lines.append(b"Content-Length: %d" % len(body))
    if not any(name.lower() == b"connection" for name, _ in headers or []):
        lines.append(b"Connection: close")
    return b"\r\n".join(lines) + b"\r\n\r\n" + body
