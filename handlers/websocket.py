"""WebSocket: a socket that every policy admitted, joined to one of its service.

The service is asked before the client is accepted, so that its refusal, or its absence, is an HTTP answer. Then messages pass
both ways, each waiting for a slow receiver. Either side's close code and reason reach the other; a service that vanishes is
1014 (bad gateway), a drain 1012, a lost right 4401, a lock 4403, silence 1001, a message too large 1009.
"""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import TYPE_CHECKING

from kernel.exchange.client_socket import ClientSocket
from kernel.exchange.exchange import CLIENT, GATEWAY, UPSTREAM, Exchange, Handler
from kernel.exchange.phase import HANDSHAKE, WEBSOCKET
from kernel.exchange.websocket import WebSocketExchange, octets, sendable
from kernel.http.credentials import BEARER
from kernel.http.problems import OVERLOADED, PLATFORM_READ_ONLY, TENANT_READ_ONLY, ClientGone, GatewayError
from kernel.routing.catalog import RouteRow
from kernel.state import State
from kernel.traffic.forwarding import forwarded
from kernel.upstream.attempt import UNREACHED
from kernel.upstream.balance import Upstream
from kernel.upstream.request_headers import header_lines, host_line

if TYPE_CHECKING:
    from kernel.upstream.websocket import UpstreamSocket

_RETRY_LATER = ((b"retry-after", b"5"),)
_LOCKS = frozenset({TENANT_READ_ONLY.code, PLATFORM_READ_ONLY.code})
_UNAUTHORISED, _LOCKED = 4401, 4403
_NORMAL, _AWAY, _TOO_BIG, _RESTART, _BAD_GATEWAY = 1000, 1001, 1009, 1012, 1014
_NO_STATUS = 1005
_ABNORMAL = 1006
_CLOSE_SECONDS = 2.0
# What a client has to read the end and answer it: longer amid much that it sends, shorter when the gateway goes.
_LINGER_SECONDS = {_TOO_BIG: 5.0, _RESTART: 0.5}


def make(state: State, row: RouteRow) -> Handler:
    """The handler of a WebSocket row."""
    assert row.service is not None
    upstream = state.upstreams[row.asked]
    service = row.service
    settings = state.settings
    answer = row.timeout or settings.request_timeout_seconds
    sockets = state.sockets
    split = state.splits.get(row.asked)

    async def connected(x: WebSocketExchange) -> tuple[UpstreamSocket, Upstream]:
        """A socket of the service, or of its canary."""
        # Imported with the first socket: it takes 60 ms that no start should pay.
        from kernel.upstream.websocket import Times, connect  # noqa: PLC0415

        x.service = service
        chosen = split.upstream if split is not None and split.takes(x) else upstream
        lines = header_lines(x, state.tracer, refresh_token=False)
        if upstream.stand_in:
            lines = host_line(x, upstream.stand_in) + lines
        offered: list[str] = x.scope.get("subprotocols") or []
        target = x.target + b"?" + x.query if x.query else x.target
        times = Times(settings.connect_timeout_seconds, answer)
        most = settings.websocket_max_message_bytes
        if chosen is not upstream:
            assert split is not None
            x.service = chosen.name
            try:
                return await connect(chosen, target, lines, offered, most, times), chosen
            except GatewayError as error:
                if error.problem.kind not in UNREACHED:
                    raise
                split.fall_back(x, error.problem.kind)
        return await connect(upstream, target, lines, offered, most, times), upstream

    async def join(x: WebSocketExchange) -> None:
        from kernel.upstream.websocket import Refusal  # noqa: PLC0415

        x.phase = HANDSHAKE
        bearer = b"authorization" in x.captured and BEARER in _offer(x)
        began = monotonic()
        try:
            socket, of = await connected(x)
        except Refusal as refusal:
            x.ended_by = UPSTREAM
            await x.respond(refusal.status, refusal.headers, refusal.body)
            return
        except GatewayError:
            x.ended_by = UPSTREAM
            raise
        x.upstream_seconds = monotonic() - began
        of.meter.answered(101, x.upstream_seconds)
        relay = _Relay(state, x, socket)
        try:
            await relay.open(socket.subprotocol or (BEARER if bearer else None))
            await relay.run()
        finally:
            await relay.close()

    async def handle(x: Exchange) -> None:
        assert isinstance(x, WebSocketExchange)  # the handshake stage has refused all others
        if sockets.open >= settings.websocket_max_connections:
            sockets.refused += 1
            raise GatewayError(OVERLOADED("Too many sockets are open.", _RETRY_LATER))
        sockets.open += 1
        sockets.opened += 1
        # An open socket is no request in flight: it must not count towards the limit that sheds load.
        state.metrics.in_flight -= 1
        code = _NORMAL
        try:
            await join(x)
        finally:
            code = x.close_code
            state.metrics.in_flight += 1
            sockets.closed(code)

    return state.versions.counted(row, forwarded(row, handle))


def _offer(x: WebSocketExchange) -> list[str]:
    """The subprotocols the client offered, credentials included."""
    for name, value in x.scope["headers"]:
        if name == b"sec-websocket-protocol":
            return [part.strip() for part in value.decode("latin-1").split(",")]
    return []


class _Relay:
    """Messages between `x` and `socket`, until something ends them: `end` is called with what to tell both sides."""

    def __init__(self, state: State, x: WebSocketExchange, socket: UpstreamSocket) -> None:
        self._state = state
        self._x = x
        self._socket = socket
        self._idle = state.settings.websocket_idle_timeout_seconds
        self._limit = state.settings.websocket_max_message_bytes
        self._seen = monotonic()
        self._messages = 0
        self._client: ClientSocket | None = None
        self._end: asyncio.Future[tuple[int, str, str]] = asyncio.get_running_loop().create_future()

    async def open(self, subprotocol: str | None) -> None:
        """Accept the client. Raises ClientGone."""
        x = self._x
        if (await x.receive())["type"] != "websocket.connect":
            raise ClientGone("the client left during the handshake")
        if x.scope["http_version"] != "2":  # whose connection is not this socket's alone
            self._client = await self._state.client_sockets.find(*x.scope["client"])
        await x.accept(subprotocol)
        if self._client is not None:
            self._client.watch(self._limit, lambda: self._messages, self._too_big)
        x.phase = WEBSOCKET

    async def run(self) -> None:
        """Pass messages on until the end, then tell both sides."""
        state, x = self._state, self._x
        watch = None
        if x.identity is not None:
            watch = state.guard.watch(
                x.identity, x.granted, self._lost_right, locks=not x.route.row.always_writable
            )
        state.streams.add(self._drained)
        pumps = [asyncio.create_task(self._upwards()), asyncio.create_task(self._downwards())]
        try:
            code, reason, who = await self._ended()
        finally:
            state.streams.discard(self._drained)
            if watch is not None:
                watch.cancel()
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
        x.ended_by = who
        x.close_code = code
        client = self._client
        if who != CLIENT:
            try:
                # SECURITY: what makes a message too large goes on coming until then.
                async with asyncio.timeout(_CLOSE_SECONDS if code != _TOO_BIG else _CLOSE_SECONDS / 2):
                    await x.close(code, reason)
            except (TimeoutError, RuntimeError):
                pass  # it takes nothing, or has gone: the server drops it
        elif client is not None:
            client.close()  # the server ends it
            client = None
        # The server says "no status" (1005) of a client that gave none and of one that vanished: not that it was content.
        ending = self._socket.close(*(sendable(code, reason) if code != _NO_STATUS else (None, "")))
        linger = _LINGER_SECONDS.get(code, _CLOSE_SECONDS)
        await (ending if client is None else asyncio.gather(ending, client.linger(linger)))

    async def close(self) -> None:
        """Let go of both sides, however it came to the end."""
        if self._client is not None:
            self._client.close()
        await self._socket.close(_AWAY, "")

    async def _ended(self) -> tuple[int, str, str]:
        while not self._end.done():
            left = self._seen + self._idle - monotonic()
            if left <= 0 and self._client is not None:
                # A ping is a sign of life that the server keeps to itself.
                left = self._idle - self._client.quiet()
            if left <= 0:
                self._finish(_AWAY, "idle", GATEWAY)
                break
            await asyncio.wait((self._end,), timeout=left)
        return self._end.result()

    def _finish(self, code: int, reason: str, who: str) -> None:
        if not self._end.done():
            self._end.set_result((code, reason, who))

    def _too_big(self) -> None:
        self._finish(_TOO_BIG, f"over {self._limit} bytes", GATEWAY)

    def _lost_right(self, problem: str) -> None:
        self._x.problem_code = problem
        self._finish(_LOCKED if problem in _LOCKS else _UNAUTHORISED, problem, GATEWAY)

    def _drained(self) -> None:
        self._finish(_RESTART, "restart", GATEWAY)

    async def _upwards(self) -> None:
        from kernel.upstream.websocket import Closed  # noqa: PLC0415

        x, sockets = self._x, self._state.sockets
        while True:
            message = await x.receive()
            if message["type"] == "websocket.disconnect":
                self._finish(message.get("code") or _ABNORMAL, message.get("reason") or "", CLIENT)
                return
            text = message.get("text")
            data: str | bytes = text if text is not None else message["bytes"]
            size = octets(data)
            if size > self._limit:
                self._too_big()
                return
            self._messages += 1
            self._seen = monotonic()
            x.received += size
            sockets.received += 1
            try:
                await self._socket.send(data)
            except Closed:
                return  # how it ended, and what it said before, comes the other way

    async def _downwards(self) -> None:
        from kernel.upstream.websocket import Closed  # noqa: PLC0415

        x, sockets = self._x, self._state.sockets
        while True:
            try:
                data = await self._socket.receive()
            except Closed as closed:
                vanished = closed.code == _ABNORMAL
                reason = "the service vanished" if vanished else closed.reason
                self._finish(_BAD_GATEWAY if vanished else closed.code, reason, UPSTREAM)
                return
            self._seen = monotonic()
            sockets.sent += 1
            await x.send_message(data)
            self._seen = monotonic()
