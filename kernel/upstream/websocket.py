"""The service's side of a proxied WebSocket, on the `websockets` library: connect, messages both ways, close.

Its own client follows redirects and uses proxies of the environment; only the connection and the protocol are used here.
"""

from __future__ import annotations

import asyncio
import logging
from asyncio import timeout as limit
from contextlib import suppress
from typing import NamedTuple
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection
from websockets.client import ClientProtocol
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage, InvalidStatus
from websockets.typing import Subprotocol
from websockets.uri import WebSocketURI

from kernel.http.problems import (
    UPSTREAM_CONNECT,
    UPSTREAM_CONNECT_TIMEOUT,
    UPSTREAM_PROTOCOL,
    UPSTREAM_RESET,
    UPSTREAM_TIMEOUT,
    GatewayError,
    ProblemKind,
)
from kernel.upstream.balance import Replica, Upstream
from kernel.upstream.dialing import dial
from kernel.upstream.pool import unreachable

ABNORMAL = 1006
_PING_SECONDS = 20.0
_CLOSE_SECONDS = 2.0
# Frames the library holds unread, and bytes it holds unsent, before it makes the other side wait.
_MAX_FRAMES = 4
_WRITE_BYTES = 64 * 1024
_MAX_BODY = 64 * 1024
_OWN = (b"sec-websocket-", b"host:")
# Of the refusal's headers, what describes its body.
_PASSED = frozenset({"content-type", "content-language", "retry-after", "www-authenticate"})


class Refusal(Exception):
    """The service answered the handshake with an HTTP error: the client's answer, too."""

    def __init__(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        super().__init__(f"refused with {status}")
        self.status = status
        self.headers = headers
        self.body = body


class Closed(Exception):
    """The service's side has ended. `code` is ABNORMAL when it just vanished."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"closed with {code}")
        self.code = code
        self.reason = reason


class Times(NamedTuple):
    """Seconds to connect, and to the answer to the handshake."""

    connect: float
    answer: float


class UpstreamSocket:
    """An open connection to a service."""

    __slots__ = ("_connection",)

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection

    @property
    def subprotocol(self) -> str | None:
        """The one the service chose."""
        return self._connection.subprotocol

    async def send(self, data: str | bytes) -> None:
        """One message; waits while the service is slow. Raises Closed."""
        try:
            await self._connection.send(data)
        except ConnectionClosed as error:
            raise _closed(error) from None

    async def receive(self) -> str | bytes:
        """The next message, its fragments joined. Raises Closed, after the last one."""
        try:
            return await self._connection.recv()
        except ConnectionClosed as error:
            raise _closed(error) from None

    async def close(self, code: int | None, reason: str) -> None:
        """End it, politely for two seconds; without a code, the close frame is empty."""
        try:
            async with limit(_CLOSE_SECONDS):
                await self._connection.close(code, reason)  # type: ignore[arg-type]  # it passes None on
        except TimeoutError:
            self._connection.transport.abort()


def _closed(error: ConnectionClosed) -> Closed:
    """What the service said; what we said when it broke the rules (too big, no UTF-8, no pong); or that it vanished."""
    said = (
        error.rcvd
        if error.rcvd is not None and error.rcvd_then_sent is not False
        else error.sent or error.rcvd
    )
    return Closed(said.code, said.reason) if said is not None else Closed(ABNORMAL, "")


async def connect(
    upstream: Upstream, target: bytes, lines: bytes, subprotocols: list[str], max_message: int, times: Times
) -> UpstreamSocket:
    """Open a socket at a replica of `upstream`. `lines` are header lines, those of the handshake itself are left out.

    Raises:
        GatewayError: it could not be reached, or spoke no WebSocket (502, 503, 504).
        Refusal: it answered with an HTTP error.
    """
    replica = upstream.choose()
    probe = replica.breaker.begin(upstream.sweeper.now)
    try:
        socket = await _open(upstream, replica, target, lines, subprotocols, max_message, times)
    except GatewayError as error:
        upstream.failed(replica, error.problem.kind)
        upstream.meter.failed(error.problem.kind.code)
        raise
    except Refusal as refusal:
        replica.breaker.success()
        upstream.meter.answered(refusal.status, 0.0)
        upstream.answered(replica, refusal.status)
        raise
    except BaseException:
        if probe:
            replica.breaker.abandon()
        raise
    replica.breaker.success()
    upstream.answered(replica, 101)
    return socket


async def _open(
    upstream: Upstream,
    replica: Replica,
    target: bytes,
    lines: bytes,
    subprotocols: list[str],
    max_message: int,
    times: Times,
) -> UpstreamSocket:
    def failure(kind: ProblemKind, what: str) -> GatewayError:
        return GatewayError(kind(f"{upstream.name} failed in the WebSocket handshake: {what}."))

    address = replica.pool.address
    path, _, query = target.decode("latin-1").partition("?")
    host, port = address.host, address.port or 80
    if upstream.stand_in:
        host, port = _named(lines, 443 if address.tls else 80)
    uri = WebSocketURI(address.tls, host, port, path, query)  # of which no more than Host is made
    protocol = ClientProtocol(
        uri,
        subprotocols=[Subprotocol(name) for name in subprotocols] or None,
        max_size=max_message,
        logger=_silent(),
    )

    def make() -> ClientConnection:
        return ClientConnection(
            protocol,
            ping_interval=_PING_SECONDS,
            ping_timeout=_PING_SECONDS,
            close_timeout=_CLOSE_SECONDS,
            max_queue=_MAX_FRAMES,
            write_limit=_WRITE_BYTES,
        )

    try:
        async with limit(times.connect):
            connection = await dial(make, address, replica.pool.ips, replica.pool.tls)
    except TimeoutError:
        raise failure(UPSTREAM_CONNECT_TIMEOUT, "the connection was not accepted in time") from None
    except OSError as error:
        replica.pool.blame_tls(error)
        raise failure(UPSTREAM_CONNECT, unreachable(error)) from None
    try:
        async with limit(times.answer):
            await connection.handshake(_pairs(lines), user_agent_header=None)
    except BaseException as error:
        connection.transport.abort()
        with suppress(BaseException):
            await asyncio.shield(connection.wait_closed())
        if isinstance(error, InvalidStatus):
            response = error.response
            status = response.status_code
            if 400 <= status <= 599:
                kept = [
                    (name.lower().encode(), value.encode("latin-1", "replace"))
                    for name, value in response.headers.raw_items()
                    if name.lower() in _PASSED
                ]
                body = bytes(response.body or b"")
                if len(body) > _MAX_BODY:
                    raise failure(UPSTREAM_PROTOCOL, "the body of its refusal is too large") from None
                raise Refusal(status, kept, body) from None
            raise failure(UPSTREAM_PROTOCOL, f"it answered {status}") from None
        if isinstance(error, TimeoutError):
            raise failure(UPSTREAM_TIMEOUT, "no answer in time") from None
        if isinstance(error, (EOFError, OSError)) or isinstance(error.__cause__, EOFError):
            raise failure(UPSTREAM_RESET, "the connection was closed") from None
        if isinstance(error, (InvalidHandshake, InvalidMessage)):
            raise failure(UPSTREAM_PROTOCOL, "the answer is no WebSocket's") from None
        raise
    connection.start_keepalive()
    return UpstreamSocket(connection)


def _named(lines: bytes, default: int) -> tuple[str, int]:
    """Host and port that `lines` begin with (see `host_line`)."""
    parts = urlsplit("//" + lines.partition(b"\r\n")[0].removeprefix(b"host: ").decode("latin-1"))
    return parts.hostname or "", parts.port or default


def _pairs(lines: bytes) -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    for line in lines.split(b"\r\n"):
        if line and not line.startswith(_OWN):
            name, _, value = line.partition(b": ")
            try:
                text = value.decode()
            except UnicodeDecodeError:
                text = value.decode("latin-1")
            pairs.append((name.decode("latin-1"), text))
    return pairs


def _silent() -> logging.Logger:
    """SECURITY: at DEBUG the library logs whole heads, tokens included."""
    logger = logging.Logger("websockets.silent")  # not the tree's: nobody may switch it on
    logger.disabled = True
    return logger
