"""Exchange: the one object a request has, to its access-log line; and `Route`, what was decided about it before it came.

Rules:
- Answers go out by its methods alone, so that every one of them, errors included, carries the gateway's own headers.
- Attributes are grouped by who writes them. Nothing here knows a policy; stages read and write attributes.
"""

from __future__ import annotations

from asyncio import timeout
from collections.abc import Awaitable, Callable
from contextlib import suppress
from time import perf_counter
from typing import Protocol

from kernel.exchange.asgi import HeaderList, Message, Receive, Scope, Send, Watcher
from kernel.exchange.phase import DONE, EDGE, Phase
from kernel.http.headers import HeaderKinds
from kernel.http.problems import (
    BAD_REQUEST,
    BODY_TOO_LARGE,
    CLIENT_GONE,
    ClientGone,
    GatewayError,
    Problem,
)
from kernel.identity.identity import Identity, TenantContext
from kernel.routing.catalog import RouteRow
from kernel.telemetry.metrics import RouteMeter

# Who ended an exchange, as the access log says it (HAProxy's termination state, in words).
GATEWAY, UPSTREAM, CLIENT = "gateway", "upstream", "client"
# Its Idempotency-Key is not heeded; is, and an attempt may have been written, was not, or was (see attempt.py).
UNKEYED, KEYED, UNWRITTEN, WRITTEN = 0, 1, 2, 3
_NO_STORE = (b"cache-control", b"no-store")
_PROBLEM_TYPE = (b"content-type", b"application/problem+json")
CLOSE = (b"connection", b"close")
_EMPTY = (b"content-length", b"0")
# How much of a body nobody wants is taken, and how long that may take. Over HTTP/2 curl takes an early refusal for a failure.
_REST_BYTES, _REST_BYTES_HTTP2 = 64 * 1024, 64 * 1024 * 1024
_REST_SECONDS = 1.0
# PERF: the server holds four parts of a body for a client that does not read; and how long that may take the next.
PART = 16 * 1024
_PART_SECONDS = 60.0
_BODY_BROKEN = BAD_REQUEST("The body broke off, or its chunks are malformed.")


class Exchange:
    """One HTTP request and its response.

    `lines` are the client's end-to-end headers, each `name: value CRLF`, without Host, framing, hop-by-hop fields and all
    names the gateway sets itself. `captured` maps the headers that stages read to their value; a repeated one is joined
    as RFC 9110 section 5.2 says (Cookie with "; ").
    """

    __slots__ = (
        "_dropped",
        "asked",
        "body_done",
        "cached_identity",
        "captured",
        "client_ip",
        "content_length",
        "context",
        "deposits",
        "disconnected",
        "ended_by",
        "extra",
        "grant",
        "has_body",
        "held",
        "identity",
        "keyed",
        "lane",
        "limits",
        "lines",
        "max_body",
        "method",
        "outgoing",
        "params",
        "peer_trusted",
        "phase",
        "problem_code",
        "query",
        "raw_path",
        "receive",
        "received",
        "request_id",
        "response_started",
        "route",
        "scope",
        "secure",
        "send",
        "sent",
        "service",
        "started",
        "status",
        "target",
        "tenant",
        "ticket",
        "token",
        "trace",
        "upstream_seconds",
        "watcher",
    )

    # Set by the credentials stage, on the routes that have one: no other may read it.
    ticket: bytes | None
    # Set by the callback lane for itself: when the service was asked, and its header lines.
    asked: float
    outgoing: bytes
    # Set with a lane: what the server is told the end by.
    watcher: Watcher | None

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        kinds: HeaderKinds,
        ids: tuple[str, bytes, bytes],
        baseline: HeaderList,
    ) -> None:
        # From the request.
        self.started = perf_counter()
        self.scope = scope
        self.receive = receive
        self.send = send
        self.request_id, id_bytes, self.trace = ids  # the last is the traceparent sent on
        self.method: str = scope["method"]
        # What came, and the path that the service is sent: another one on routes that rewrite.
        self.raw_path: bytes = scope["raw_path"]
        self.target: bytes = self.raw_path
        self.query: bytes = scope["query_string"]
        self.captured, self.lines, self._dropped = kinds.sort(scope["headers"])
        captured = self.captured
        self.lane: Lane | None = None
        # From the router and the stages.
        self.route: Route = None  # type: ignore[assignment]  # set before the first stage runs
        self.params: tuple[bytes, ...] = ()
        self.client_ip = ""
        self.peer_trusted = False
        self.secure = False
        self.token: bytes | None = None
        self.cached_identity: Identity | None = None
        self.identity: Identity | None = None
        self.tenant: str | None = None
        self.grant: TenantContext | None = None
        self.context = b""
        # What the limiter tells the client: X-RateLimit-Limit, -Remaining, -Reset, RateLimit-Policy, RateLimit.
        self.limits: HeaderList | None = None
        self.deposits: tuple[str, ...] = ()  # buckets that paid for a token which is yet to be judged
        # The body.
        self.max_body = self.received = 0
        self.disconnected = False
        self.content_length = -1
        # HTTP/2 needs no length: whether there is a body shows only when it is read.
        self.has_body = scope["http_version"] == "2"
        if b"content-length" in captured:
            length = captured[b"content-length"]
            self.content_length = int(length) if length.isdigit() and len(length) < 20 else -2
            self.has_body = self.has_body or self.content_length != 0
        elif b"transfer-encoding" in captured:
            self.has_body = True
            # SECURITY: the server takes any list that ends in `chunked`; passed on as plain `chunked` it would be another
            # body, or to a proxy before us another request (RFC 9112 section 6.1).
            if captured[b"transfer-encoding"].lower() != b"chunked":
                self.content_length = -2
        self.body_done = not self.has_body
        # The answer.
        self.extra: HeaderList = [(b"x-request-id", id_bytes), *baseline]
        self.status = self.sent = 0
        self.response_started = False
        self.held: bytes | None = None  # of an answer to a request whose body is still coming
        self.service = ""
        self.upstream_seconds = 0.0
        self.keyed = UNKEYED
        self.phase: Phase = DONE  # or where it ended before that
        self.ended_by = GATEWAY
        self.problem_code = ""

    @property
    def caller(self) -> Identity:
        """Who calls; after the authentication stage."""
        assert self.identity is not None
        return self.identity

    @property
    def granted(self) -> TenantContext:
        """What the caller may do in the tenant; on the same routes, after the tenancy stage."""
        assert self.grant is not None
        return self.grant

    async def read(self) -> bytes:
        """The next part of the request body; b"" at its end.

        Raises:
            GatewayError: BODY_TOO_LARGE, as soon as more than `max_body` bytes have come.
            ClientGone: the client left before its body was complete.
        """
        while not self.body_done:
            message = await self._message()
            body: bytes = message.get("body", b"")
            if not message.get("more_body", False):
                self.body_done = True
            elif self.received == self.content_length:
                # It is whole, although the server says so only with its next message.
                if self.scope["http_version"] == "2":
                    body += await self._rest()
                self.body_done = True
            if body:
                if self.received > self.max_body:
                    raise GatewayError(BODY_TOO_LARGE(f"The body has more than {self.max_body} bytes."))
                return body
        return b""

    async def _message(self) -> Message:
        message = await self.receive()
        if message["type"] == "http.disconnect":
            self.disconnected = True
            raise ClientGone("the client left before its body was complete")
        self.received += len(message.get("body", b""))
        return message

    async def _rest(self) -> bytes:
        """Wait for the end of an HTTP/2 request's stream; what comes before it is too much. An earlier response has the
        stream reset (RFC 9113 section 8.1), which clients take for a failure."""
        rest = b""
        while True:
            message = await self._message()
            part: bytes = message.get("body", b"")
            rest += part
            if self.received > self.max_body or not message.get("more_body", False):
                return rest

    async def start(self, status: int, headers: HeaderList) -> None:
        """Send the response head: `headers` (lower-case names) and the gateway's own."""
        self.status = status
        if not self.body_done and _EMPTY in headers:
            headers.remove(_EMPTY)  # complete by its head, it would have nothing to hold back
        self.response_started = True
        headers += self.extra if self.limits is None else [*self.extra, *self.limits]
        await self.send({"type": "http.response.start", "status": status, "headers": headers})

    async def write(self, chunk: bytes, more: bool) -> None:
        """Send a part of the response body; `more=False` ends it, but for a byte while the request's comes (linger.py)."""
        self.sent += len(chunk)
        if not more and not self.body_done and not self._waits():
            self.held, chunk, more = chunk[-1:], chunk[:-1], True
        await self.send({"type": "http.response.body", "body": chunk, "more_body": more})

    def _waits(self) -> bool:
        """Whether the client sends its body only after a word (RFC 9110 section 10.1.1)."""
        return not self.received and any(name == b"expect" for name, _ in self.scope["headers"])

    async def push(self, chunk: bytes) -> None:
        """Send a part of the response body that more will follow."""
        self.sent += len(chunk)
        await self.send({"type": "http.response.body", "body": chunk, "more_body": True})

    async def send_whole(self, status: int, headers: HeaderList, body: bytes) -> None:
        """A whole response at once. PERF: spares the many that are small two coroutines (0.7 us)."""
        self.status = status
        self.response_started = True
        self.sent = len(body)
        headers += self.extra if self.limits is None else [*self.extra, *self.limits]
        send = self.send
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})

    def answer(self, status: int, headers: HeaderList, body: bytes) -> None:
        """The same on a lane, whose server takes it without a wait."""
        self.status = status
        self.response_started = True
        self.sent = len(body)
        headers += self.extra
        if self.limits is not None:
            headers += self.limits
        send = self.send
        send({"type": "http.response.start", "status": status, "headers": headers})
        send({"type": "http.response.body", "body": body, "more_body": False})
        self.phase = DONE

    async def respond(self, status: int, headers: HeaderList, body: bytes) -> None:
        """A whole response of the gateway's own; HEAD gets the same head without the body."""
        if status != 204:
            headers.append((b"content-length", b"%d" % len(body)))
        if self.method == "HEAD":
            body = b""
        taken = self.body_done or await self._take_rest()
        if taken and len(body) <= PART:
            await self.send_whole(status, headers, body)
            return
        if not taken and CLOSE not in headers and self.scope["http_version"] != "2":
            headers.append(CLOSE)
        await self.start(status, headers)
        for place in range(0, len(body) - PART, PART):
            try:
                async with timeout(_PART_SECONDS):
                    await self.push(body[place : place + PART])
            except TimeoutError:
                raise ClientGone("the client stopped reading") from None
        await self.write(body[(len(body) - 1) // PART * PART :], False)

    async def _take_rest(self) -> bool:
        """Read and drop a body that nobody wants, if it is small and comes soon; False when the connection has to go.

        The server closes it when the answer is out: without a word, the client's next request would be lost.
        """
        http2 = self.scope["http_version"] == "2"
        if not http2 and (self._waits() or not 0 <= self.content_length <= _REST_BYTES):
            return False
        left = _REST_BYTES if not http2 else _REST_BYTES_HTTP2
        with suppress(TimeoutError):
            async with timeout(_REST_SECONDS):
                while not self.body_done and left >= 0:
                    message = await self.receive()
                    size = len(message.get("body", b""))
                    self.received += size
                    left -= size
                    self.disconnected = message["type"] == "http.disconnect"
                    self.body_done = self.disconnected or not message.get("more_body", False)
        return self.body_done

    async def refuse(self, problem: Problem) -> None:
        """Answer with a problem document (RFC 9457), or only record it when nothing can be sent any more."""
        kind = problem.kind
        self.problem_code = kind.code
        if self.phase == DONE:
            self.phase = EDGE
        if kind is CLIENT_GONE:
            if not self.body_done:
                # The server ends a malformed body as if the client had left; one that is still there learns why.
                await self.respond(400, [_PROBLEM_TYPE, _NO_STORE, CLOSE], self._encoded(_BODY_BROKEN))
            self.status = kind.status
            self.ended_by = CLIENT
            return
        body = self._encoded(problem)
        await self.respond(kind.status, [_PROBLEM_TYPE, _NO_STORE, *problem.headers], body)

    def _encoded(self, problem: Problem) -> bytes:
        return problem.encode(self.raw_path, self.request_id)

    def forget_request(self) -> None:
        """Let go of the request's head, the caller's rights, and what the response's head was made of, but for what logs say.

        Only after `start`, for an answer that lasts, and for a body that has been read to its end.

        PERF: spares a stream 5.1 KiB, three copies of its token among them (granian 2.8.7, Python 3.11, a head of 1.2 KiB).
        """
        agent = self.captured.get(b"user-agent")
        self.captured.clear()
        if agent is not None:
            self.captured[b"user-agent"] = agent
        self.lines.clear()
        self.extra.clear()
        self.scope.clear()
        self.limits = self.token = self.grant = self.cached_identity = None
        self.context = b""

    def head_bytes(self) -> int:
        """Bytes of the target and of all header lines that came: what MAX_HEADER_BYTES is compared with."""
        return sum(map(len, self.lines)) + self._dropped + len(self.raw_path) + len(self.query)


Stage = Callable[[Exchange], "Problem | Awaitable[Problem | None] | None"]
# None: nothing to wait for, the exchange's lane will hear of its end.
Handler = Callable[[Exchange], Awaitable[None] | None]


class Lane(Protocol):
    """Who runs an exchange that no task waits for; see kernel/server/intake.py."""

    def over(self, x: Exchange) -> None:
        """Its answer is out."""

    def go_on(self, x: Exchange, rest: Awaitable[None]) -> None:
        """It cannot do without a task any more; `rest` is what is left of its handler."""


class Route:
    """A row's compiled form.

    `stages` run in order until one answers with a problem; `handler` makes the response. `template` labels metrics and
    logs. Routes that are `exempt` are never shed.
    """

    __slots__ = ("_names", "admin", "exempt", "handler", "meter", "row", "stages", "template")

    def __init__(
        self,
        row: RouteRow,
        template: str,
        stages: tuple[tuple[Phase, Stage], ...],
        handler: Handler,
        meter: RouteMeter,
    ) -> None:
        self.row = row
        self.template = template
        self.stages = tuple(stage for _, stage in stages)
        self._names = {stage: name for name, stage in stages}
        self.handler = handler
        self.meter = meter
        self.admin = row.admin
        self.exempt = row.exempt

    def name_of(self, stage: Stage) -> Phase:
        """The name that `stage`, one of its own, declares."""
        return self._names[stage]
