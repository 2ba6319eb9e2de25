"""A route of a gRPC service: JSON to its message, the call, and its messages to JSON.

A unary method answers one document. A streaming one answers lines of JSON (`application/x-ndjson`), or an event stream for
who accepts that: each message as it comes, none while the client does not read. What fails midway is told by a last line,
or event, `error`, and the response is broken off.
"""

from __future__ import annotations

from asyncio import timeout, to_thread
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from kernel.exchange.exchange import Exchange, Handler
from kernel.exchange.phase import DONE, REQUEST_BODY
from kernel.http.problems import (
    BAD_REQUEST,
    BODY_TIMEOUT,
    ROUTE_UNKNOWN,
    UPSTREAM_BUSY,
    UPSTREAM_PROTOCOL,
    ClientGone,
    Extended,
    GatewayError,
)
from kernel.routing.catalog import RouteRow
from kernel.stages.effects import attached
from kernel.state import Factories, State
from kernel.traffic.forwarding import forwarded
from kernel.traffic.idempotency import heeding_keys

if TYPE_CHECKING:
    from kernel.transcoding.binding import Binding

_T = TypeVar("_T")
_LINES = ((b"content-type", b"application/x-ndjson"), (b"vary", b"accept"))
_EVENTS = (
    (b"content-type", b"text/event-stream"),
    (b"vary", b"accept"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
)
# PERF: a MiB of JSON takes from 20 ms (few long fields) to half a second (a million elements): the loop has something else to
# do meanwhile. SECURITY: and one such message of a service at a time, since it takes fifteen times its size.
_LONG = 64 * 1024
_BUSY = UPSTREAM_BUSY("too many large messages are being translated", ((b"retry-after", b"1"),))


def make(state: State, row: RouteRow) -> Handler:
    """The handler of a gRPC service's row."""
    # Imported only where such a service is configured: it needs the extra `grpc`.
    from kernel.transcoding.binding import Binding, Unreadable  # noqa: PLC0415
    from kernel.transcoding.reader import Invalid  # noqa: PLC0415
    from kernel.upstream.grpc_call import GrpcCall, Refused  # noqa: PLC0415
    from kernel.upstream.grpc_metadata import TOLD, metadata  # noqa: PLC0415

    assert row.service is not None
    name = row.service
    service = state.grpc[name]
    descriptors = service.descriptors
    bindings = [Binding(descriptors, rule) for rule in row.rules]
    seconds = row.timeout or state.settings.request_timeout_seconds
    told = TOLD | {each.encode() for each, _ in row.set_headers}
    pause = state.settings.idle_timeout_seconds
    queue_seconds = state.settings.queue_timeout_seconds
    body_seconds = state.settings.body_timeout_seconds

    async def grpc(x: Exchange) -> None:
        x.service = name
        for binding in bindings:
            taken = binding.take(x.raw_path)
            if taken is not None:
                break
        else:
            raise GatewayError(ROUTE_UNKNOWN())
        body = await _body(x, body_seconds)
        try:
            data = await apart(
                len(body), lambda: binding.request(taken, x.query, body, _header(x, b"content-type"))
            )
        except Invalid as error:
            raise GatewayError(Extended(BAD_REQUEST, str(error), members={"field": error.path})) from None
        call = GrpcCall(x, service, binding.call, data, metadata(x, state.tracer, told))
        try:
            if binding.streaming:
                await stream(x, binding, call)
                return
            answer = await call.unary(seconds)
        except Refused as error:
            if x.response_started:
                raise
            await x.refuse(error.problem)
            x.phase = DONE
            return
        finally:
            call.close()
        media, shown = await show(binding, answer)
        await x.respond(200, [(b"content-type", media)], shown)
        x.phase = DONE

    async def apart(size: int, work: Callable[[], _T]) -> _T:
        """`work`, in a thread and one at a time when there is much of it."""
        if size < _LONG:
            return work()
        try:
            async with timeout(queue_seconds):
                await service.turn.acquire()
        except TimeoutError:
            raise GatewayError(_BUSY) from None
        try:
            return await to_thread(work)
        finally:
            service.turn.release()

    async def show(binding: Binding, message: bytes) -> tuple[bytes, bytes]:
        try:
            return await apart(len(message), lambda: binding.answer(message))
        except Unreadable as error:
            state.log.warning("answer of a gRPC service not understood", service=name, reason=str(error))
            raise GatewayError(
                UPSTREAM_PROTOCOL(f"{name}: its answer is not what its descriptors say.")
            ) from None

    async def stream(x: Exchange, binding: Binding, call: GrpcCall) -> None:
        message = await call.begin(seconds)
        events = "text/event-stream" in _header(x, b"accept").lower()
        shown = None if message is None else await show(binding, message)
        head = [*(_EVENTS if events else _LINES)]
        before, after = (b"data: ", b"\n\n") if events else (b"", b"\n")
        if binding.raw_answer:
            head = [] if shown is None else [(b"content-type", shown[0])]
            before = after = b""
        await x.start(200, head)
        if x.method == "HEAD":
            await x.write(b"", more=False)
            x.phase = DONE
            return
        try:
            while shown is not None:
                await _pass_on(x, before + shown[1] + after, pause)
                message = await call.next()
                shown = None if message is None else await show(binding, message)
        except ClientGone:
            raise
        except GatewayError as error:
            said = error.problem.encode(x.raw_path, x.request_id)
            if not binding.raw_answer:
                last = b"event: error\ndata: %b\n\n" % said if events else b'{"error":%b}\n' % said
                await _pass_on(x, last, pause)
            raise
        end = b"event: end\ndata: {}\n\n" if events and not binding.raw_answer else b""
        await _pass_on(x, end, pause, more=False)
        x.phase = DONE

    handler: Handler = grpc if row.effect is None else attached(state, row.effect, grpc)
    handler = heeding_keys(state.ledger, row, forwarded(row, handler), body_seconds)
    return state.versions.counted(row, handler)


async def _body(x: Exchange, pause: float) -> bytes:
    """All of the request's body. Raises GatewayError: BODY_TIMEOUT, and what `Exchange.read` raises."""
    parts: list[bytes] = []
    x.phase = REQUEST_BODY
    try:
        while not x.body_done:
            async with timeout(pause):
                parts.append(await x.read())
    except TimeoutError:
        raise GatewayError(BODY_TIMEOUT(headers=((b"connection", b"close"),))) from None
    return b"".join(parts)


async def _pass_on(x: Exchange, data: bytes, pause: float, more: bool = True) -> None:
    try:
        async with timeout(pause):
            await x.write(data, more)
    except TimeoutError:
        raise ClientGone("the client stopped reading") from None


def _header(x: Exchange, name: bytes) -> str:
    return b",".join(value for key, value in x.scope["headers"] if key == name).decode("latin-1")


FACTORIES: Factories = {"grpc": make}
