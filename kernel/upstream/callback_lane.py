"""The callback lane: what `forward` does for most requests, by callbacks instead of a task that waits.

It takes a request without a body to an untroubled service with one replica and an idle connection, and answers it when the
response comes whole in one read. Everything else goes to the forwarder: before the request is written, or from where it
stands when the response is no such one or none comes.

PERF: with the intake 5 us of the 34 that a request cost: no task, no future, no coroutine, and no turn of the loop between
the service's bytes and the client's.
"""

from __future__ import annotations

from time import perf_counter

from kernel.exchange.exchange import Exchange
from kernel.exchange.phase import RESPONSE_HEAD
from kernel.upstream.attempt import answered
from kernel.upstream.balance import Replica, Upstream
from kernel.upstream.forward import METHODS, NO_LENGTH, Spare, forward
from kernel.upstream.http1 import Connection
from kernel.upstream.response import COMPLETE


class CallbackLane:
    """One a route. `timeout` is for the response's head, in seconds; `spare` is the forwarder's."""

    __slots__ = ("_answered", "_spare", "_timeout", "_upstream")

    def __init__(self, upstream: Upstream, timeout: float, spare: Spare | None = None) -> None:
        self._upstream = upstream
        self._timeout = timeout
        self._spare = spare
        self._answered = self._heard

    def launch(self, x: Exchange, lines: bytes) -> bool:
        """Send `x` on its way, or leave it to `forward`: False. `lines` are as there.

        Its lane is told when the answer is out.
        """
        upstream = self._upstream
        replica = upstream.only
        if x.has_body or replica is None or replica.breaker.troubled or x.method not in NO_LENGTH:
            return False
        connection = replica.pool.take_idle()
        if connection is None:
            return False
        x.phase = RESPONSE_HEAD
        x.outgoing = lines
        query = x.query
        head: tuple[bytes, ...]
        if query:
            head = (METHODS[x.method], b" ", x.target, b"?", query, replica.proxy_line, lines, b"\r\n")
        else:
            head = (METHODS[x.method], b" ", x.target, replica.proxy_line, lines, b"\r\n")
        x.asked = perf_counter()
        deadline = upstream.sweeper.now + self._timeout
        connection.launch(b"".join(head), x.method == "HEAD", deadline, x, self._answered)
        return True

    def _heard(self, connection: Connection) -> None:
        """The response's head has come, all of it at best; or nothing will."""
        x: Exchange = connection.watched
        lane = x.lane
        assert lane is not None
        upstream = self._upstream
        if connection.stage != COMPLETE or connection.error is not None:
            rest = forward(x, upstream, x.outgoing, self._timeout, connection, self._spare)
            lane.go_on(x, rest)
            return
        x.upstream_seconds = seconds = perf_counter() - x.asked
        status = connection.status
        replica: Replica = connection.pool.owner  # the only one when it was asked
        answered(upstream, replica, status, seconds)
        chunks = connection.chunks
        whole = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        headers = connection.headers
        replica.pool.release(connection)
        try:
            x.answer(status, headers, whole)
        except Exception as error:
            lane.go_on(x, raised(error))
        else:
            lane.over(x)


async def raised(error: Exception) -> None:
    """What was raised at once, as if it had been awaited: there is one place where failures are told."""
    raise error
