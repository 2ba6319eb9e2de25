"""The forwarder: one admitted request to a service, and its response back.

Steps, by the same numbers in the code:
 1. Read the body if it comes in one piece; a longer one is streamed.
 2. Build the request's head once, whatever the number of attempts.
 3. Choose a replica whose breaker admits a request.
 4. Take a connection: idle, new, or the next in the queue.
 5. Send, and wait for the response's head.
 6. Relay head and body with back-pressure; a service that breaks off here breaks the response off too.
 7. Give the connection back, in whatever state.
 8. After a failure before the response: once more, if that is safe (see `_again`).
"""

from __future__ import annotations

from asyncio import timeout as limit
from time import perf_counter

from kernel.exchange import CLIENT, UPSTREAM, Exchange
from kernel.problems import (
    BODY_TIMEOUT,
    CLIENT_GONE,
    UPSTREAM_CONNECT,
    UPSTREAM_CONNECT_TIMEOUT,
    UPSTREAM_PROTOCOL,
    UPSTREAM_RESET,
    UPSTREAM_TIMEOUT,
    ClientGone,
    GatewayError,
)
from kernel.upstream.balance import Replica, Upstream
from kernel.upstream.http1 import NEVER, Connection
from kernel.upstream.upload import Upload

# RFC 9110 section 9.2.2: only these may be sent again without knowing what became of them.
_IDEMPOTENT = frozenset({"GET", "HEAD", "PUT", "DELETE", "OPTIONS"})
# RFC 9110 section 8.6: a request without a body says so with a length of 0 when its method gives a body a meaning.
_NO_LENGTH = frozenset({"GET", "HEAD", "DELETE", "OPTIONS"})
_METHODS = {name: name.encode() for name in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")}
_CONNECTING = frozenset({UPSTREAM_CONNECT, UPSTREAM_CONNECT_TIMEOUT})
_ITS_FAULT = _CONNECTING | {UPSTREAM_RESET, UPSTREAM_TIMEOUT, UPSTREAM_PROTOCOL}


async def forward(x: Exchange, upstream: Upstream, lines: bytes, timeout: float) -> None:  # noqa: ASYNC109
    """Relay `x`. `lines` are all header lines but Host and framing; `timeout` is for the response's head, in seconds.

    Raises:
        GatewayError: no response came (502, 503, 504), the client left (499), its body was too large or too slow (413, 408);
            or the response broke off after its head was sent, which the caller makes visible.
    """
    # 1.
    body = b""
    if x.has_body:
        x.phase = "request-body"
        body = await _first_part(x, upstream.body_timeout)
    streamed = not x.body_done
    # 2.
    if streamed:
        framing = (
            b"content-length: %d\r\n\r\n" % x.content_length if x.content_length >= 0 else Upload.CHUNKED
        )
    elif body or x.method not in _NO_LENGTH:
        framing = b"content-length: %d\r\n\r\n" % len(body)
    else:
        framing = b"\r\n"
    target = x.raw_path + b"?" + x.query if x.query else x.raw_path
    method = _METHODS.get(x.method) or x.method.encode()
    replica = upstream.only
    if replica is None or replica.breaker.troubled:
        replica = upstream.choose()  # 3.
    attempt = 1
    while True:
        breaker = replica.breaker
        if breaker.troubled:
            breaker.begin()
        x.phase = "connect"
        connection: Connection | None = None
        upload: Upload | None = None
        try:
            # 4.
            pool = replica.pool
            if attempt == 1:
                connection = pool.take_idle() or await pool.acquire()
            else:
                connection = await pool.fresh()
            # 5.
            x.phase = "response-head"
            sent = perf_counter()
            data = b"".join(
                (method, b" ", target, replica.host_line, lines, framing, b"" if streamed else body)
            )
            if streamed:
                head_came = connection.start(data, x.method == "HEAD", NEVER, x)
                upload = Upload(x, connection, body, upstream, timeout)
            else:
                head_came = connection.start(data, x.method == "HEAD", upstream.sweeper.now + timeout, x)
            await head_came
            connection.deadline = NEVER
            # 6.
            x.upstream_seconds = seconds = perf_counter() - sent
            x.phase = "response-body"
            if breaker.troubled:
                breaker.success()
            upstream.meter.answered(connection.status, seconds)
            if connection.complete and upload is None:
                # PERF: whole already, as most are: its connection serves the next request while this answer goes out.
                chunks = connection.chunks
                whole = chunks[0] if len(chunks) == 1 else b"".join(chunks)
                status, headers = connection.status, connection.headers
                pool.release(connection)
                connection = None
                await x.send_whole(status, headers, whole)
            else:
                await _relay(x, connection, upstream.idle_timeout, upstream)
            x.phase = "done"
            return
        except GatewayError as error:
            kind = error.problem.kind
            if x.response_started or kind not in _ITS_FAULT:
                replica.breaker.abandon()
                if kind in _ITS_FAULT:
                    x.ended_by = UPSTREAM
                raise _named(error, upstream) from None
            following = _again(x, upstream, replica, connection, error, attempt, streamed or bool(body))  # 8.
            if following is None:
                x.ended_by = UPSTREAM
                upstream.meter.failed(kind.code)
                raise _named(error, upstream) from None
            replica = following
            attempt += 1
        except BaseException:
            replica.breaker.abandon()
            raise
        finally:
            # 7.
            if upload is not None and not upload.close():
                assert connection is not None
                connection.dirty = True  # the rest of the request was never sent
            if connection is not None:
                if not connection.complete:
                    connection.dirty = True
                pool.release(connection)


async def _first_part(x: Exchange, patience: float) -> bytes:
    try:
        async with limit(patience):
            return await x.read()
    except TimeoutError:
        raise GatewayError(BODY_TIMEOUT()) from None


async def _relay(x: Exchange, connection: Connection, patience: float, upstream: Upstream) -> None:
    """Steps 6: `patience` is the longest pause in the body, on either side, in seconds."""
    await x.start(connection.status, connection.headers)
    if not connection.chunks:
        await x.write(b"", True)  # granian holds the head back until the first part of the body
    while True:
        data = await connection.read(upstream.sweeper.now + patience)
        if not data:
            break
        try:
            async with limit(patience):
                await x.write(data, True)
        except TimeoutError:
            x.ended_by = CLIENT
            raise ClientGone("the client stopped reading") from None
    await x.write(b"", False)


def _again(
    x: Exchange,
    upstream: Upstream,
    replica: Replica,
    connection: Connection | None,
    error: GatewayError,
    attempt: int,
    body: bool,
) -> Replica | None:
    """The replica to try once more after `error`, or None.

    - An idle connection that turned out to be closed: the same replica on a fresh one, for idempotent methods whose body (if
      any) is still in hand. This is the race every keep-alive client has; it costs no retry.
    - No connection could be made: another replica, since nothing was sent.
    - A connection broken before any byte of the response: another replica or the same, for idempotent methods without body.
    """
    kind = error.problem.kind
    breaker = replica.breaker
    idempotent = x.method in _IDEMPOTENT and x.body_done
    broken = kind is UPSTREAM_RESET and connection is not None and not connection.got_bytes
    if attempt == 1 and broken and idempotent and connection is not None and connection.exchanges > 1:
        breaker.abandon()
        return replica
    breaker.failure(upstream.sweeper.now)
    if attempt > 2 or not x.body_done or x.disconnected:
        return None
    if kind in _CONNECTING:
        other = upstream.other(replica)
        return other if other is not None and upstream.may_retry() else None
    if broken and idempotent and not body and breaker.admits(upstream.sweeper.now) and upstream.may_retry():
        return upstream.other(replica) or replica
    return None


def _named(error: GatewayError, upstream: Upstream) -> GatewayError:
    """`error` with a detail that says which service failed, and in which phase, without its address."""
    problem = error.problem
    if problem.kind is CLIENT_GONE or problem.kind not in _ITS_FAULT:
        return error
    problem.detail = f"{upstream.name}: {problem.detail}."
    return error
