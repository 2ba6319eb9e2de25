"""Where a capture is replayed: one server, by the gateway's own connections to services."""

from __future__ import annotations

import asyncio
import ssl
import zlib
from types import TracebackType
from typing import NamedTuple

from kernel.capture.compare import Answer
from kernel.capture.resend import Outgoing, as_text
from kernel.http.problems import GatewayError
from kernel.telemetry.metrics import UpstreamMeter
from kernel.upstream.attempt import IDEMPOTENT, Attempt
from kernel.upstream.balance import Upstream
from kernel.upstream.http1 import NEVER, Connection
from kernel.upstream.pool import PoolLimits, Sweeper
from kernel.upstream.response import COMPLETE
from kernel.upstream.response_headers import TransportHeaders

_FOREVER = 365 * 86_400.0
_MAX_BODY = 16 * 1024 * 1024
_KEEPALIVE_SECONDS = 4.0
_BODILESS = frozenset({"GET", "HEAD", "OPTIONS", "DELETE"})


class Unanswered(NamedTuple):
    """No answer came: why, and whether nobody was there at all."""

    why: str
    unreached: bool


class Target:
    """Requests to `url`, on at most `connections` connections; make it in the loop that uses it.

    Each request takes `seconds` at most, its answer's body included.
    """

    def __init__(self, url: str, connections: int, seconds: float, tls: ssl.SSLContext | None) -> None:
        self._sweeper = Sweeper(asyncio.get_running_loop())
        self._seconds = seconds
        limits = PoolLimits(
            max_connections=connections,
            max_waiting=connections,
            queue_timeout=_FOREVER,
            connect_timeout=seconds,
            keepalive=_KEEPALIVE_SECONDS,
        )
        self._upstream = Upstream(
            "target", (url,), self._sweeper, limits, UpstreamMeter(), tls=tls, headers=TransportHeaders()
        )

    async def __aenter__(self) -> Target:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        await self._upstream.close()
        self._sweeper.close()

    async def ask(self, request: Outgoing) -> Answer | Unanswered:
        """The answer to `request`; one that may not be repeated is written once at most."""
        attempt = Attempt(self._upstream, request.method in IDEMPOTENT, bool(request.body), probe=True)
        connection: Connection | None = None
        try:
            async with asyncio.timeout(self._seconds):
                while True:
                    try:
                        connection = attempt.take_idle() or await attempt.acquire()
                        await attempt.send(_written(attempt, request), request.method == "HEAD", NEVER)
                        if connection.error is not None:
                            raise connection.error
                        break
                    except GatewayError as error:
                        if not attempt.failed(error.problem.kind, in_hand=True):
                            raise
                attempt.answered()
                return await _answer(connection)
        except TimeoutError:
            return Unanswered(f"no answer within {self._seconds:g} s", False)
        except GatewayError as error:
            return Unanswered(error.problem.detail, not attempt.asked)
        finally:
            attempt.give_back()


def _written(attempt: Attempt, request: Outgoing) -> bytes:
    method = request.method.encode()
    lines = b"".join(b"%b: %b\r\n" % pair for pair in request.headers)
    framing = b"\r\n"
    if request.body or request.method not in _BODILESS:
        framing = b"content-length: %d\r\n\r\n" % len(request.body)
    return b"".join((method, b" ", request.target, attempt.replica.host_line, lines, framing, request.body))


async def _answer(connection: Connection) -> Answer:
    parts: list[bytes] = []
    size = 0
    while part := await connection.read(NEVER):
        parts.append(part)
        size += len(part)
        if size > _MAX_BODY:
            break  # the connection is closed: its answer is not over
    cut = connection.stage != COMPLETE
    headers = tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in connection.headers)
    body = b"".join(parts)
    packing = next((value.strip().lower() for name, value in headers if name == "content-encoding"), "")
    if packing == "gzip":
        unpacker = zlib.decompressobj(32 + zlib.MAX_WBITS)
        try:
            body = unpacker.decompress(body, _MAX_BODY)
        except zlib.error:
            return Answer(connection.status, headers, None)
        cut = cut or bool(unpacker.unconsumed_tail)
    elif packing not in ("", "identity"):
        return Answer(connection.status, headers, None)
    return Answer(connection.status, headers, as_text(body), cut)
