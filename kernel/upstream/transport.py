"""The pool as a transport of httpx: `httpx.AsyncClient(transport=PoolTransport())`, for calls off the hot path.

HTTP/1.1 only. Responses are streamed; hop-by-hop fields are consumed here (RFC 9110 section 7.6.1), all others pass as they
came, names in lower case. Bodies are sent while the response is awaited, so that an early answer to a large upload arrives.
"""

from __future__ import annotations

import asyncio
import ssl
from asyncio import timeout as limit
from collections.abc import AsyncIterator
from types import TracebackType

import httpx

from kernel.http.problems import (
    UPSTREAM_BUSY,
    UPSTREAM_CONNECT,
    UPSTREAM_CONNECT_TIMEOUT,
    UPSTREAM_PROTOCOL,
    UPSTREAM_RESET,
    UPSTREAM_TIMEOUT,
    GatewayError,
    ProblemKind,
)
from kernel.upstream.address import Address
from kernel.upstream.fast_response import FastResponseReader
from kernel.upstream.http1 import NEVER, Connection
from kernel.upstream.pool import Pool, PoolLimits, Sweeper
from kernel.upstream.response import COMPLETE, UNSENT
from kernel.upstream.response_headers import TransportHeaders

_ERRORS: dict[ProblemKind, type[httpx.TransportError]] = {
    UPSTREAM_CONNECT: httpx.ConnectError,
    UPSTREAM_CONNECT_TIMEOUT: httpx.ConnectTimeout,
    UPSTREAM_BUSY: httpx.PoolTimeout,
    UPSTREAM_TIMEOUT: httpx.ReadTimeout,
    UPSTREAM_RESET: httpx.RemoteProtocolError,
    UPSTREAM_PROTOCOL: httpx.RemoteProtocolError,
}
_IDEMPOTENT = frozenset({"GET", "HEAD", "PUT", "DELETE", "OPTIONS"})
_Origin = tuple[str, str, int]


class PoolTransport(httpx.AsyncBaseTransport):
    """One pool an origin, at most `max_connections` each. Make it in the loop that uses it.

    `verify` is a TLS context (default: the system's authorities), `uds` the path of a unix socket for every request. Timeouts
    are the request's own (connect, read, write, pool). Raises httpx's transport errors, httpx.UnsupportedProtocol.
    """

    def __init__(
        self,
        *,
        max_connections: int = 100,
        keepalive: float = 30.0,
        verify: ssl.SSLContext | None = None,
        uds: str | None = None,
    ) -> None:
        forever = 365 * 86_400.0  # the request's own timeouts count
        self._limits = PoolLimits(
            max_connections=max_connections,
            max_waiting=100_000,
            queue_timeout=forever,
            connect_timeout=forever,
            keepalive=keepalive,
        )
        self._verify = verify
        self._uds = uds
        self._reader = FastResponseReader(TransportHeaders())
        self._pools: dict[_Origin, Pool] = {}
        self._sweeper: Sweeper | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """The response to `request`, its body still to be read."""
        pool = self._pool(request.url)
        times = request.extensions.get("timeout", {})
        repeatable = request.method in _IDEMPOTENT and _bodiless(request)
        while True:
            connection = await _acquire(pool, times, request)
            body: _Body | None = None
            used = connection.exchanges
            try:
                body = _Body(pool, connection, request, times)
                await body.begin()
                return httpx.Response(
                    connection.status,
                    headers=connection.headers,
                    stream=body,
                    extensions={"http_version": b"HTTP/1.1"},
                )
            except BaseException as error:
                stale = used > 0 and isinstance(error, httpx.RemoteProtocolError) and connection.unanswered()
                again = repeatable or connection.stage == UNSENT
                if body is not None:
                    await body.aclose()
                if stale and again:
                    continue  # closed while it was idle: the race every keep-alive client has
                raise

    async def aclose(self) -> None:
        """Close idle connections now, busy ones when their responses are."""
        for pool in self._pools.values():
            await pool.close()
        self._pools.clear()
        if self._sweeper is not None:
            self._sweeper.close()
            self._sweeper = None

    async def __aenter__(self) -> PoolTransport:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        await self.aclose()

    def _pool(self, url: httpx.URL) -> Pool:
        if url.scheme not in {"http", "https"}:
            raise httpx.UnsupportedProtocol(f"Request URL has an unsupported protocol '{url.scheme}://'.")
        tls = url.scheme == "https"
        origin = (url.scheme, url.host, url.port or (443 if tls else 80))
        pool = self._pools.get(origin)
        if pool is None:
            if self._sweeper is None:
                self._sweeper = Sweeper(asyncio.get_running_loop())
            if tls and self._verify is None:
                self._verify = ssl.create_default_context()
            address = Address(origin[1], origin[2], tls, self._uds or "", origin[1])
            context = self._verify if tls else None
            pool = self._pools[origin] = Pool(address, self._limits, self._sweeper, self._reader, context)
        return pool


async def _acquire(pool: Pool, times: dict[str, float | None], request: httpx.Request) -> Connection:
    waits = pool.size >= pool.max_connections and not pool.idle
    try:
        async with limit(times.get("pool" if waits else "connect")):
            return await pool.acquire()
    except TimeoutError:
        kind = httpx.PoolTimeout if waits else httpx.ConnectTimeout
        raise kind("", request=request) from None
    except GatewayError as error:
        raise _translated(error, request) from None


class _Body(httpx.AsyncByteStream):
    """One exchange on a connection; iterated, the response's body. Closing gives the connection back."""

    def __init__(
        self, pool: Pool, connection: Connection, request: httpx.Request, times: dict[str, float | None]
    ) -> None:
        self._pool = pool
        self._connection: Connection | None = connection
        self._request = request
        self._read = times.get("read")
        self._write = times.get("write")
        self._sent = False
        self._upload: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        """Send the request; returns when the response's head is there."""
        request, connection = self._request, self._connection
        assert connection is not None
        lines = [b"%b %b HTTP/1.1\r\n" % (request.method.encode("ascii"), request.url.raw_path)]
        lines += [b"%b: %b\r\n" % pair for pair in request.headers.raw]
        lines.append(b"\r\n")
        if any(b"\n" in line[:-2] or b"\r" in line[:-2] for line in lines):
            raise httpx.LocalProtocolError("A header or the target has a line break.", request=request)
        head = b"".join(lines)
        came = connection.start(head, request.method == "HEAD", NEVER)
        if _bodiless(request) or connection.stage == UNSENT:
            self._sent = True
        else:
            self._upload = asyncio.get_running_loop().create_task(self._send(connection))
        try:
            if self._upload is not None:
                # The time to read begins when there is nothing more to write.
                await asyncio.wait({came, self._upload}, return_when=asyncio.FIRST_COMPLETED)
                if self._upload.done():
                    self._upload.result()
            async with limit(self._read):
                await came
        except TimeoutError:
            raise httpx.ReadTimeout("", request=request) from None
        if connection.error is not None:
            raise _translated(connection.error, request)

    async def _send(self, connection: Connection) -> None:
        chunked = b"chunked" in self._request.headers.get("transfer-encoding", "").lower().encode()
        stream = self._request.stream
        assert isinstance(stream, httpx.AsyncByteStream)
        async for part in stream:
            if connection.closed or connection.stage == COMPLETE:
                return
            if part:
                connection.write(b"%x\r\n%b\r\n" % (len(part), part) if chunked else part)
                try:
                    async with limit(self._write):
                        await connection.drain()
                except TimeoutError:
                    raise httpx.WriteTimeout("", request=self._request) from None
        if chunked:
            connection.write(b"0\r\n\r\n")
        self._sent = True

    async def __aiter__(self) -> AsyncIterator[bytes]:
        connection = self._connection
        while connection is not None:
            try:
                async with limit(self._read):
                    part = await connection.read(NEVER)
            except TimeoutError:
                raise httpx.ReadTimeout("", request=self._request) from None
            except GatewayError as error:
                raise _translated(error, self._request) from None
            if not part:
                return
            yield part

    async def aclose(self) -> None:
        """Give the connection back, or close it when the exchange is not over."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if self._upload is not None:
            self._upload.cancel()
            await asyncio.gather(self._upload, return_exceptions=True)
        if not self._sent:
            connection.dirty = True
        self._pool.release(connection)


def _bodiless(request: httpx.Request) -> bool:
    return "transfer-encoding" not in request.headers and request.headers.get("content-length", "0") == "0"


def _translated(error: GatewayError, request: httpx.Request) -> httpx.TransportError:
    kind = _ERRORS.get(error.problem.kind, httpx.TransportError)
    return kind(error.problem.detail, request=request)
