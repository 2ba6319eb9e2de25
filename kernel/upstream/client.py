"""ServiceClient: the gateway's own calls to its services, small, buffered, with its own service token."""

from __future__ import annotations

from asyncio import timeout as limit
from collections.abc import Callable, Mapping
from typing import NamedTuple

from kernel.problems import UPSTREAM_PROTOCOL, UPSTREAM_TIMEOUT, GatewayError
from kernel.upstream.balance import Upstream
from kernel.upstream.http1 import NEVER

_MAX_BODY = 1024 * 1024
_Headers = tuple[tuple[bytes, bytes], ...]


class Answer(NamedTuple):
    """A service's answer; header names in lower case."""

    status: int
    body: bytes
    headers: _Headers = ()


class ServiceClient:
    """`token()` gives the gateway's service token; None without a secret to sign one with."""

    def __init__(
        self, upstreams: Mapping[str, Upstream], token: Callable[[], str] | None, timeout: float = 5.0
    ) -> None:
        self._upstreams = upstreams
        self._token = token
        self._timeout = timeout

    async def call(
        self, service: str, method: str, target: str, body: bytes | None = None, headers: _Headers = ()
    ) -> Answer:
        """Ask `service`; `body` is JSON. The whole call takes `timeout` seconds at most and is never repeated.

        Raises:
            GatewayError: no whole answer came.
        """
        upstream = self._upstreams[service]
        try:
            async with limit(self._timeout):
                return await self._ask(upstream, method, target, body, headers)
        except TimeoutError:
            raise GatewayError(
                UPSTREAM_TIMEOUT(f"{service}: no answer within {self._timeout:g} s.")
            ) from None

    async def _ask(
        self, upstream: Upstream, method: str, target: str, body: bytes | None, headers: _Headers
    ) -> Answer:
        lines = [b"accept: application/json\r\nx-forwarded-by: bakery-gateway\r\n"]
        lines += [b"%b: %b\r\n" % pair for pair in headers]
        if self._token is not None:
            lines.append(b"authorization: Bearer %b\r\n" % self._token().encode())
        if body is not None:
            lines.append(b"content-type: application/json\r\ncontent-length: %d\r\n" % len(body))
        replica = upstream.choose()
        replica.breaker.begin()
        head = b"".join((method.encode(), b" ", target.encode(), replica.host_line, *lines, b"\r\n"))
        failed = True
        connection = None
        try:
            connection = await replica.pool.acquire()
            await connection.start(head + (body or b""), method == "HEAD", NEVER, None)
            parts: list[bytes] = []
            size = 0
            while part := await connection.read(NEVER):
                parts.append(part)
                size += len(part)
                if size > _MAX_BODY:
                    raise GatewayError(UPSTREAM_PROTOCOL(f"{upstream.name}: the answer is too large."))
            failed = False
            replica.breaker.success()
            return Answer(connection.status, b"".join(parts), tuple(connection.headers))
        finally:
            if failed:
                replica.breaker.failure(upstream.sweeper.now)
            if connection is not None:
                if not connection.complete:
                    connection.dirty = True
                replica.pool.release(connection)
