"""Bodies: the responses of one pool that are passed on as they come, of which the long ones share half of its connections.

Of event streams no further one is begun; what else takes long is cut, the latest first, but only while somebody starves.

PERF: nothing is counted for a response that is whole at once; for others it is the sweeper who looks.
"""

from __future__ import annotations

from kernel.http.problems import UPSTREAM_BUSY, GatewayError, Problem
from kernel.upstream.http1 import Connection
from kernel.upstream.parts import Parts
from kernel.upstream.queue import RETRY_SOON

# After so many seconds the client may be one that does not read.
_SLOW_SECONDS = 0.25
# And after so many it is a long one.
_LONG_SECONDS = 1.0
# So long somebody must have waited for a connection before one that is over the half is cut, and so long until the next is:
# what the first one had may do.
_STARVED_SECONDS = 0.5
_CUT_SECONDS = 0.1


class Bodies:
    """`most` of them may be long. `parts` are told of all."""

    __slots__ = ("_cut_at", "_most", "_parts", "_since", "long")

    def __init__(self, most: int, parts: Parts) -> None:
        self._most = most
        self._parts = parts
        self._since: dict[Connection, float] = {}  # when they began, in that order
        self.long: dict[Connection, None] = {}  # the latest last
        self._cut_at = 0.0

    def __len__(self) -> int:
        """How many are under way."""
        return len(self._since)

    def begin(self, connection: Connection, now: float, endless: bool) -> None:
        """Count it until `end`.

        Raises:
            GatewayError: UPSTREAM_BUSY: it is `endless`, and the long ones have all they may.
        """
        if endless:
            if len(self.long) >= self._most:
                raise GatewayError(_crowded())
            self.long[connection] = None
        self._since[connection] = now
        self._parts.bodies += 1

    def end(self, connection: Connection) -> None:
        """However it ended."""
        if self._since.pop(connection, None) is not None:
            self._parts.bodies -= 1
        self.long.pop(connection, None)

    def slow(self, now: float) -> int:
        """How many have been for some time."""
        count = 0
        for since in self._since.values():
            if since > now - _SLOW_SECONDS:
                break
            count += 1
        return count

    def sweep(self, now: float, waited: float) -> None:
        """See which have become long; cut one if that is due. `waited`: seconds that somebody has been in the queue."""
        for connection, since in self._since.items():
            if since > now - _LONG_SECONDS:
                break
            self.long.setdefault(connection)
        starved = waited >= _STARVED_SECONDS and now - self._cut_at >= _CUT_SECONDS
        if starved and len(self.long) > self._most:
            self._cut_at = now
            latest = next(reversed(self.long))
            self.end(latest)
            latest.fail(GatewayError(_crowded()))


def _crowded() -> Problem:
    return UPSTREAM_BUSY("long responses have half of the connections, and may have no more", RETRY_SOON)
