"""The forwarder: one admitted request to a service, and its response back.

Steps, by the same numbers in the code:
 1. Read the body if it is small; a longer one is streamed.
 2. Build the request's head once, whatever the number of attempts.
 3. Choose a replica whose breaker admits a request.
 4. Take a connection: idle, new, or the next in the queue.
 5. Send, and wait for the response's head.
 6. Relay head and body with back-pressure; a service that breaks off here breaks the response off too.
 7. Give the connection back, in whatever state.
 8. After a failure before the response: once more, if that is safe (see attempt.py); or to the spare service, if there is
    one and nothing was written yet.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

from kernel.exchange.exchange import CLOSE, UPSTREAM, Exchange
from kernel.exchange.phase import CONNECT, DONE, REQUEST_BODY, RESPONSE_BODY, RESPONSE_HEAD
from kernel.http.problems import ClientGone, GatewayError, Problem, ProblemKind
from kernel.upstream.attempt import FAILURES, IDEMPOTENT, Attempt
from kernel.upstream.balance import Upstream
from kernel.upstream.http1 import NEVER, Connection
from kernel.upstream.pool import Sweeper
from kernel.upstream.queue import Slots
from kernel.upstream.response import COMPLETE
from kernel.upstream.upload import Upload, beginning

# RFC 9110 section 8.6: a request without a body says so with a length of 0 when its method gives a body a meaning.
NO_LENGTH = frozenset({"GET", "HEAD", "DELETE", "OPTIONS"})
METHODS = {name: name.encode() for name in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")}

# Says which service has a request that was not written to its own, for that reason.
Spare = Callable[[Exchange, ProblemKind], Upstream]


async def forward(
    x: Exchange,
    upstream: Upstream,
    lines: bytes,
    timeout: float,  # noqa: ASYNC109
    begun: Connection | None = None,
    spare: Spare | None = None,
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
    target = x.target + b"?" + x.query if x.query else x.target
    method = METHODS.get(x.method) or x.method.encode()
    # 3.
    try:
        attempt = Attempt(upstream, x.method in IDEMPOTENT, x.has_body, x, begun)
    except GatewayError as error:
        if spare is None:
            raise
        upstream, spare = spare(x, error.problem.kind), None
        attempt = Attempt(upstream, x.method in IDEMPOTENT, x.has_body, x)
    while True:
        upload: Upload | None = None
        uploads: Slots | None = None
        x.phase = CONNECT
        try:
            connection = attempt.connection
            if connection is None:
                # 4.
                if streamed:
                    pool = attempt.replica.pool
                    await pool.uploads.enter(x, upstream.sweeper.now)
                    uploads = pool.uploads
                connection = attempt.take_idle() or await attempt.acquire()
                # 5.
                x.phase = RESPONSE_HEAD
                head = (method, b" ", target, attempt.replica.proxy_line, lines, framing)
                if streamed:
                    head_came = attempt.send(b"".join(head), x.method == "HEAD", NEVER)
                    if attempt.written:
                        upload = Upload(x, connection, body, upstream, timeout)
                else:
                    data = b"".join((*head, body)) if body else b"".join(head)
                    head_came = attempt.send(data, x.method == "HEAD", upstream.sweeper.now + timeout)
                await head_came
            x.phase = RESPONSE_HEAD
            if connection.error is not None:
                raise connection.error
            # 6.
            complete = connection.stage == COMPLETE and upload is None
            if not complete:
                attempt.begin_body()
            x.upstream_seconds = attempt.answered()
            x.phase = RESPONSE_BODY
            if complete:
                # PERF: whole already, as most are: its connection serves the next request while this answer goes out.
                chunks = connection.chunks
                whole = chunks[0] if len(chunks) == 1 else b"".join(chunks)
                status, headers = connection.status, connection.headers
                attempt.give_back()
                await x.send_whole(status, headers, whole)
            else:
                connection.deadline = NEVER
                if not x.body_done and x.scope["http_version"] != "2":
                    # An early answer: the server closes under whoever still sends when it is out, which they have to know.
                    connection.headers.append(CLOSE)
                await _relay(x, connection, upstream)
            x.phase = DONE
            return
        except GatewayError as error:
            problem = error.problem
            if not x.response_started:
                if attempt.asked:
                    x.upstream_seconds = perf_counter() - attempt.asked
                # 8.
                if attempt.failed(problem.kind, in_hand=upload is None):
                    continue
                if spare is not None and attempt.nothing_written and _unreached(x, problem):
                    attempt.give_back()
                    upstream, spare = spare(x, problem.kind), None
                    attempt = Attempt(upstream, x.method in IDEMPOTENT, x.has_body, x)
                    continue
            else:
                attempt.broke_off(problem.kind)
            if problem.kind not in FAILURES:
                raise
            x.ended_by = UPSTREAM
            raise _named(problem, upstream, x.phase) from None
        finally:
            # 7.
            if upload is not None and not upload.close() and attempt.connection is not None:
                attempt.connection.dirty = True  # the rest of the request was never sent
            attempt.give_back()
            if uploads is not None:
                uploads.leave()


def _unreached(x: Exchange, problem: Problem) -> bool:
    """Whether it was the service that failed, for a client that is still there."""
    return problem.kind in FAILURES and not x.disconnected


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


def _named(problem: Problem, upstream: Upstream, phase: str) -> GatewayError:
    """`problem` with a detail that says which service failed, and in which phase, without its address."""
    detail = f"{upstream.name} failed in phase {phase}: {problem.detail}."
    return GatewayError(problem.kind(detail, problem.headers))
