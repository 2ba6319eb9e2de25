"""Attempt: a request on its way to a service. Taking a connection, sending, settling and trying again stand here once: for
the forwarder, the gateway's own calls and its probes; the callback lane settles by the same function.

A request is written at most twice. Whether it may be sent again, after a failure before its response, and where to:

| what happened                                            | whose                           | where to                    |
| -------------------------------------------------------- | ------------------------------- | --------------------------- |
| An idle connection was no longer at rest: never written. | Any, while its body is in hand. | A fresh connection.         |
| No connection could be made: never written.              | Any, while its body is in hand. | Another replica.            |
| A used connection broke, unanswered.                     | Idempotent, the body in hand.   | A fresh connection.         |
| A new connection broke, unanswered.                      | Idempotent, without a body.     | Another replica, or itself. |

The first is nobody's failure and costs nothing. All others cost a retry of the service's one budget. The third is the race
that every keep-alive client has: the breaker hears nothing of it, unless the service had the request for long.

A request with an Idempotency-Key that the gateway heeds is idempotent in the third row only: who closed before it could
read has done nothing, and the service is handed the key. After any other break it may have done what is asked.
"""

from __future__ import annotations

from asyncio import Future
from time import perf_counter

from kernel.exchange.exchange import UNKEYED, UNWRITTEN, WRITTEN, Exchange
from kernel.http.problems import (
    UPSTREAM_BUSY,
    UPSTREAM_CONNECT,
    UPSTREAM_CONNECT_TIMEOUT,
    UPSTREAM_OPEN,
    UPSTREAM_PROTOCOL,
    UPSTREAM_RESET,
    UPSTREAM_TIMEOUT,
    ProblemKind,
)
from kernel.upstream.balance import Replica, Upstream
from kernel.upstream.http1 import Connection
from kernel.upstream.response import COMPLETE, UNSENT

# RFC 9110 section 9.2.2: only these may be sent again without knowing what became of them.
IDEMPOTENT = frozenset({"GET", "HEAD", "PUT", "DELETE", "OPTIONS"})
_CONNECTING = frozenset({UPSTREAM_CONNECT, UPSTREAM_CONNECT_TIMEOUT})
# What comes before anything of a request is written.
UNREACHED = _CONNECTING | {UPSTREAM_OPEN}
FAILURES = _CONNECTING | {UPSTREAM_BUSY, UPSTREAM_RESET, UPSTREAM_TIMEOUT, UPSTREAM_PROTOCOL}
_ENDLESS = b"text/event-stream"
_MOST_WRITTEN = 2
_MOST_RETRIES = 2
# Who closes an idle connection has done so before it could read the request: later it is no race.
_RACE_SECONDS = 1.0


def answered(upstream: Upstream, replica: Replica, status: int, seconds: float) -> None:
    """Settle: the head of a response came after `seconds`."""
    if replica.breaker.troubled:
        replica.breaker.success()
    upstream.meter.answered(status, seconds)


class Attempt:
    """The attempts of one request, one after the other; `replica` and `connection` are the present one's.

    Each is: `take_idle`, or else `acquire`; `send`; `answered` or `failed`; `give_back`, in any case. With `begun` the first
    has got as far as `send`. A `probe` goes whatever the breaker says: only its success concerns that, no metric tells of it.

    Raises:
        GatewayError: UPSTREAM_OPEN: no replica's breaker admits a request.
    """

    __slots__ = (
        "_body",
        "_fresh",
        "_has_body",
        "_idempotent",
        "_probe",
        "_retries",
        "_trial",
        "_upstream",
        "_written",
        "_x",
        "asked",
        "connection",
        "replica",
    )

    def __init__(
        self,
        upstream: Upstream,
        idempotent: bool,
        has_body: bool,
        x: Exchange | None = None,
        begun: Connection | None = None,
        probe: bool = False,
    ) -> None:
        self._upstream = upstream
        self._idempotent = idempotent
        self._has_body = has_body
        self._x = x
        self._probe = probe
        self._written = 0
        self._retries = 0
        self._body = False  # of a response, which is passed on as it comes
        self._fresh = False
        self._trial = False  # of an open breaker, which waits for how it ends
        self.asked = 0.0  # when the present one was sent; 0.0: it was not
        self.connection = begun
        replica = upstream.only
        if begun is not None:
            replica = begun.pool.owner
        elif probe:
            replica = upstream.any_replica()
        elif replica is None or replica.breaker.troubled:
            replica = upstream.choose()
        assert replica is not None
        self.replica = replica
        if begun is not None and x is not None:
            self.asked = x.asked

    def take_idle(self) -> Connection | None:
        """A connection at once, if one is idle."""
        breaker = self.replica.breaker
        self._trial = breaker.troubled and not self._probe and breaker.begin(self._upstream.sweeper.now)
        self.asked = 0.0
        if self._fresh:
            return None
        connection = self.connection = self.replica.pool.take_idle()
        return connection

    async def acquire(self) -> Connection:
        """A new connection, or the next to be released. Raises as `Pool.acquire`."""
        pool = self.replica.pool
        connection = await (pool.fresh(self._x) if self._fresh else pool.acquire(self._x))
        self.connection = connection
        return connection

    def send(self, data: bytes, head_only: bool, deadline: float) -> Future[None]:
        """Write a request, or its head: as `Connection.start`."""
        connection = self.connection
        assert connection is not None
        self.asked = perf_counter()
        return connection.start(data, head_only, deadline, self._x)

    @property
    def written(self) -> bool:
        """Whether the present one's request was written, or may still be."""
        connection = self.connection
        return connection is not None and (connection.error is None or connection.stage != UNSENT)

    @property
    def nothing_written(self) -> bool:
        """After `failed`: whether no attempt wrote anything of the request, so that any other service may have it."""
        return self._written == 0

    def answered(self) -> float:
        """The head of the response is there; how many seconds it took."""
        seconds = perf_counter() - self.asked
        self._trial = False
        connection = self.connection
        assert connection is not None
        if self._probe:
            self.replica.breaker.success()
        else:
            answered(self._upstream, self.replica, connection.status, seconds)
        return seconds

    def failed(self, kind: ProblemKind, in_hand: bool) -> bool:
        """No response came, of which the breaker is told, or the client is at fault. Whether to make another attempt."""
        upstream, replica = self._upstream, self.replica
        self._settle_trial()
        if kind not in FAILURES:
            return False
        connection = self.connection
        used = connection is not None and connection.exchanges > 1
        written = connection is not None and connection.stage != UNSENT
        x = self._x
        keyed = x is not None and x.keyed != UNKEYED
        if x is not None and keyed and x.keyed != WRITTEN:
            x.keyed = WRITTEN if written else UNWRITTEN
        if written:
            self._written += 1
        elif used and in_hand:
            return self._go_on(replica)
        broken = kind is UPSTREAM_RESET and connection is not None and connection.unanswered()
        again = broken and self._idempotent and in_hand
        following: Replica | None = None
        if broken and used and perf_counter() - self.asked < _RACE_SECONDS:
            following = replica if in_hand and (self._idempotent or keyed) else None
        elif kind is not UPSTREAM_BUSY:
            if not self._probe:
                upstream.failed(replica, kind)
            if kind in _CONNECTING:
                following = upstream.other(replica) if in_hand else None
            elif again and not self._has_body:
                following = upstream.other(replica) or (replica if self._admitted() else None)
        if following is not None and self._may_retry():
            return self._go_on(following)
        if not self._probe:
            upstream.meter.failed(kind.code)
        return False

    def begin_body(self) -> None:
        """The response's body is to be passed on as it comes. Raises GatewayError: UPSTREAM_BUSY, see bodies.py."""
        connection = self.connection
        assert connection is not None
        endless = any(
            name == b"content-type" and value.startswith(_ENDLESS) for name, value in connection.headers
        )
        self.replica.pool.bodies.begin(connection, self._upstream.sweeper.now, endless)
        self._body = True

    def broke_off(self, kind: ProblemKind) -> None:
        """The response ended before its time."""
        if kind in FAILURES and kind is not UPSTREAM_BUSY and not self._probe:
            self._upstream.failed(self.replica, kind, begun=True)

    def give_back(self) -> None:
        """The connection, if any, in whatever state."""
        self._settle_trial()
        connection = self.connection
        if connection is not None:
            self.connection = None
            if self._body:
                self._body = False
                self.replica.pool.bodies.end(connection)
            if connection.stage == COMPLETE and self._upstream.only is None and not self._probe:
                self._upstream.answered(self.replica, connection.status)
            self.replica.pool.release(connection)

    def _admitted(self) -> bool:
        return self.replica.breaker.admits(self._upstream.sweeper.now)

    def _settle_trial(self) -> None:
        if self._trial:
            self._trial = False
            self.replica.breaker.abandon()

    def _may_retry(self) -> bool:
        if self._written >= _MOST_WRITTEN or self._retries >= _MOST_RETRIES:
            return False
        if self._x is not None and self._x.disconnected:
            return False
        if not self._upstream.may_retry():
            return False
        self._retries += 1
        return True

    def _go_on(self, replica: Replica) -> bool:
        self.give_back()
        self.replica = replica
        self._fresh = True  # others may be as stale
        return True
