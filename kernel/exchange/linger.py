"""Linger: what becomes of a connection whose client is answered while it still sends its request.

The server closes it when the answer is complete. With bytes unread the kernel says so by a reset, which throws away what the
client has not read yet: the answer (RFC 9112 section 9.6). So the answer's last byte is held back, and what still comes is
read and dropped, until the client has sent all or is silent: one that stopped when it saw the status gets the byte then.
Over HTTP/2 the stream is reset in the same case, which some clients take for a failure (RFC 9113 section 8.1).
"""

from __future__ import annotations

import asyncio

from kernel.exchange.exchange import Exchange
from kernel.exchange.streams import Streams

# nginx: lingering_time 30 s, lingering_timeout 5 s, no limit of bytes; it need not hold anything back.
_SECONDS = 30.0
_SILENCE = 1.0
_FIRST_SILENCE = 0.5
_BYTES = 64 * 1024 * 1024
# A worker's. SECURITY: whoever fills them has their answers, and others', cut as if there were no lingering; no more.
_PLACES = 256


class Lingering:
    """One a worker. For everybody else the exchange is over: it is logged, and no request in flight."""

    __slots__ = ("_places", "_streams")

    def __init__(self, streams: Streams) -> None:
        self._places = _PLACES
        self._streams = streams

    async def wait(self, x: Exchange) -> None:
        """Read and drop what is still coming, within bounds and until a drain; then end the answer with `x.held`."""
        if self._places:
            self._places -= 1
            try:
                await self._drop(x)
            finally:
                self._places += 1
        await x.send({"type": "http.response.body", "body": x.held, "more_body": False})

    async def _drop(self, x: Exchange) -> None:
        now = asyncio.get_running_loop().time
        end = now() + _SECONDS
        left = _BYTES

        def hurry() -> None:
            nonlocal end
            end = 0.0
            limit.reschedule(end)

        try:
            async with asyncio.timeout(_FIRST_SILENCE) as limit:
                self._streams.add(hurry)
                while left > 0:
                    message = await x.receive()
                    if message["type"] == "http.disconnect" or not message.get("more_body", False):
                        return
                    left -= len(message.get("body", b""))
                    limit.reschedule(min(now() + _SILENCE, end))
        except TimeoutError:
            pass
        finally:
            self._streams.discard(hurry)
