"""Upload: a request's body on its way to a service.

SECURITY: whoever sends slowly is to hold no connection to a service. A small body is read whole before one is taken; a
longer one is streamed while the response is awaited, with back-pressure both ways, and only half of the connections
(`Pool.uploads`) are for such.
"""

from __future__ import annotations

import asyncio
from asyncio import timeout as limit
from collections.abc import Awaitable

from kernel.exchange.asgi import Message
from kernel.exchange.exchange import Exchange
from kernel.http.problems import BAD_REQUEST, BODY_TIMEOUT, UPSTREAM_TIMEOUT, GatewayError
from kernel.upstream.balance import Upstream
from kernel.upstream.http1 import Connection
from kernel.upstream.response import COMPLETE, HEAD

# RFC 9110 section 15.5.9: the rest of the body is not waited for.
TOO_SLOW = BODY_TIMEOUT(headers=((b"connection", b"close"),))

_SMALL = 16 * 1024
# So many seconds a body of unknown length may take to be known as a small one.
_SOON = 0.1


async def beginning(x: Exchange, upstream: Upstream) -> bytes:
    """The whole body if it is small, else what came of it first; `x.body_done` tells.

    Raises:
        GatewayError: it is too large, too slow, or not as long as announced. ClientGone.
    """
    sweeper = upstream.sweeper
    length = x.content_length
    try:
        with sweeper.timeouts.limit(sweeper.now, upstream.body_timeout):
            body = await x.read()
            if not x.body_done and length <= _SMALL:
                body = await _gather(x, body)
    except TimeoutError:
        raise GatewayError(TOO_SLOW) from None
    if x.body_done and length >= 0:
        _judge(length - len(body))
    return body


async def _gather(x: Exchange, first: bytes) -> bytes:
    """`first`, and what follows up to `_SMALL` bytes; of a body of unknown length, what follows soon."""
    parts = [first]
    size = len(first)
    now = asyncio.get_running_loop().time
    end = now() + _SOON
    while not x.body_done and size < _SMALL and (x.content_length >= 0 or await _more(x, end - now())):
        parts.append(await x.read())
        size += len(parts[-1])
    return b"".join(parts)


async def _more(x: Exchange, seconds: float) -> bool:
    """Whether something comes within `seconds`. It is for the next read in any case: nothing is lost."""
    receive = x.receive
    coming = asyncio.ensure_future(receive())

    def resume() -> Awaitable[Message]:
        x.receive = receive
        return coming

    x.receive = resume
    await asyncio.wait((coming,), timeout=max(seconds, 0))
    return coming.done()


def _judge(left: int) -> None:
    """Refuse a body that is not as long as its Content-Length."""
    if left < 0:
        # SECURITY: the surplus would be the next request on the service's connection (smuggling).
        raise GatewayError(BAD_REQUEST("The body is longer than its Content-Length."))
    if left > 0:
        raise GatewayError(BAD_REQUEST("The body is shorter than its Content-Length."))


class Upload:
    """The rest of a body, after `first` has been read. Starts at once; `close` must be called.

    The client must send within `upstream.body_timeout` seconds, the service must take within `upstream.idle_timeout`; the
    `timeout` for the response's head begins when the body has ended.
    """

    CHUNKED = b"transfer-encoding: chunked\r\n\r\n"

    __slots__ = ("_chunked", "_connection", "_ended", "_task", "_timeout", "_upstream", "_x")

    def __init__(
        self, x: Exchange, connection: Connection, first: bytes, upstream: Upstream, timeout: float
    ) -> None:
        self._x = x
        self._connection = connection
        self._upstream = upstream
        self._timeout = timeout
        self._chunked = x.content_length < 0
        self._ended = False
        self._task = asyncio.get_running_loop().create_task(self._run(first))

    def close(self) -> bool:
        """Stop; True when the whole body has been sent."""
        self._task.cancel()
        return self._ended

    async def _run(self, data: bytes) -> None:
        try:
            await self._send(data)
        except GatewayError as error:
            self._connection.fail(error)

    async def _send(self, data: bytes) -> None:
        x, connection, upstream = self._x, self._connection, self._upstream
        left = x.content_length if x.content_length >= 0 else None
        while data:
            if connection.closed or connection.stage == COMPLETE:
                return  # an early response: the rest is of no use to anybody
            if left is not None:
                left -= len(data)
                if left < 0:
                    _judge(left)
            connection.write(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)
            try:
                async with limit(upstream.idle_timeout):
                    await connection.drain()
            except TimeoutError:
                raise GatewayError(UPSTREAM_TIMEOUT("it stopped taking the request's body")) from None
            try:
                async with limit(upstream.body_timeout):
                    data = await x.read()
            except TimeoutError:
                raise GatewayError(TOO_SLOW) from None
        if left:
            _judge(left)
        if self._chunked:
            connection.write(b"0\r\n\r\n")
        self._ended = True
        if connection.stage == HEAD:
            connection.deadline = upstream.sweeper.now + self._timeout
