"""WebSocketExchange: the exchange of a WebSocket's opening request, so that it runs through the same stages as any other.

It is a GET whose refusals go out as ASGI denial responses. Once accepted, messages take the place of bodies.
"""

from __future__ import annotations

from typing import Any

from kernel.exchange.asgi import HeaderList, Message, Receive, Scope, Send
from kernel.exchange.exchange import Exchange
from kernel.http.headers import HeaderKinds

ACCEPTED = 101
# Codes that an endpoint may send (RFC 6455 section 7.4, the IANA registry); others only tell what happened locally.
_SENDABLE = frozenset({1000, 1001, 1002, 1003, *range(1007, 1015)})
_MAX_REASON = 123


class WebSocketExchange(Exchange):
    """`accept` or a refusal, then `send_message` and `close`."""

    __slots__ = ("_send_raw", "close_code")

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        kinds: HeaderKinds,
        ids: tuple[str, bytes, bytes],
        baseline: HeaderList,
    ) -> None:
        scope["method"] = "GET"
        super().__init__(scope, receive, send, kinds, ids, baseline)
        self._send_raw = send
        self.send = self._deny
        self.close_code = 1006
        # It has no body, whatever its head says.
        self.has_body = False
        self.body_done = True

    async def _deny(self, message: Message) -> None:
        await self._send_raw({**message, "type": f"websocket.{message['type']}"})

    async def accept(self, subprotocol: str | None) -> None:
        """Open the socket. Headers cannot be sent with it (granian)."""
        self.status = ACCEPTED
        self.response_started = True
        await self._send_raw({"type": "websocket.accept", "subprotocol": subprotocol, "headers": []})

    async def send_message(self, data: str | bytes) -> None:
        """One message, text or binary; waits while the client is slow."""
        self.sent += octets(data)
        kind = "text" if isinstance(data, str) else "bytes"
        await self._send_raw({"type": "websocket.send", kind: data})

    async def close(self, code: int, reason: str) -> None:
        """End the socket; a code that may not be sent becomes the nearest one that may."""
        code, reason = sendable(code, reason)
        await self._send_raw({"type": "websocket.close", "code": code, "reason": reason})


def octets(data: str | bytes) -> int:
    """How long a message is on the wire."""
    return len(data) if isinstance(data, bytes) or data.isascii() else len(data.encode())


def sendable(code: int | None, reason: str | None) -> tuple[int, str]:
    """What to send for a code and reason that came from the other side: no status is a normal end (1000), an abnormal one
    or nonsense a vanished peer (1001). The reason fits a close frame (RFC 6455 section 5.5)."""
    if code is None or code == 1005:
        code = 1000
    elif code not in _SENDABLE and not 3000 <= code <= 4999:
        code = 1001
    text = (reason or "").encode("utf-8", "replace")[:_MAX_REASON].decode("utf-8", "ignore")
    return code, text


def is_handshake(x: Any) -> bool:
    """Whether `x` asks for a WebSocket."""
    return isinstance(x, WebSocketExchange)
