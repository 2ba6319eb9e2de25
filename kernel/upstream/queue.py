"""Who waits for a connection of a pool: first come, first served, bounded in number and in time.

PERF: a place is a future and a number. The sweeper compares the deadlines, and only the clients of those who wait
long are watched; with thousands in the queue anything more for each of them is what the worker then does all day.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial

from kernel.exchange.disconnect import Disconnect
from kernel.exchange.exchange import Exchange
from kernel.http.problems import UPSTREAM_BUSY, ClientGone, GatewayError
from kernel.upstream.http1 import Connection

RETRY_SOON = ((b"retry-after", b"1"),)
# A client that leaves before it is watched is noticed once its request has a connection.
_WATCH_AFTER = 0.25

Given = Connection | None


class _Place:
    __slots__ = ("deadline", "given", "since", "watching", "x")

    def __init__(
        self, given: asyncio.Future[Given], since: float, deadline: float, x: Exchange | None
    ) -> None:
        self.given = given
        self.since = since
        self.deadline = deadline
        self.x = x  # whose client is watched; None: nobody's
        self.watching: Disconnect | None = None


class Queue:
    """At most `most` places of at most `patience` seconds. `hand_on` takes what somebody was given who is gone."""

    __slots__ = ("_hand_on", "_loop", "_most", "_patience", "_waiting", "_watched", "places")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        most: int,
        patience: float,
        hand_on: Callable[[Given], None],
    ) -> None:
        self._loop = loop
        self._most = most
        self._patience = patience
        self._hand_on = hand_on
        # In the order of their deadlines. Those that gave up stay until their turn, or their deadline.
        self.places: deque[_Place] = deque()
        self._waiting = 0
        self._watched = 0.0

    def __len__(self) -> int:
        """How many wait."""
        return self._waiting

    async def wait(self, x: Exchange | None, now: float) -> Given:
        """A connection just released, or None: the slot of one that was closed.

        Raises:
            GatewayError: UPSTREAM_BUSY: the queue is full, or nothing came in time; ClientGone: the client of `x` left.
        """
        if self._waiting >= self._most:
            raise GatewayError(UPSTREAM_BUSY("the queue for a connection is full", RETRY_SOON))
        # While the client still sends its body, reading that is the forwarder's.
        watched = x if x is not None and x.body_done else None
        place = _Place(self._loop.create_future(), now, now + self._patience, watched)
        self.places.append(place)
        self._waiting += 1
        given = place.given
        try:
            return await given
        except asyncio.CancelledError:
            # What was given in the very moment of giving up must not be lost.
            if given.done() and not given.cancelled() and given.exception() is None:
                self._hand_on(given.result())
            raise
        finally:
            self._waiting -= 1
            place.x = None
            if place.watching is not None:
                place.watching.cancel()

    def waited(self, now: float) -> float:
        """How many seconds the first one has waited; 0 when nobody does."""
        return now - self.places[0].since if self.places else 0.0

    def give(self, what: Given) -> bool:
        """Give `what` to the next in the queue; False when nobody waits."""
        places = self.places
        while places:
            given = places.popleft().given
            if not given.done():
                given.set_result(what)
                return True
        return False

    def sweep(self, now: float) -> None:
        """Send away who has waited too long, and watch the clients of who waits long."""
        places = self.places
        while places and (places[0].deadline <= now or places[0].given.done()):
            self._refuse(places.popleft(), "no connection became free in time")
        if places and now - self._watched >= _WATCH_AFTER:
            self._watched = now
            for place in places:
                if place.since > now - _WATCH_AFTER:
                    break
                if place.watching is None and place.x is not None:
                    place.watching = Disconnect(place.x.receive, partial(_left, place))

    def close(self) -> None:
        """Send everybody away."""
        while self.places:
            self._refuse(self.places.popleft(), "the gateway is shutting down")

    def _refuse(self, place: _Place, why: str) -> None:
        if not place.given.done():
            place.given.set_exception(GatewayError(UPSTREAM_BUSY(why, RETRY_SOON)))


class Slots:
    """Room for `most` at a time; who finds none waits in a queue of its own."""

    __slots__ = ("_free", "queue")

    def __init__(self, loop: asyncio.AbstractEventLoop, most: int, waiting: int, patience: float) -> None:
        self._free = most
        self.queue = Queue(loop, waiting, patience, lambda _: self.leave())

    async def enter(self, x: Exchange, now: float) -> None:
        """Take a slot; raises as `Queue.wait`."""
        if self._free:
            self._free -= 1
        else:
            await self.queue.wait(x, now)

    def leave(self) -> None:
        """Give it back."""
        if not self.queue.give(None):
            self._free += 1


def _left(place: _Place) -> None:
    """Give up a place whose client has left."""
    if place.x is not None and not place.given.done():
        place.x.disconnected = True
        place.given.set_exception(ClientGone("the client left while its request was queued"))
