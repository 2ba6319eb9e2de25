"""A look at a request's body before whoever it is for reads it."""

from __future__ import annotations

from asyncio import timeout

from kernel.exchange.asgi import Message
from kernel.exchange.exchange import Exchange
from kernel.http.problems import BODY_TIMEOUT, GatewayError

# RFC 9110 section 15.5.9: the rest of the body is not waited for.
_TOO_SLOW = BODY_TIMEOUT(headers=((b"connection", b"close"),))


async def peek(x: Exchange, most: int, seconds: float) -> bytes | None:
    """The whole body, None when it has more than `most` bytes or ended too soon. It is read again by whoever comes next.

    Raises:
        GatewayError: BODY_TIMEOUT, when it took longer than `seconds`.
    """
    if not x.has_body:
        return b""
    if x.content_length > most:
        return None
    receive = x.receive
    seen: list[Message] = []
    parts: list[bytes] = []
    size = 0
    whole = False
    try:
        async with timeout(seconds):
            while not whole and size <= most:
                message = await receive()
                seen.append(message)
                if message["type"] == "http.disconnect":
                    break
                parts.append(message.get("body", b""))
                size += len(parts[-1])
                whole = not message.get("more_body", False) or size == x.content_length
    except TimeoutError:
        raise GatewayError(_TOO_SLOW) from None
    again = iter(seen)

    async def replay() -> Message:
        for message in again:
            return message
        return await receive()

    x.receive = replay
    return b"".join(parts) if whole and size <= most else None
