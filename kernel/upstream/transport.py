"""The pools as a transport of httpx, for calls off the hot path: `httpx.AsyncClient(transport=PoolTransport(upstreams))`.

HTTP/1.1 only. Responses are streamed; hop-by-hop fields are consumed here (RFC 9110 section 7.6.1), all others pass as they
came, names in lower case. Bodies are sent while the response is awaited, so that an early answer to a large upload arrives.
"""

from __future__ import annotations

import asyncio
import ssl
from asyncio import Timeout
from collections.abc import AsyncIterator, Mapping
from types import TracebackType

import httpx

from kernel.http.problems import (
    UPSTREAM_BUSY,
    UPSTREAM_CONNECT,
    UPSTREAM_CONNECT_TIMEOUT,
    UPSTREAM_OPEN,
    UPSTREAM_PROTOCOL,
    UPSTREAM_RESET,
    UPSTREAM_TIMEOUT,
    GatewayError,
    ProblemKind,
)
from kernel.primitives.tls import client_context
from kernel.telemetry.metrics import UpstreamMeter
from kernel.upstream.attempt import IDEMPOTENT, Attempt
from kernel.upstream.balance import Upstream
from kernel.upstream.http1 import NEVER, Connection
from kernel.upstream.pool import PoolLimits, Sweeper
from kernel.upstream.response import COMPLETE
from kernel.upstream.response_headers import TransportHeaders

_ERRORS: dict[ProblemKind, type[httpx.TransportError]] = {
    UPSTREAM_OPEN: httpx.ConnectError,
    UPSTREAM_CONNECT: httpx.ConnectError,
    UPSTREAM_CONNECT_TIMEOUT: httpx.ConnectTimeout,
    UPSTREAM_BUSY: httpx.PoolTimeout,
    UPSTREAM_TIMEOUT: httpx.ReadTimeout,
    UPSTREAM_RESET: httpx.RemoteProtocolError,
    UPSTREAM_PROTOCOL: httpx.RemoteProtocolError,
}
# A body of this size goes out with its head.
_SMALL = 16 * 1024
_Origin = tuple[str, str, int]


class PoolTransport(httpx.AsyncBaseTransport):
    """Requests to `http://NAME/...` go to the upstream of that name: to its pools, under its breaker, told to its meter.

    Without `upstreams`, whose owner closes them, each origin gets one of its own with at most `max_connections`; `verify` is
    its TLS context (default: the system's authorities), `uds` the path of a unix socket for every request. Make it in the
    loop that uses it.

    Of a request's extensions count:
    - `timeout`: httpx's own limits (connect, read, write, pool);
    - `total`: seconds for all of it, its body included;
    - `repeatable`: whether it may be sent again; without it, its method decides;
    - `probe`: it is sent whatever the breaker says.

    Raises httpx's transport errors, caused by the GatewayError that tells more, and httpx.UnsupportedProtocol.
    """

    def __init__(
        self,
        upstreams: Mapping[str, Upstream] | None = None,
        *,
        max_connections: int = 100,
        keepalive: float = 4.0,
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
        self._upstreams = upstreams
        self._origins: dict[_Origin, Upstream] = {}
        self._sweeper: Sweeper | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """The response to `request`, its body still to be read."""
        limits = _Limits(request.extensions)
        repeatable = request.extensions.get("repeatable", request.method in IDEMPOTENT)
        probe = request.extensions.get("probe", False)
        try:
            upstream = self._upstream(request.url)
            attempt = Attempt(upstream, repeatable, not _bodiless(request), probe=probe)
        except GatewayError as error:
            raise _translated(error, request) from error
        while True:
            body = _Body(attempt, request, limits, self._upstreams is not None)
            try:
                connection = await body.begin()
            except GatewayError as error:
                await body.stop()
                again = attempt.failed(error.problem.kind, in_hand=body.in_hand)
                await body.aclose()
                if not again:
                    raise _translated(error, request) from error
            except BaseException:
                await body.aclose()
                raise
            else:
                return httpx.Response(
                    connection.status,
                    headers=connection.headers,
                    stream=body,
                    extensions={"http_version": b"HTTP/1.1"},
                )

    async def aclose(self) -> None:
        """Close idle connections now, busy ones when their responses are. What was given is its owner's to close."""
        for upstream in self._origins.values():
            await upstream.close()
        self._origins.clear()
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

    def _upstream(self, url: httpx.URL) -> Upstream:
        if self._upstreams is not None:
            return self._upstreams[url.host]
        if url.scheme not in {"http", "https"} or (self._uds and url.scheme == "https"):
            raise httpx.UnsupportedProtocol(f"Request URL has an unsupported protocol '{url.scheme}://'.")
        origin = (url.scheme, url.host, url.port or (443 if url.scheme == "https" else 80))
        upstream = self._origins.get(origin)
        if upstream is None:
            if self._sweeper is None:
                self._sweeper = Sweeper(asyncio.get_running_loop())
            if url.scheme == "https" and self._verify is None:
                self._verify = client_context()
            upstream = self._origins[origin] = Upstream(
                url.host,
                (f"unix://{self._uds}" if self._uds else f"{url.scheme}://{url.netloc.decode()}",),
                self._sweeper,
                self._limits,
                UpstreamMeter(),
                tls=self._verify,
                headers=TransportHeaders(),
            )
        return upstream


class _Limits:
    """How long each phase of a request may take: its own limit, and what is left of the total."""

    def __init__(self, extensions: Mapping[str, object]) -> None:
        times = extensions.get("timeout")
        self._times: Mapping[str, float | None] = times if isinstance(times, dict) else {}
        total = extensions.get("total")
        self._now = asyncio.get_running_loop().time
        self._end = self._now() + total if isinstance(total, float) else NEVER

    def of(self, phase: str) -> Timeout:
        seconds = self._times.get(phase)
        end = self._end if seconds is None else min(self._end, self._now() + seconds)
        return asyncio.timeout_at(None if end == NEVER else end)


class _Body(httpx.AsyncByteStream):
    """One exchange on a connection; iterated, the response's body. Closing gives the connection back."""

    def __init__(self, attempt: Attempt, request: httpx.Request, limits: _Limits, named: bool) -> None:
        self._attempt = attempt
        self._request = request
        self._limits = limits
        self._named = named  # the replica says which Host it is
        self._sent = False
        self._upload: asyncio.Task[None] | None = None
        self.in_hand = True

    async def begin(self) -> Connection:
        """Send the request; returns when the response's head is there. Raises GatewayError."""
        attempt, request = self._attempt, self._request
        connection = attempt.take_idle() or await self._acquire()
        data = self._head()
        head_only = request.method == "HEAD"
        if self._small():
            assert isinstance(request.stream, httpx.ByteStream)
            came = attempt.send(data + b"".join(request.stream), head_only, NEVER)
            self._sent = True
        else:
            came = attempt.send(data, head_only, NEVER)
            if attempt.written:
                self.in_hand = isinstance(request.stream, httpx.ByteStream)
                self._upload = asyncio.get_running_loop().create_task(self._send(connection))
                # The time to read begins when there is nothing more to write.
                await asyncio.wait({came, self._upload}, return_when=asyncio.FIRST_COMPLETED)
                if self._upload.done():
                    self._upload.result()
        try:
            async with self._limits.of("read"):
                await came
        except TimeoutError:
            raise GatewayError(UPSTREAM_TIMEOUT("no response head in time")) from None
        if connection.error is not None:
            raise connection.error
        attempt.answered()
        return connection

    async def stop(self) -> None:
        """Send nothing more."""
        upload, self._upload = self._upload, None
        if upload is not None:
            upload.cancel()
            await asyncio.gather(upload, return_exceptions=True)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        connection = self._attempt.connection
        while connection is not None:
            try:
                async with self._limits.of("read"):
                    part = await connection.read(NEVER)
            except TimeoutError:
                error = GatewayError(UPSTREAM_TIMEOUT("the response stalled"))
                raise _translated(error, self._request) from error
            except GatewayError as error:
                raise _translated(error, self._request) from error
            if not part:
                return
            yield part

    async def aclose(self) -> None:
        """Give the connection back, or close it when the exchange is not over."""
        await self.stop()
        connection = self._attempt.connection
        if connection is not None and not self._sent:
            connection.dirty = True
        self._attempt.give_back()

    def _small(self) -> bool:
        headers, stream = self._request.headers, self._request.stream
        length = headers.get("content-length", "0")
        small = length.isdigit() and int(length) <= _SMALL and "transfer-encoding" not in headers
        return small and isinstance(stream, httpx.ByteStream)

    async def _acquire(self) -> Connection:
        pool = self._attempt.replica.pool
        waits = pool.size >= pool.max_connections and not pool.idle
        try:
            async with self._limits.of("pool" if waits else "connect"):
                return await self._attempt.acquire()
        except TimeoutError:
            if waits:
                raise GatewayError(UPSTREAM_BUSY("no connection became free in time")) from None
            raise GatewayError(UPSTREAM_CONNECT_TIMEOUT("the connection was not accepted in time")) from None

    def _head(self) -> bytes:
        request = self._request
        target: bytes = request.extensions.get("target", request.url.raw_path)
        first = b"%b %b" % (request.method.encode("ascii"), target)
        lines = [b"%b: %b" % pair for pair in request.headers.raw if not (self._named and _is_host(pair[0]))]
        if any(b"\n" in line or b"\r" in line for line in (first, *lines)):
            raise httpx.LocalProtocolError("A header or the target has a line break.", request=request)
        first += self._attempt.replica.host_line if self._named else b" HTTP/1.1\r\n"
        return b"".join((first, *(line + b"\r\n" for line in lines), b"\r\n"))

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
                    async with self._limits.of("write"):
                        await connection.drain()
                except TimeoutError:
                    raise httpx.WriteTimeout("", request=self._request) from None
        if chunked:
            connection.write(b"0\r\n\r\n")
        self._sent = True


def _is_host(name: bytes) -> bool:
    return name.lower() == b"host"


def _bodiless(request: httpx.Request) -> bool:
    return "transfer-encoding" not in request.headers and request.headers.get("content-length", "0") == "0"


def _translated(error: GatewayError, request: httpx.Request) -> httpx.TransportError:
    kind = _ERRORS.get(error.problem.kind, httpx.TransportError)
    return kind(error.problem.detail, request=request)
