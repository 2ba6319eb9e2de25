"""The forwarder: one admitted request to a service, and its response back.

Steps, by the same numbers in the code:
 1. Read the body if it is small; a longer one is streamed.
 2. Build the request's head once, whatever the number of attempts.
 3. Choose a replica whose breaker admits a request.
 4. Take a connection: idle, new, or the next in the queue.
 5. Send, and wait for the response's head.
 6. Relay head and body with back-pressure; a service that breaks off here breaks the response off too.
 7. Give the connection back, in whatever state.
 8. After a failure before the response: once more, if that is safe (see `_again`).
"""

from __future__ import annotations

from time import perf_counter

from kernel.exchange.exchange import CLOSE, UPSTREAM, Exchange
from kernel.exchange.phase import CONNECT, DONE, REQUEST_BODY, RESPONSE_BODY, RESPONSE_HEAD
from kernel.http.problems import (
    UPSTREAM_BUSY,
    UPSTREAM_CONNECT,
    UPSTREAM_CONNECT_TIMEOUT,
    UPSTREAM_PROTOCOL,
    UPSTREAM_RESET,
    UPSTREAM_TIMEOUT,
    ClientGone,
    GatewayError,
    Problem,
    ProblemKind,
)
from kernel.upstream.balance import Replica, Upstream
from kernel.upstream.http1 import NEVER, Connection
from kernel.upstream.pool import Sweeper
from kernel.upstream.queue import Slots
from kernel.upstream.response import COMPLETE, UNSENT
from kernel.upstream.upload import Upload, beginning

# RFC 9110 section 9.2.2: only these may be sent again without knowing what became of them.
_IDEMPOTENT = frozenset({"GET", "HEAD", "PUT", "DELETE", "OPTIONS"})
# RFC 9110 section 8.6: a request without a body says so with a length of 0 when its method gives a body a meaning.
NO_LENGTH = frozenset({"GET", "HEAD", "DELETE", "OPTIONS"})
METHODS = {name: name.encode() for name in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")}
_CONNECTING = frozenset({UPSTREAM_CONNECT, UPSTREAM_CONNECT_TIMEOUT})
_FAILURES = _CONNECTING | {UPSTREAM_BUSY, UPSTREAM_RESET, UPSTREAM_TIMEOUT, UPSTREAM_PROTOCOL}


async def forward(
    x: Exchange,
    upstream: Upstream,
    lines: bytes,
    timeout: float,  # noqa: ASYNC109
    begun: Connection | None = None,
) -> None:
    """Relay `x`. `lines` are all header lines but Host and framing; `timeout` is for the response's head, in seconds.

    With `begun`, the first attempt has come to step 6, or failed, on that connection (see callback_lane.py).

    Raises:
        GatewayError: no response came (502, 503, 504), the client left (499), its body was too large or too slow (413, 408);
            or the response broke off after its head was sent, which the caller makes visible.
    """
    # 1.
    body = b""
    if x.has_body:
        x.phase = REQUEST_BODY
        body = await beginning(x, upstream)
    streamed = not x.body_done
    # 2.
    if streamed:
        framing = (
            b"content-length: %d\r\n\r\n" % x.content_length if x.content_length >= 0 else Upload.CHUNKED
        )
    elif body or x.method not in NO_LENGTH:
        framing = b"content-length: %d\r\n\r\n" % len(body)
    else:
        framing = b"\r\n"
    target = x.raw_path + b"?" + x.query if x.query else x.raw_path
    method = METHODS.get(x.method) or x.method.encode()
    replica = upstream.only
    if replica is None or (replica.breaker.troubled and begun is None):
        replica = upstream.choose()  # 3.
    attempt = 1
    stale = False
    while True:
        breaker = replica.breaker
        probe = begun is None and breaker.troubled and breaker.begin(upstream.sweeper.now)
        x.phase = CONNECT
        connection: Connection | None = None
        upload: Upload | None = None
        uploads: Slots | None = None
        sent = 0.0
        try:
            pool = replica.pool
            if begun is not None:
                connection, begun = begun, None
                x.phase = RESPONSE_HEAD
                sent = x.asked
            else:
                # 4.
                if streamed:
                    await pool.uploads.enter(x, upstream.sweeper.now)
                    uploads = pool.uploads
                if attempt == 1 and not stale:
                    connection = pool.take_idle() or await pool.acquire(x)
                else:
                    connection = await pool.fresh(x)
                # 5.
                x.phase = RESPONSE_HEAD
                sent = perf_counter()
                head = (method, b" ", target, replica.host_line, lines, framing)
                if streamed:
                    head_came = connection.start(b"".join(head), x.method == "HEAD", NEVER, x)
                    if connection.stage != UNSENT:
                        upload = Upload(x, connection, body, upstream, timeout)
                else:
                    data = b"".join((*head, body)) if body else b"".join(head)
                    head_came = connection.start(data, x.method == "HEAD", upstream.sweeper.now + timeout, x)
                await head_came
            if connection.error is not None:
                raise connection.error
            # 6.
            x.upstream_seconds = seconds = perf_counter() - sent
            x.phase = RESPONSE_BODY
            if breaker.troubled:
                breaker.success()
            upstream.meter.answered(connection.status, seconds)
            if connection.stage == COMPLETE and upload is None:
                # PERF: whole already, as most are: its connection serves the next request while this answer goes out.
                chunks = connection.chunks
                whole = chunks[0] if len(chunks) == 1 else b"".join(chunks)
                status, headers = connection.status, connection.headers
                given_back, connection = connection, None
                pool.release(given_back)
                if upstream.only is None:
                    upstream.answered(replica, status)
                await x.send_whole(status, headers, whole)
            else:
                connection.deadline = NEVER
                if not x.body_done and x.scope["http_version"] != "2":
                    # An early answer: the server closes under whoever still sends when it is out, which they have to know.
                    connection.headers.append(CLOSE)
                await _relay(x, connection, upstream)
                if upstream.only is None:
                    upstream.answered(replica, connection.status)
            x.phase = DONE
            return
        except GatewayError as error:
            if sent and not x.response_started:
                x.upstream_seconds = perf_counter() - sent
            kind = error.problem.kind
            if probe:
                breaker.abandon()
            if kind not in _FAILURES:
                raise
            following = None
            if not x.response_started:
                # 8.
                if not stale and _untouched(connection):
                    stale = True
                    continue
                in_hand = not streamed or upload is None
                following = _again(x, upstream, replica, connection, kind, attempt, in_hand, bool(body))
                if following is None:
                    upstream.meter.failed(kind.code)
            else:
                upstream.failed(replica, kind, begun=True)
            if following is None:
                x.ended_by = UPSTREAM
                raise _named(error.problem, upstream, x.phase) from None
            replica = following
            attempt += 1
        except BaseException:
            if probe:
                breaker.abandon()
            raise
        finally:
            # 7.
            if connection is not None:
                if upload is not None and not upload.close():
                    connection.dirty = True  # the rest of the request was never sent
                pool.release(connection)
            if uploads is not None:
                uploads.leave()


async def _relay(x: Exchange, connection: Connection, upstream: Upstream) -> None:
    """Step 6 for a response that is not whole yet; neither side may pause longer than `upstream.idle_timeout` seconds."""
    patience = upstream.idle_timeout
    sweeper = upstream.sweeper
    await x.start(connection.status, connection.headers)
    if not connection.chunks and connection.stage != COMPLETE:
        # granian holds the head back until the first part of the body.
        await _pass_on(x, b"", True, sweeper, patience)
    more = True
    while more:
        data = await connection.read(sweeper.now + patience)
        more = connection.stage != COMPLETE or connection.error is not None
        await _pass_on(x, data, more, sweeper, patience)


async def _pass_on(x: Exchange, data: bytes, more: bool, sweeper: Sweeper, patience: float) -> None:
    try:
        with sweeper.timeouts.limit(sweeper.now, patience):
            await x.write(data, more)
    except TimeoutError:
        raise ClientGone("the client stopped reading") from None


def _untouched(connection: Connection | None) -> bool:
    """Whether an idle connection was no longer at rest when it was taken: nothing was sent, nobody has failed."""
    return connection is not None and connection.stage == UNSENT and connection.exchanges > 1


def _again(
    x: Exchange,
    upstream: Upstream,
    replica: Replica,
    connection: Connection | None,
    kind: ProblemKind,
    attempt: int,
    in_hand: bool,
    has_body: bool,
) -> Replica | None:
    """The replica to try once more after a failure of `kind`, or None.

    - An idle connection that turned out to be closed: the same replica on a fresh one, for idempotent methods whose body (if
      any) is still `in_hand`. This is the race every keep-alive client has; it costs no retry.
    - No connection could be made: another replica, since nothing was sent.
    - A connection broken before any byte of the response: another replica or the same, for idempotent methods without body.
    """
    breaker = replica.breaker
    broken = kind is UPSTREAM_RESET and connection is not None and connection.unanswered()
    again = broken and x.method in _IDEMPOTENT and in_hand
    if again and attempt == 1 and connection is not None and connection.exchanges > 1:
        return replica
    if kind is UPSTREAM_BUSY:
        return None
    now = upstream.sweeper.now
    upstream.failed(replica, kind)
    if attempt > 2 or x.disconnected:
        return None
    if kind in _CONNECTING:
        other = upstream.other(replica)
        return other if other is not None and upstream.may_retry() else None
    if again and not has_body:
        other = upstream.other(replica) or (replica if breaker.admits(now) else None)
        return other if other is not None and upstream.may_retry() else None
    return None


def _named(problem: Problem, upstream: Upstream, phase: str) -> GatewayError:
    """`problem` with a detail that says which service failed, and in which phase, without its address."""
    detail = f"{upstream.name} failed in phase {phase}: {problem.detail}."
    return GatewayError(problem.kind(detail, problem.headers))
