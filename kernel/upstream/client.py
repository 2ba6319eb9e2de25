"""ServiceClient: the gateway's own calls to its services, small, buffered, with its own service token."""

from __future__ import annotations

from asyncio import timeout as limit
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import NamedTuple

from kernel.http.problems import UPSTREAM_BUSY, UPSTREAM_PROTOCOL, UPSTREAM_TIMEOUT, GatewayError, Problem
from kernel.upstream.balance import Replica, Upstream
from kernel.upstream.breaker import Breaker
from kernel.upstream.http1 import NEVER, Connection
from kernel.upstream.response import UNSENT

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
        self,
        service: str,
        method: str,
        target: str,
        body: bytes | None = None,
        headers: _Headers = (),
        *,
        repeatable: bool | None = None,
        probe: bool = False,
    ) -> Answer:
        """Ask `service`; `body` is JSON. A `probe` is sent whatever the breaker says, which its failure does not concern.
        An attempt takes `timeout` seconds at most; it is repeated only when an idle
               connection turned out to be closed, and only what is `repeatable`: unless that is said, a GET or HEAD.

               Raises:
                   GatewayError: no whole answer came.
        """
        upstream = self._upstreams[service]
        lines = [b"accept: application/json\r\nx-forwarded-by: bakery-gateway\r\n"]
        lines += [b"%b: %b\r\n" % pair for pair in headers]
        if self._token is not None:
            lines.append(b"authorization: Bearer %b\r\n" % self._token().encode())
        if body is not None:
            lines.append(b"content-type: application/json\r\ncontent-length: %d\r\n" % len(body))
        replica = upstream.any_replica() if probe else upstream.choose()
        head = b"".join((method.encode(), b" ", target.encode(), replica.host_line, *lines, b"\r\n"))
        data = head + (body or b"")
        breaker = Breaker() if probe else replica.breaker
        ask = partial(_exchange, upstream, replica, breaker, data, method == "HEAD", self._timeout)
        try:
            answer = await ask(replica.pool.acquire)
        except _Stale as stale:
            if not stale.unsent and not (method in {"GET", "HEAD"} if repeatable is None else repeatable):
                raise
            answer = await ask(replica.pool.fresh)
        replica.breaker.success()
        if not probe:
            upstream.answered(replica, answer.status)
        return answer


class _Stale(GatewayError):
    """An idle connection turned out to be closed: the race every keep-alive client has, and nobody's failure."""

    def __init__(self, problem: Problem, unsent: bool) -> None:
        super().__init__(problem)
        self.unsent = unsent


async def _exchange(
    upstream: Upstream,
    replica: Replica,
    breaker: Breaker,
    data: bytes,
    head_only: bool,
    seconds: float,
    take: Callable[[], Awaitable[Connection]],
) -> Answer:
    probe = breaker.begin(upstream.sweeper.now)
    connection = None
    try:
        async with limit(seconds):
            connection = await take()
            await connection.start(data, head_only, NEVER)
            if connection.error is not None:
                raise connection.error
            parts: list[bytes] = []
            size = 0
            while part := await connection.read(NEVER):
                parts.append(part)
                size += len(part)
                if size > _MAX_BODY:
                    raise GatewayError(UPSTREAM_PROTOCOL("the answer is too large"))
        return Answer(connection.status, b"".join(parts), tuple(connection.headers))
    except GatewayError as error:
        if probe:
            breaker.abandon()
        problem = error.problem.kind(f"{upstream.name}: {error.problem.detail}.", error.problem.headers)
        if connection is not None and connection.exchanges > 1 and connection.unanswered():
            raise _Stale(problem, connection.stage == UNSENT) from None
        if problem.kind is not UPSTREAM_BUSY and breaker is replica.breaker:
            upstream.failed(replica, problem.kind)
        raise GatewayError(problem) from None
    except TimeoutError:
        if breaker is replica.breaker:
            upstream.failed(replica, UPSTREAM_TIMEOUT)
        raise GatewayError(UPSTREAM_TIMEOUT(f"{upstream.name}: no answer within {seconds:g} s.")) from None
    except BaseException:
        if probe:
            breaker.abandon()
        raise
    finally:
        if connection is not None:
            replica.pool.release(connection)
