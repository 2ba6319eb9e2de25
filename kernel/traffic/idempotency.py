"""Idempotency keys: the first request under a key is handed to the service, any other gets the first one's answer.

Steps, by the same numbers in the code:
 1. Read the whole body: the key stands for this request and no other.
 2. Claim the key in the store. Whoever comes second is answered by what the store says.
 3. Hand it to the service, whatever becomes of the client, and gather the answer.
 4. Keep the answer, then let the client have it.

Never twice: nothing is sent without a record that says so, and a record goes only when it is certain that the service has had
nothing. Where that is not certain and no answer came, all that follow are told that the outcome is unknown.
"""

from __future__ import annotations

import asyncio
from asyncio import timeout
from collections.abc import Awaitable

import msgspec
from msgspec import Struct

from kernel.exchange.asgi import HeaderList, Message
from kernel.exchange.disconnect import Disconnect
from kernel.exchange.exchange import KEYED, UNWRITTEN, WRITTEN, Exchange, Handler
from kernel.exchange.phase import CONNECT, IDEMPOTENCY, REPLAYED, REQUEST_BODY, RESPONSE_BODY
from kernel.http.idempotency_key import given, parse
from kernel.http.problems import (
    BODY_TIMEOUT,
    BODY_TOO_LARGE,
    IDEMPOTENCY_ANSWER_NOT_KEPT,
    IDEMPOTENCY_KEY_REQUIRED,
    IDEMPOTENCY_MISMATCH,
    IDEMPOTENCY_OUTCOME_UNKNOWN,
    IDEMPOTENCY_UNDER_WAY,
    ClientGone,
    GatewayError,
)
from kernel.identity.aead import seal, unseal
from kernel.routing.catalog import RouteRow
from kernel.routing.keyed import KEYED_METHODS, REQUIRED
from kernel.store.idempotency import DONE, MISMATCH, NOT_KEPT, OURS, UNDER_WAY, UNKNOWN
from kernel.traffic.idempotency_key import Keyed
from kernel.traffic.idempotency_ledger import Ledger, Room
from kernel.upstream.attempt import FAILURES

_REPLAYED = (b"idempotent-replayed", b"true")
_RETRY_SOON = ((b"retry-after", b"1"),)
_TOO_SLOW = BODY_TIMEOUT(headers=((b"connection", b"close"),))
# Of an answer's head, what is said anew each time it is sent.
_FRESH = frozenset({b"connection", b"content-length", b"date", b"idempotent-replayed"})
# Where a handler is before it writes: it says so before it does.
_BEFORE = frozenset({IDEMPOTENCY, REQUEST_BODY, CONNECT})
# What is read as it comes: nobody waits for its end.
_STREAMS = (
    b"text/event-stream",
    b"application/x-ndjson",
    b"application/json-seq",
    b"multipart/x-mixed-replace",
)


class _Answer(Struct, frozen=True, array_like=True):
    """As it is kept, sealed."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Answer).decode


def heeding_keys(ledger: Ledger, row: RouteRow, handler: Handler, body_timeout: float) -> Handler:
    """`handler`, which hands requests to a service, with Idempotency-Keys of POST and PATCH heeded if `row` says so.

    `body_timeout`: seconds for the whole body of a request with a key.
    """
    if row.idempotency is None:
        return handler
    required = row.idempotency == REQUIRED

    def handle(x: Exchange) -> Awaitable[None] | None:
        if x.method not in KEYED_METHODS:
            return handler(x)
        values = given(x.scope["headers"])
        if not values and not required:
            return handler(x)
        x.phase = IDEMPOTENCY
        if not values:
            raise GatewayError(IDEMPOTENCY_KEY_REQUIRED())
        return once(x, parse(values, x.captured.get(b"connection")))

    async def once(x: Exchange, key: bytes) -> None:
        room = Room(ledger)
        try:
            # 1.
            body = await _whole(x, room, ledger.max_body, body_timeout) if x.has_body else b""
            request = Keyed(x, key, body)
            # 2.
            verdict, kept = await ledger.claim(request)
            if verdict == OURS:
                await _Execution(x, ledger, request, body, room).run(handler)
            else:
                await _answered_before(x, ledger, request, verdict, kept)
        finally:
            room.leave()

    return handle


async def _whole(x: Exchange, room: Room, most: int, seconds: float) -> bytes:
    """The request's body.

    Raises:
        GatewayError: it is too large or too slow, or there are too many. ClientGone.
    """
    if x.content_length > most:
        raise _too_large(most)
    parts: list[bytes] = []
    try:
        async with timeout(seconds):
            while part := await x.read():
                if x.received > most:
                    raise _too_large(most)
                room.demand(len(part))
                parts.append(part)
    except TimeoutError:
        raise GatewayError(_TOO_SLOW) from None
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _opened(plain: bytes | None) -> _Answer | None:
    """None for what no gateway has written, or another release of it."""
    try:
        return None if plain is None else _decode(plain)
    except msgspec.MsgspecError:
        return None


def _too_large(most: int) -> GatewayError:
    return GatewayError(BODY_TOO_LARGE(f"With an Idempotency-Key a body may have {most} bytes at most."))


async def _answered_before(x: Exchange, ledger: Ledger, request: Keyed, verdict: str, kept: bytes) -> None:
    """Answer by what became of the first request under the key."""
    answer: _Answer | None = None
    if verdict == DONE:
        answer = _opened(unseal(request.secret, kept))
        if answer is None:
            verdict = UNKNOWN
    ledger.results["replayed" if verdict == DONE else verdict] += 1
    if answer is not None:
        await x.respond(answer.status, [*answer.headers, _REPLAYED], answer.body)
        x.phase = REPLAYED
        return
    if verdict == UNDER_WAY:
        raise GatewayError(IDEMPOTENCY_UNDER_WAY("", _RETRY_SOON))
    if verdict == MISMATCH:
        raise GatewayError(IDEMPOTENCY_MISMATCH())
    if verdict == NOT_KEPT:
        status = kept.decode("latin-1")
        raise GatewayError(
            IDEMPOTENCY_ANSWER_NOT_KEPT(
                f"The service answered {status}. Look up its result: answers that stream, or are too large, are not kept."
            )
        )
    raise GatewayError(IDEMPOTENCY_OUTCOME_UNKNOWN())


class _Execution:
    """The first request under a key: what the forwarder takes for its client, until its answer is whole.

    The client may leave meanwhile. An answer that cannot be kept goes to the client as it comes, who then counts again.
    """

    __slots__ = (
        "_body",
        "_gone",
        "_head",
        "_ledger",
        "_left",
        "_parts",
        "_receive",
        "_request",
        "_room",
        "_send",
        "_size",
        "_through",
        "_x",
    )

    def __init__(self, x: Exchange, ledger: Ledger, request: Keyed, body: bytes, room: Room) -> None:
        self._x = x
        self._ledger = ledger
        self._request = request
        self._body = body
        self._room = room
        self._receive = x.receive
        self._send = x.send
        self._head: Message | None = None
        self._parts: list[bytes] = []
        self._size = 0
        self._through = False  # the answer is not kept
        self._gone = False
        # Done when the client has left an answer that goes through.
        self._left: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run(self, handler: Handler) -> None:
        """Raises as the forwarder."""
        x, ledger, request = self._x, self._ledger, self._request
        ledger.results["first"] += 1
        if x.has_body:
            x.body_done = False  # it is read once more
            x.received = 0
        x.keyed = KEYED
        x.receive = self.receive
        x.send = self.send
        watch = Disconnect(self._receive, self._client_left)
        try:
            # 3.
            rest = handler(x)
            assert rest is not None
            await rest
        except BaseException as error:
            if not self._through:
                x.response_started = False  # nothing has gone out
                if self._head is None and _untouched(x, error):
                    await ledger.release(request)
                else:
                    await ledger.lose(request)
            raise
        finally:
            watch.cancel()
            x.receive, x.send = self._receive, self._send
        if not self._through:
            await self._deliver()

    async def receive(self) -> Message:
        """The body, then nothing until the client's leaving counts."""
        body, self._body = self._body, b""
        if not self._x.body_done:
            return {"type": "http.request", "body": body, "more_body": False}
        await asyncio.shield(self._left)
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """Gather the answer, or let it through."""
        if self._through:
            await self._send(message)
        elif message["type"] == "http.response.start":
            self._head = message
            if _streams(message["headers"]):
                await self._let_through()
        else:
            part = message["body"]
            self._parts.append(part)
            self._size += len(part)
            if self._size > self._ledger.max_answer or not self._room.take(len(part)):
                await self._let_through(message.get("more_body", False))

    async def _let_through(self, more: bool = True) -> None:
        """The answer cannot be kept: that there is one is."""
        assert self._head is not None
        self._ledger.keep_nothing(self._request, self._head["status"])
        self._through = True
        if self._gone:
            self._client_left()
        await self._send(self._head)
        parts, self._parts = self._parts, []
        for place, part in enumerate(parts, 1):
            more_body = more or place < len(parts)
            await self._send({"type": "http.response.body", "body": part, "more_body": more_body})
        self._room.leave()

    async def _deliver(self) -> None:
        """4."""
        x, head = self._x, self._head
        assert head is not None
        own = len(x.extra) + len(x.limits or ())
        service: HeaderList = head["headers"][: len(head["headers"]) - own]
        headers = [pair for pair in service if pair[0] not in _FRESH]
        body = b"".join(self._parts)
        answer = _Answer(head["status"], headers, body)
        await self._ledger.keep(self._request, seal(self._request.secret, _encode(answer)))
        x.response_started = False
        x.sent = 0
        if self._gone:
            x.phase = RESPONSE_BODY
            raise ClientGone("the client left before the answer was there; it is kept")
        done = x.phase
        await x.respond(head["status"], [pair for pair in service if pair[0] != b"content-length"], body)
        x.phase = done

    def _client_left(self) -> None:
        self._gone = True
        if self._through and not self._left.done():
            self._left.set_result(None)


def _untouched(x: Exchange, error: BaseException) -> bool:
    """Whether it is certain that the service has had nothing of the request, of whose answer there is no head."""
    if x.keyed == WRITTEN:
        return False
    kind = error.problem.kind if isinstance(error, GatewayError) else None
    # A failure of the last attempt was judged with it; any other one, such as a drain's end, is by where it came.
    return (x.keyed == UNWRITTEN and kind in FAILURES) or x.phase in _BEFORE


def _streams(headers: HeaderList) -> bool:
    return any(name == b"content-type" and value.lower().startswith(_STREAMS) for name, value in headers)
