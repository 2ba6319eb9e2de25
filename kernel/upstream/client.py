"""ServiceClient: the gateway's own calls to its services: httpx on their pools, small, buffered, with a service token."""

from __future__ import annotations

from asyncio import to_thread
from collections.abc import Callable, Mapping
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import NamedTuple

import httpx

from kernel.http.problems import UPSTREAM_PROTOCOL, UPSTREAM_TIMEOUT, GatewayError
from kernel.upstream.balance import Upstream
from kernel.upstream.transport import PoolTransport

_MAX_BODY = 1024 * 1024
_Headers = tuple[tuple[bytes, bytes], ...]
# What httpx would say by itself of what it is and can do.
_NOT_SAID = ("accept", "accept-encoding", "connection", "user-agent")


class Answer(NamedTuple):
    """A service's answer; header names in lower case."""

    status: int
    body: bytes
    headers: _Headers = ()


class ServiceClient:
    """`token()` gives the gateway's service token; None without a secret to sign one with.

    No redirect is followed, no proxy of the environment used, no content decoded.
    """

    def __init__(
        self, upstreams: Mapping[str, Upstream], token: Callable[[], str] | None, timeout: float = 5.0
    ) -> None:
        self._upstreams = upstreams
        self._token = token
        self._timeout = timeout
        # SECURITY: httpx keeps what a service sets as a cookie and sends it with the next request, which is another client's.
        cookies = CookieJar(DefaultCookiePolicy(allowed_domains=()))
        self._http = httpx.AsyncClient(
            transport=PoolTransport(upstreams),
            cookies=cookies,
            follow_redirects=False,
            trust_env=False,
            timeout=None,  # noqa: S113  # each call has one for all of it
        )
        for name in _NOT_SAID:
            del self._http.headers[name]

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

        All of it takes `timeout` seconds at most. What is `repeatable` may be sent twice: unless that is said, a GET or HEAD.

        Raises:
            GatewayError: no whole answer came.
        """
        upstream = self._upstreams.get(service)
        if upstream is not None and upstream.document is not None:
            # Of one that speaks gRPC its document is all that is asked for, and that is made here.
            return Answer(200, await to_thread(upstream.document))
        lines = [(b"accept", b"application/json"), (b"x-forwarded-by", b"bakery-gateway"), *headers]
        if self._token is not None:
            lines.append((b"authorization", b"Bearer %b" % self._token().encode()))
        if body is not None:
            lines.append((b"content-type", b"application/json"))
        request = self._http.build_request(
            method,
            f"http://{service}/",
            content=body,
            headers=lines,
            extensions={
                "target": target.encode(),  # to the byte: httpx would normalise it
                "total": self._timeout,
                "repeatable": method in {"GET", "HEAD"} if repeatable is None else repeatable,
                "probe": probe,
            },
        )
        try:
            response = await self._http.send(request, stream=True)
            try:
                parts: list[bytes] = []
                size = 0
                async for part in response.aiter_raw():
                    parts.append(part)
                    size += len(part)
                    if size > _MAX_BODY:
                        raise GatewayError(UPSTREAM_PROTOCOL(f"{service}: the answer is too large."))
            finally:
                await response.aclose()
        except httpx.TransportError as error:
            cause = error.__cause__
            problem = cause.problem if isinstance(cause, GatewayError) else UPSTREAM_PROTOCOL(str(error))
            late = problem.kind is UPSTREAM_TIMEOUT
            detail = f"no answer within {self._timeout:g} s" if late else problem.detail
            raise GatewayError(problem.kind(f"{service}: {detail}.", problem.headers)) from None
        return Answer(response.status_code, b"".join(parts), tuple(response.headers.raw))
