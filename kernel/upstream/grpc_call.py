"""A call to a gRPC service for an exchange: chosen, sent, settled and tried again by the rules of attempt.py.

| what happened                                        | the breaker hears | sent again                        |
| ---------------------------------------------------- | ----------------- | --------------------------------- |
| No connection could be made: it was never sent.      | a failure         | to another replica                |
| The connection broke, unanswered.                    | a failure         | if idempotent, and while that may |
| Nothing came in time.                                | a late answer     | no                                |
| The service answered UNAVAILABLE: it says so itself. | a failure         | no                                |
| It answered any other status.                        | an answer         | no                                |

The deadline of a unary call is told to the service. A stream has none: its first message has to come within it, and each
further one within the pause that response bodies may make.
"""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Any

from grpc import aio

from kernel.exchange.disconnect import Disconnect
from kernel.exchange.exchange import UNKEYED, UNWRITTEN, UPSTREAM, WRITTEN, Exchange
from kernel.exchange.phase import RESPONSE_BODY, RESPONSE_HEAD
from kernel.http.problems import (
    BODY_TOO_LARGE,
    UPSTREAM_CONNECT,
    UPSTREAM_CONNECT_TIMEOUT,
    UPSTREAM_PROTOCOL,
    UPSTREAM_RESET,
    UPSTREAM_TIMEOUT,
    UPSTREAM_TOO_LARGE,
    ClientGone,
    GatewayError,
    ProblemKind,
)
from kernel.upstream.attempt import IDEMPOTENT, answered
from kernel.upstream.balance import Replica
from kernel.upstream.grpc_channels import GrpcService, Status, failure
from kernel.upstream.grpc_metadata import Metadata

_Ask = Callable[[aio.Channel], Awaitable[bytes | None]]

# For clients, who learn no address.
_SAID = {
    UPSTREAM_CONNECT: "no connection could be made",
    UPSTREAM_CONNECT_TIMEOUT: "no connection could be made in time",
    UPSTREAM_RESET: "the connection broke",
    UPSTREAM_TIMEOUT: "no answer came in time",
    UPSTREAM_TOO_LARGE: "a message has more bytes than are taken",
    BODY_TOO_LARGE: "the request's message has more bytes than the service takes",
}
_CONNECTING = (UPSTREAM_CONNECT, UPSTREAM_CONNECT_TIMEOUT)
# It was the message: the service is at no fault of the kind that breakers are for.
_BLAMELESS = (BODY_TOO_LARGE, UPSTREAM_TOO_LARGE)
_MOST_RETRIES = 2


class Refused(GatewayError):
    """The service has answered, with a status of its own: nothing is unknown."""


class GrpcCall:
    """One exchange's call, once its body is read. `path` is the method's, `data` its message. `close` it in any case."""

    def __init__(self, x: Exchange, service: GrpcService, path: str, data: bytes, metadata: Metadata) -> None:
        self._x = x
        self._service = service
        self._upstream = service.upstream
        self._path = path
        self._data = data
        self._metadata = metadata
        self._retries = 0
        self._gone = False
        self._replica: Replica | None = None
        self._call: Any = None
        self._watch = Disconnect(x.receive, self._left)

    def close(self) -> None:
        """End it, if it has not ended."""
        self._watch.cancel()
        if self._call is not None:
            self._call.cancel()
        self._hold(None)

    async def unary(self, seconds: float) -> bytes:
        """The answer. Raises GatewayError: there is none."""

        async def ask(channel: aio.Channel) -> bytes | None:
            self._call = channel.unary_unary(self._path)(self._data, timeout=seconds, metadata=self._metadata)
            answer: bytes | None = await self._call
            return answer

        answer = await self._attempts(ask)
        if answer is None:
            # Its status was OK, but there was no message, or no whole one.
            raise self._named(UPSTREAM_PROTOCOL)
        return answer

    async def begin(self, seconds: float) -> bytes | None:
        """A stream's first message; None: it has none. Raises GatewayError."""
        sweeper = self._upstream.sweeper

        async def ask(channel: aio.Channel) -> bytes | None:
            self._call = channel.unary_stream(self._path)(self._data, metadata=self._metadata)
            with sweeper.timeouts.limit(sweeper.now, seconds):
                return _message(await self._call.read())

        return await self._attempts(ask)

    async def next(self) -> bytes | None:
        """A stream's next message; None after the last. Raises GatewayError."""
        upstream = self._upstream
        self._x.phase = RESPONSE_BODY
        try:
            with upstream.sweeper.timeouts.limit(upstream.sweeper.now, upstream.idle_timeout):
                return _message(await self._call.read())
        except aio.AioRpcError as error:
            kind = failure(error)
            if kind is None:
                self._x.ended_by = UPSTREAM
                raise Refused(self._service.problem(error)) from None
        except TimeoutError:
            kind = UPSTREAM_TIMEOUT
        except CancelledError:
            self._unless_gone()
            raise
        if kind not in _BLAMELESS:
            assert self._replica is not None
            upstream.failed(self._replica, kind, begun=True)
        raise self._named(kind)

    async def _attempts(self, ask: _Ask) -> bytes | None:
        upstream, x = self._upstream, self._x
        replica = upstream.only
        if replica is None or replica.breaker.troubled:
            replica = upstream.choose()
        x.phase = RESPONSE_HEAD
        while True:
            breaker = replica.breaker
            trial = breaker.troubled and breaker.begin(upstream.sweeper.now)
            self._hold(replica)
            started = perf_counter()
            try:
                answer = await ask(self._service.channel(replica))
            except (aio.AioRpcError, TimeoutError, CancelledError) as error:
                x.upstream_seconds = perf_counter() - started
                if trial:
                    breaker.abandon()
                if isinstance(error, CancelledError):
                    self._unless_gone()
                    raise
                replica = self._failed(error, replica)
                continue
            x.upstream_seconds = seconds = perf_counter() - started
            if x.keyed != UNKEYED:
                x.keyed = WRITTEN  # whatever comes of the answer
            self._settle(replica, 200, seconds)
            return answer

    def _failed(self, error: aio.AioRpcError | TimeoutError, replica: Replica) -> Replica:
        """No answer, or a bad one: whom to ask next. Raises GatewayError: nobody."""
        upstream, x = self._upstream, self._x
        kind: ProblemKind | None = UPSTREAM_TIMEOUT
        if not isinstance(error, TimeoutError):
            kind = failure(error)
            self._service.note(error)
            if kind is None:
                raise self._refused(error, replica)
        assert kind is not None
        if kind in _BLAMELESS:
            self._settle(replica, kind.status, x.upstream_seconds)
            raise self._named(kind)
        upstream.failed(replica, kind)
        if x.keyed not in (UNKEYED, WRITTEN):
            x.keyed = UNWRITTEN if kind in _CONNECTING else WRITTEN
        following: Replica | None = None
        if kind in _CONNECTING:
            if replica.pool.doubt is not None:
                replica.pool.doubt()
            following = upstream.other(replica)
        elif kind is UPSTREAM_RESET and x.method in IDEMPOTENT:
            again = replica if replica.breaker.admits(upstream.sweeper.now) else None
            following = upstream.other(replica) or again
        if (
            following is not None
            and self._retries < _MOST_RETRIES
            and not self._gone
            and upstream.may_retry()
        ):
            self._retries += 1
            return following
        upstream.meter.failed(kind.code)
        raise self._named(kind)

    def _refused(self, error: aio.AioRpcError, replica: Replica) -> GatewayError:
        """The service has answered with a status of its own."""
        problem = self._service.problem(error)
        if error.code() == Status.UNAVAILABLE:
            self._upstream.failed(replica, UPSTREAM_RESET)
            self._upstream.meter.failed(problem.kind.code)
        else:
            self._settle(replica, problem.kind.status, self._x.upstream_seconds)
        self._x.ended_by = UPSTREAM
        return Refused(problem)

    def _settle(self, replica: Replica, status: int, seconds: float) -> None:
        answered(self._upstream, replica, status, seconds)
        if self._upstream.only is None:
            self._upstream.answered(replica, status)

    def _hold(self, replica: Replica | None) -> None:
        """Count this call at `replica`, where the one with fewer is chosen; and no longer where it was."""
        if self._replica is not None:
            self._replica.pool.size -= 1
        self._replica = replica
        if replica is not None:
            replica.pool.size += 1

    def _left(self) -> None:
        self._gone = True
        self._x.disconnected = True
        if self._call is not None:
            self._call.cancel()

    def _unless_gone(self) -> None:
        if self._gone:
            raise ClientGone("the client left before the service had answered") from None

    def _named(self, kind: ProblemKind) -> GatewayError:
        self._x.ended_by = UPSTREAM
        detail = f"{self._upstream.name} failed in phase {self._x.phase}: {_SAID.get(kind, 'it answered no gRPC')}."
        return GatewayError(kind(detail))


def _message(read: Any) -> bytes | None:
    if read is aio.EOF:
        return None
    message: bytes = read
    return message
