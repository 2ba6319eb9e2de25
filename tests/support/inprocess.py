"""Gateways in the test's own loop, on a real store, called over ASGI: for routes and stages without a server's help."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from handlers import FACTORIES
from kernel.app import Gateway, make_gateway
from kernel.build import build_state
from kernel.config.loading import load
from kernel.exchange.asgi import Message
from kernel.exchange.exchange import Exchange, Handler
from kernel.routing.catalog import RouteRow
from kernel.state import State
from tests.support.gateway import service_env
from tests.support.tokens import SECRET, public_pem


@dataclass
class Reply:
    """`document` is the JSON body; header names in lower case."""

    status: int = 0
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""

    @property
    def document(self) -> dict[str, Any]:
        found: dict[str, Any] = msgspec.json.decode(self.body)
        return found

    @property
    def code(self) -> str:
        """The problem's code, "" when there is none."""
        if self.status < 300 or not self.body:
            return ""
        return str(self.document.get("code", ""))

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key == name), None)


@dataclass
class Local:
    """One gateway."""

    state: State
    gateway: Gateway

    async def ask(
        self,
        method: str,
        target: str,
        token: bytes | None = None,
        body: bytes = b"",
        *,
        client: str = "192.0.2.1",
        scheme: str = "http",
        headers: Mapping[str, str] | None = None,
        subprotocols: list[str] | None = None,
        gone: asyncio.Event | None = None,
        into: Reply | None = None,
        http_version: str = "1.1",
    ) -> Reply:
        """One request, whose client leaves when it has `gone`; a GET of a path that ends in "/ws" is a WebSocket's handshake,
        `subprotocols` what it offers. What has come so far is seen in `into`."""
        path, _, query = target.partition("?")
        sent = [(b"host", b"gateway.test")]
        if token is not None:
            sent.append((b"authorization", b"Bearer " + token))
        if body and http_version == "1.1":
            sent.append((b"content-length", b"%d" % len(body)))
        sent += [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
        scope: dict[str, Any] = {
            "type": "http",
            "http_version": http_version,
            "method": method,
            "scheme": scheme,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "headers": sent,
            "client": (client, "4711"),
        }
        if path.endswith("/ws") and method == "GET":
            del scope["method"]
            scope |= {"type": "websocket", "subprotocols": subprotocols or []}
            sent.append((b"sec-websocket-key", b"dGhlIHNhbXBsZSBub25jZQ=="))
        reply = into or Reply()

        parts = iter((body,))

        async def receive() -> Message:
            for part in parts:
                return {"type": "http.request", "body": part, "more_body": False}
            await (gone or asyncio.Event()).wait()
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            if gone is not None and gone.is_set():
                return
            if message["type"].endswith("http.response.start"):
                reply.status = message["status"]
                reply.headers = [(name.decode(), value.decode()) for name, value in message["headers"]]
            else:
                reply.body += message["body"]

        await self.gateway(scope, receive, send)
        return reply


@asynccontextmanager
async def local_gateway(
    store_url: str,
    directory: Path,
    rows: tuple[RouteRow, ...] = (),
    handlers: Mapping[str, Handler] | None = None,
    **environment: str,
) -> AsyncIterator[Local]:
    """A gateway with `rows` in addition (they replace what has their pattern) and with `handlers` in place of its own."""
    nowhere = service_env("http://127.0.0.1:9")
    env = {
        **nowhere,
        "JWT_PUBLIC_KEY": public_pem(),
        "JWT_SECRET_KEY": SECRET,
        "LOG_LEVEL": "ERROR",
        **environment,
    }
    settings = load(env)
    taken = {row.pattern for row in rows}
    kept = tuple(row for row in settings.routes if row.pattern not in taken)
    settings = replace(settings, routes=(*kept, *rows))
    own = handlers or {}
    state = await build_state(settings, store_url, directory)
    try:
        gateway = make_gateway(state, lambda row: own.get(row.handler) or FACTORIES[row.handler](state, row))
        yield Local(state, gateway)
    finally:
        await state.close()
        # A closed transport lets go of its socket in the loop's next turn, which the end of a test would not wait for.
        await asyncio.sleep(0)


class _OneLane:
    """A lane that tells when the exchange is over, as the intake does; True: it needed no task."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self.ended: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def over(self, x: Exchange) -> None:
        self._gateway.finish(x)
        self.ended.set_result(True)

    def go_on(self, x: Exchange, rest: Awaitable[None]) -> None:
        task = asyncio.ensure_future(self._gateway.go_on(x, iter(()), None, rest))
        task.add_done_callback(lambda _: self.ended.set_result(False))


async def by_lane(gateway: Local, target: str, token: bytes) -> tuple[bool | None, bytes]:
    """A GET as the intake enters it: whether all of it went by callbacks (None: it was not even begun so), and its body."""
    body = b""
    taken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    taken.set_result(None)

    def send(message: Message) -> Awaitable[None]:
        nonlocal body
        body += message.get("body", b"")
        return taken

    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "raw_path": target.encode(),
        "query_string": b"",
        "headers": [(b"host", b"gateway.test"), (b"authorization", b"Bearer " + token)],
        "client": ("192.0.2.1", "4711"),
    }
    lane = _OneLane(gateway.gateway)
    rest = gateway.gateway.enter(scope, receive, send, lane)
    if rest is not None:
        await rest
        return None, body
    return await lane.ended, body
