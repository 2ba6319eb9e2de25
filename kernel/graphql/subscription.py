"""Subscriptions: a tenant's alerts as GraphQL results, over server-sent events (the protocol of graphql-sse).

    event: next         data is a result
    event: complete     the end

SECURITY: a subscription is a request to the stream of alerts itself, by the way that every request takes: that route's
policies judge it, its guard ends it, its bounds hold. Here its frames are only said in other words.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import msgspec

from kernel.exchange.asgi import Message
from kernel.exchange.exchange import Exchange
from kernel.exchange.phase import STREAM
from kernel.graphql.documents import Refused
from kernel.graphql.execution import Result
from kernel.graphql.requests import Sender, SubRequest, failure
from kernel.http.problems import CATALOGUE, GRAPHQL_REFUSED, STREAM_SLOW, GatewayError

HEADERS = (
    (b"content-type", b"text/event-stream"),
    # no-transform: a proxy that compresses holds events back.
    (b"cache-control", b"no-cache, no-transform"),
    # nginx passes events on at once.
    (b"x-accel-buffering", b"no"),
)
COMPLETE = b"event: complete\ndata: \n\n"
_PATH = b"/api/v1/alerts/stream"
_MOST_REFUSAL = 64 * 1024

Project = Callable[[Any], Result]


def next_frame(result: Result) -> bytes:
    """One result. JSON as it is encoded here has no line ends."""
    return b"event: next\ndata: %b\n\n" % msgspec.json.encode(result)


async def subscribe(
    x: Exchange, sender: Sender, arguments: dict[str, Any], project: Project, opened: Callable[[], None]
) -> None:
    """Answer `x` with alerts until one side ends it; `opened` is called when the stream begins.

    Raises:
        Refused: a policy of the stream's did, before it began.
        GatewayError: STREAM_SLOW, the client did not read fast enough.
    """
    query = "&".join(
        f"{name}={quote(','.join(arguments[name]), safe=',')}"
        for name in ("severity", "types")
        if arguments.get(name)
    )
    relay = _Relay(x, sender.gone, project, opened)
    broken = await sender.pass_on(SubRequest("GET", _PATH, query.encode()), relay.receive, relay.send)
    if relay.refusal is not None:
        error = failure("alerts", relay.status, relay.refusal)
        raise Refused(
            CATALOGUE.get(error.extensions["code"], GRAPHQL_REFUSED),
            [{"message": error.message, "path": ["alerts"], "extensions": error.extensions}],
        )
    if broken and not sender.gone.is_set():
        raise GatewayError(STREAM_SLOW())


class _Relay:
    """The server's side of the inner request."""

    def __init__(
        self, x: Exchange, gone: asyncio.Event, project: Project, opened: Callable[[], None]
    ) -> None:
        self._x = x
        self._gone = gone
        self._project = project
        self._opened = opened
        self._given = False
        self.status = 0
        # Its body, when it is no stream.
        self.refusal: bytes | None = None

    async def receive(self) -> Message:
        if not self._given:
            self._given = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        x = self._x
        if message["type"] == "http.response.start":
            self.status = message["status"]
            if self.status != 200:
                self.refusal = b""
                return
            self._opened()
            await x.start(200, [*HEADERS])
            x.phase = STREAM
            x.forget_request()
            return
        body: bytes = message.get("body", b"")
        if self.refusal is not None:
            self.refusal += body[:_MOST_REFUSAL]
            return
        frames = b"".join(self._said(body))
        if not message.get("more_body", False):
            await x.write(frames + COMPLETE, more=False)
        elif frames:
            await x.push(frames)

    def _said(self, body: bytes) -> Iterator[bytes]:
        """`body` holds whole frames, as the stream writes them."""
        for frame in body.split(b"\n\n"):
            lines = frame.split(b"\n")
            data = b"\n".join(line[6:] for line in lines if line.startswith(b"data: "))
            if b"event: alert" in lines:
                alert = _decoded(data)
                if alert is not None:
                    yield next_frame(self._project(alert))
            elif b"event: auth-expired" in lines:
                code = str((_decoded(data) or {}).get("code", ""))
                kind = CATALOGUE.get(code, GRAPHQL_REFUSED)
                error = {"message": kind.remedy, "extensions": {"code": code, "status": kind.status}}
                yield next_frame({"errors": [error]})
            elif frame.startswith((b":", b"retry:")):
                yield frame + b"\n\n"


def _decoded(data: bytes) -> dict[str, Any] | None:
    """An alert with its severity in lower case, and itself as the field `data`."""
    try:
        alert = msgspec.json.decode(data)
    except (ValueError, RecursionError):
        return None
    if not isinstance(alert, dict):
        return None
    severity = alert.get("severity")
    return {**alert, "severity": severity.lower()} if isinstance(severity, str) else alert
