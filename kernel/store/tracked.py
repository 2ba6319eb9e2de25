"""TrackedMap: keys that decide about requests, held in the worker and kept right by the store itself.

The store pushes every change below the followed prefixes (RESP3 client tracking in broadcast mode) on a connection of the
map's own, one to each server that holds keys. While all of them are up, a key costs one trip the first time, on that very
connection, and a dict hit ever after; that it does not exist is known too. When one is lost the map is dropped, and keys
are read by way of the store until all are back.

Rules:
- A reply is only kept when no change of its key arrived while it was under way: the change may be younger than the reply.
- A connection that says nothing for `_SILENCE` seconds counts as lost: it is asked for a sign of life every `_BEAT`. One
  that owes a reply counts as lost when that is due.
- Reads are GET and, of what there is, PTTL: no script, and not behind anything that writes. A server that pauses all writes
  (which is what a planned failover does) takes every script for one, unless told otherwise in a way that servers before 7.0
  do not know.
- What the store could not be told yet is pinned: it holds for this worker, whatever the store says.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from time import monotonic
from typing import Any

from redis.exceptions import MovedError, ResponseError

from kernel.store.address import Endpoint
from kernel.store.errors import StoreDown, StoreError, StoreRefused
from kernel.store.kept import KeptSession
from kernel.store.keys import PROBE, TRACKED_PREFIXES
from kernel.store.link import Command, Link
from kernel.store.reading import Reading, failure, found
from kernel.store.reasons import text
from kernel.store.redis import Store

_BEAT = 1.0
_SILENCE = 3.0
_SETUP = 1.0
_MAX_KEYS = 65_536
_UNKNOWN = object()
# The answer to PTTL when there is no such key (any more).
_GONE = -2

Listener = Callable[[str | None], None]
# Of keys, in their order; None: there is no such key.
Values = list[str | None]


class TrackedMap:
    """`start` it in the loop that uses it, after its store. Times in seconds; `max_keys` bounds its memory."""

    def __init__(
        self,
        store: Store,
        prefixes: Iterable[str] = TRACKED_PREFIXES,
        *,
        max_keys: int = _MAX_KEYS,
        beat: float = _BEAT,
        silence: float = _SILENCE,
    ) -> None:
        self.live = False
        # Another number after every change. Whoever has looked at keys that were all known need not look again until then.
        self.generation = 0
        self._store = store
        self._prefixes = tuple(prefixes)
        self._max_keys = max_keys
        self._beat = beat
        self._silence = silence
        self._known: OrderedDict[str, str | None] = OrderedDict()
        # Keys being read now; a change of the key takes its entry away, and then the reply is not kept.
        self._reading: dict[str, Reading] = {}
        self._pinned: dict[str, str] = {}
        self._links: dict[Endpoint, Link] = {}
        self._heard: dict[Link, float] = {}
        # To be begun anew, and why.
        self._kept = KeptSession(self._track, self._drop)
        self._why: Exception | None = None
        self._listeners: list[Listener] = []
        self._reads = 0
        self._changes = 0
        self._drops = 0

    async def start(self) -> None:
        """Begin to track; done when tracking is live, or has failed once (it is then retried in the background)."""
        self._store.on_connect(self._store_reconnected)
        await self._kept.start()

    async def close(self) -> None:
        """End; later reads go to the store directly."""
        await self._kept.close()

    def get(self, key: str) -> str | Awaitable[str | None] | None:
        """The value of a string key below the prefixes, None if there is none; an awaitable of it if it must be read.

        A key of another type counts as the empty string. The awaitable may be dropped; it raises StoreDown when the
        store is out of reach, and what that means is for the caller to decide.
        """
        # PERF: 0.1 us when known.
        value = self._known.get(key, _UNKNOWN)
        return self._read(key) if value is _UNKNOWN else value  # type: ignore[return-value]

    def peek(self, keys: Sequence[str]) -> Values | None:
        """The values of `keys` if all of them are known."""
        known = self._known
        values: Values = []
        for key in keys:
            value = known.get(key, _UNKNOWN)
            if value is _UNKNOWN:
                return None
            values.append(value)  # type: ignore[arg-type]
        return values

    async def fetch(self, keys: Sequence[str]) -> Values:
        """The values of `keys`, those that are not known read in one trip. Raises StoreDown."""
        pending = [self.get(key) for key in keys]
        return [value if value is None or isinstance(value, str) else await value for value in pending]

    def held(self, keys: Sequence[str]) -> Values:
        """What is known of `keys` without the store; None for the others, too."""
        return [self._pinned.get(key, self._known.get(key)) for key in keys]

    def pin(self, key: str, value: str) -> None:
        """Hold `value` for `key` from now on, whatever the store says, until `unpin`."""
        self._pinned[key] = value
        self._known.pop(key, None)
        self._reading.pop(key, None)
        self.generation += 1
        self._tell(key)

    def unpin(self, key: str) -> None:
        """Go by what the store says again."""
        if self._pinned.pop(key, None) is not None:
            self.generation += 1

    def on_change(self, listener: Listener) -> None:
        """Call `listener(key)` after a change of a followed key, `listener(None)` when any may have changed unseen."""
        self._listeners.append(listener)

    @property
    def staleness(self) -> float:
        """Seconds since a server was last heard of: the most that a known value can be out of date. inf if not live."""
        return monotonic() - min(self._heard.values()) if self.live else math.inf

    @property
    def last_error(self) -> str:
        """Why tracking failed or broke last; empty if it never did."""
        return self._kept.last_error

    def snapshot(self) -> dict[str, float]:
        """Figures for metrics: live (0/1), staleness (s), keys known; reads, changes announced and drops so far."""
        return {
            "live": float(self.live),
            "staleness": self.staleness,
            "keys": len(self._known),
            "reads": self._reads,
            "changes": self._changes,
            "drops": self._drops,
        }

    # --- reading -----------------------------------------------------------------------------------------------

    def _read(self, key: str) -> str | Reading:
        pinned = self._pinned.get(key)
        if pinned is not None:
            return pinned
        shared = self._reading.get(key)
        if shared is not None:
            return shared
        reading = self._reading[key] = Reading(self._store.timeout)
        self._reads += 1
        home = self._store.home(key)
        link = self._links.get(home) if home is not None else None
        if not self.live:
            # Without announcements a read may be shared only while it has not left for the store.
            asyncio.get_running_loop().call_soon(self._reading.pop, key, None)
        if link is None:
            self._ask_store(key, reading)
        else:
            self._ask(link, key).add_done_callback(partial(self._arrived, key, reading, link))
        return reading

    def _ask(self, link: Link, key: str) -> asyncio.Future[Any]:
        return link.ask("GET", key)

    def _ask_store(self, key: str, reading: Reading) -> None:
        try:
            reply = self._store.execute("GET", key)
        except StoreDown as down:
            if self._reading.get(key) is reading:
                del self._reading[key]
            reading.fail(StoreDown(str(down)))  # without frames, see Reading
            return
        reply.add_done_callback(partial(self._arrived, key, reading, None))

    def _arrived(self, key: str, reading: Reading, link: Link | None, reply: asyncio.Future[Any]) -> None:
        try:
            value = found(reply)
        except StoreError as error:
            if link is not None:
                # The connection broke, or the key has moved: the store knows where to.
                self._ask_store(key, reading)
                return
            if self._reading.get(key) is reading:
                del self._reading[key]
            reading.fail(StoreDown(str(error)))
            return
        mine = self._reading.get(key) is reading
        # What came by way of the store may be another server's, of which nobody here hears.
        keep = mine and self.live and link is not None
        if keep and link is not None and value is not None:
            # A change that is announced before this reply comes keeps the value from being kept, as before the first one.
            link.ask("PTTL", key).add_done_callback(partial(self._timed, key, reading, value))
            return
        if mine:
            del self._reading[key]
        if keep:
            self._keep(key, None)  # PERF: most keys do not exist, and those cost one command
        reading.land(value)

    def _timed(self, key: str, reading: Reading, value: str, ending: asyncio.Future[Any]) -> None:
        """How long the value holds is known, too."""
        life = _GONE if failure(ending) is not None else ending.result()
        if self._reading.get(key) is reading:
            del self._reading[key]
            if self.live and life != _GONE:
                self._keep(key, value)
                if life >= 0:
                    # The server announces an expiry when it gets round to it.
                    asyncio.get_running_loop().call_later((life + 1) / 1000, self._expired, key, value)
        reading.land(value)

    def _keep(self, key: str, value: str | None) -> None:
        if len(self._known) >= self._max_keys:
            self._known.popitem(last=False)
        self._known[key] = value

    def _expired(self, key: str, value: str | None) -> None:
        if self._known.get(key, _UNKNOWN) is value:
            del self._known[key]
            self.generation += 1

    # --- tracking ----------------------------------------------------------------------------------------------

    async def _track(self) -> None:
        """Connect, go live and stay so until anything is wrong, which is raised."""
        self._kept.due.clear()
        self._why = None
        endpoints = await self._store.endpoints()
        store = self._store
        links = {
            endpoint: Link(store.connection(endpoint), store.timeout, self, self._changed)
            for endpoint in endpoints
        }
        try:
            async with asyncio.timeout(_SETUP):
                # None is left behind: one that connected after the others' failure would never be closed.
                results = await asyncio.gather(*map(self._follow, links.values()), return_exceptions=True)
            for result in results:
                if result is not None:
                    raise result
            if self._why is not None:
                raise self._why
            self._links = links
            self._heard = dict.fromkeys(links.values(), monotonic())
            self.live = True
            self._kept.established()
            await self._watch(endpoints)
        finally:
            self._end()
            for link in links.values():
                for command in await link.close():
                    command.fail(StoreDown("tracking has ended"))

    async def _follow(self, link: Link) -> None:
        await link.open()
        prefixes = [word for prefix in self._prefixes for word in ("PREFIX", prefix)]
        await link.ask("CLIENT", "TRACKING", "ON", "BCAST", *prefixes)
        # One that is loading its data follows, and reads nothing. Any answer will do: the key may be another node's.
        with contextlib.suppress(StoreRefused):
            await link.ask("GET", PROBE)

    # --- the owner of links ----------------------------------------------------------------------------------------

    def landed(self, seconds: float) -> None:
        """A reply came."""
        self._store.landed(seconds)

    def lost(self, carrier: Link, error: Exception, unanswered: list[Command]) -> None:
        """What was known is not kept right any more."""
        self._why = error
        self._kept.due.set()
        self._drop()
        for command in unanswered:
            command.fail(StoreDown(text(error)))

    def doubted(self, carrier: Link) -> None:
        """The store's own connection will find out."""

    def redirected(self, carrier: Link, command: Command, error: ResponseError) -> None:
        """Keys have moved from one server to another. One that is followed, too, has told of what came to it."""
        if self.live and isinstance(error, MovedError) and (error.host, int(error.port)) not in self._links:
            self._why = ConnectionResetError("the keys have moved to other servers")
            self._kept.due.set()
        command.fail(StoreRefused(text(error)))

    async def _changed(self, message: list[Any]) -> None:
        """A server's announcement: `["invalidate", keys]`, or None for the keys when all may have changed."""
        keys = message[1]
        self.generation += 1
        if keys is None:
            self._known.clear()
            self._reading.clear()
            self._tell(None)
            return
        self._changes += len(keys)
        for raw in keys:
            key = raw.decode("utf-8", "surrogateescape")
            self._known.pop(key, None)
            self._reading.pop(key, None)
            self._tell(key)

    async def _watch(self, endpoints: frozenset[Endpoint]) -> None:
        """Ping every server, and see that they are still the right ones."""
        while not self._kept.due.is_set():
            for link in self._heard:
                # Not due before the silence is too long: a server that pauses for a moment need not be dropped.
                link.ask("PING", timeout=math.inf).add_done_callback(partial(self._hear_from, link))
            silence = min(self._heard.values()) + self._silence - monotonic()
            if silence <= 0:
                raise TimeoutError(f"a server was not heard of for {self._silence:g} s")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(self._beat, silence)):
                    await self._kept.due.wait()
                break
            with contextlib.suppress(StoreDown):
                if await self._store.endpoints() != endpoints:
                    raise ConnectionResetError("the keys have moved to other servers")
        raise self._why or ConnectionResetError("the store was reconnected")

    def _hear_from(self, link: Link, pong: asyncio.Future[Any]) -> None:
        if failure(pong) is None and link in self._heard:
            self._heard[link] = monotonic()

    def _store_reconnected(self, after_outage: bool) -> None:
        """Its new connection may lead to another server than the tracking one: a failover behind one address."""
        self._kept.due.set()

    def _end(self) -> None:
        self._drop()
        if self._why is not None:
            self._kept.due.clear()  # it was set to wake the watch, and says nothing of the store's return

    def _drop(self) -> None:
        self._drops += self.live
        self.live = False
        self._links = {}
        self._heard = {}
        self.generation += 1
        self._known.clear()
        self._reading.clear()
        self._tell(None)

    def _tell(self, key: str | None) -> None:
        for listener in self._listeners:
            listener(key)
