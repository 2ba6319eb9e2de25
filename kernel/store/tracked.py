"""TrackedMap: keys that decide about requests, held in the worker and kept right by the store itself.

The store pushes every change below the followed prefixes (RESP3 client tracking in broadcast mode) on a connection of the
map's own, one to each server that holds keys. While all of them are up, a key costs one trip the first time and a dict
hit ever after; that it does not exist is known too. When one is lost the map is dropped, and keys are read directly until
all are back.

Rules:
- A reply is only kept when no change of its key arrived while it was under way: the change may be younger than the reply.
- A connection that says nothing for `_SILENCE` seconds counts as lost: it is asked for a sign of life every `_BEAT`.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Generator, Iterable, Sequence
from functools import partial
from time import monotonic
from typing import Any

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError

from kernel.store.address import Endpoint
from kernel.store.errors import StoreDown, StoreError, StoreRefused
from kernel.store.keys import TRACKED_PREFIXES
from kernel.store.link import stop
from kernel.store.redis import Script, Store

_BEAT = 1.0
_SILENCE = 3.0
_RETRY = 0.25
_SETUP = 1.0
_MAX_KEYS = 65_536
_UNKNOWN = object()
# A key's value and its remaining life in milliseconds (negative: no end).
_READ = Script("return {redis.call('GET', KEYS[1]), redis.call('PTTL', KEYS[1])}")

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
        self._reading: dict[str, _Reading] = {}
        self._heard: dict[AbstractConnection, float] = {}
        self._rebuild = asyncio.Event()
        self._listeners: list[Listener] = []
        self._task: asyncio.Task[None] | None = None
        self._last_error = ""
        self._reads = 0
        self._changes = 0
        self._drops = 0

    async def start(self) -> None:
        """Begin to track; done when tracking is live, or has failed once (it is then retried in the background)."""
        loop = asyncio.get_running_loop()
        tried: asyncio.Future[None] = loop.create_future()
        self._store.on_connect(self._store_reconnected)
        self._task = loop.create_task(self._keep_tracking(tried))
        await tried

    async def close(self) -> None:
        """End; later reads go to the store directly."""
        if self._task is not None:
            await stop([self._task])

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
        return self._last_error

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

    def _read(self, key: str) -> _Reading:
        shared = self._reading.get(key)
        if shared is not None:
            return shared
        loop = asyncio.get_running_loop()
        reading = _Reading(loop.create_future())
        self._reads += 1
        try:
            reply = self._store.run(_READ, (key,), ())
        except StoreDown as down:
            reading.fail(down)
            return reading
        self._reading[key] = reading
        if not self.live:
            # Without announcements a read may be shared only while it has not left for the store.
            loop.call_soon(self._reading.pop, key, None)
        reply.add_done_callback(partial(self._arrived, key, reading))
        return reading

    def _arrived(self, key: str, reading: _Reading, reply: asyncio.Future[Any]) -> None:
        keep = self._reading.get(key) is reading
        if keep:
            del self._reading[key]
        life = -1
        try:
            raw, life = reply.result()
            value = None if raw is None else raw.decode("utf-8", "replace")
        except StoreRefused as refused:
            if not str(refused).startswith("WRONGTYPE"):
                reading.fail(StoreDown(str(refused)))
                return
            value = ""
        except (StoreDown, asyncio.CancelledError) as error:
            reading.fail(StoreDown(str(error)))
            return
        if keep and self.live:
            if len(self._known) >= self._max_keys:
                self._known.popitem(last=False)
            self._known[key] = value
            if life >= 0:
                # The server announces an expiry when it gets round to it.
                asyncio.get_running_loop().call_later((life + 1) / 1000, self._expired, key, value)
        reading.land(value)

    def _expired(self, key: str, value: str | None) -> None:
        if self._known.get(key, _UNKNOWN) is value:
            del self._known[key]
            self.generation += 1

    # --- tracking ----------------------------------------------------------------------------------------------

    async def _keep_tracking(self, tried: asyncio.Future[None]) -> None:
        while True:
            began = monotonic()
            try:
                await self._track(tried)
            except (StoreError, RedisError, OSError) as error:
                self._last_error = str(error) or type(error).__name__
            finally:
                self._drop()
                if not tried.done():
                    tried.set_result(None)
            # At once after a break, at intervals when it cannot be had.
            if monotonic() - began < _SETUP:
                await asyncio.sleep(_RETRY * random.uniform(0.75, 1.25))  # noqa: S311

    async def _track(self, tried: asyncio.Future[None]) -> None:
        """Connect, go live and stay so until anything is wrong, which is raised."""
        self._rebuild.clear()
        endpoints = await self._store.endpoints()
        connections = [self._store.connection(endpoint) for endpoint in endpoints]
        tasks: list[asyncio.Task[None]] = []
        try:
            async with asyncio.timeout(_SETUP):
                # None is left behind: one that connected after the others' failure would never be closed.
                results = await asyncio.gather(*map(self._subscribe, connections), return_exceptions=True)
            for result in results:
                if result is not None:
                    raise result
            self._heard = dict.fromkeys(connections, monotonic())
            self.live = True
            if not tried.done():
                tried.set_result(None)
            loop = asyncio.get_running_loop()
            tasks = [loop.create_task(self._listen(connection)) for connection in connections]
            tasks.append(loop.create_task(self._watch(endpoints)))
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            try:
                await stop(tasks)
            finally:
                for connection in connections:
                    with contextlib.suppress(RedisError, OSError):
                        await connection.disconnect(nowait=True)

    async def _subscribe(self, connection: AbstractConnection) -> None:
        await connection.connect()  # type: ignore[no-untyped-call]
        parser: Any = connection._parser  # private: pinned, and held by a test
        parser.set_invalidation_push_handler(self._changed)
        prefixes = [word for prefix in self._prefixes for word in ("PREFIX", prefix)]
        await connection.send_command("CLIENT", "TRACKING", "ON", "BCAST", *prefixes, check_health=False)
        await connection.read_response()

    async def _listen(self, connection: AbstractConnection) -> None:
        while True:
            await connection.read_response(timeout=math.inf, disconnect_on_error=False, push_request=True)
            self._heard[connection] = monotonic()

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
        while True:
            for connection in self._heard:
                await connection.send_command("PING", check_health=False)
            silence = min(self._heard.values()) + self._silence - monotonic()
            if silence <= 0:
                raise TimeoutError(f"a server was not heard of for {self._silence:g} s")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._rebuild.wait(), min(self._beat, silence))
                raise ConnectionResetError("the store was reconnected")
            with contextlib.suppress(StoreDown):
                if await self._store.endpoints() != endpoints:
                    raise ConnectionResetError("the keys have moved to other servers")

    def _store_reconnected(self, after_outage: bool) -> None:
        """Its new connection may lead to another server than the tracking one: a failover behind one address."""
        self._rebuild.set()

    def _drop(self) -> None:
        self._drops += self.live
        self.live = False
        self.generation += 1
        self._known.clear()
        self._reading.clear()
        self._tell(None)

    def _tell(self, key: str | None) -> None:
        for listener in self._listeners:
            listener(key)


class _Reading:
    """A value on its way. Several may wait for it, or nobody."""

    __slots__ = ("_future",)

    def __init__(self, future: asyncio.Future[str | None]) -> None:
        self._future = future

    def __await__(self) -> Generator[Any, None, str | None]:
        return asyncio.shield(self._future).__await__()  # one waiter's cancellation is not another's

    def land(self, value: str | None) -> None:
        self._future.set_result(value)

    def fail(self, error: StoreDown) -> None:
        self._future.set_exception(error)
        self._future.exception()  # seen: nobody need wait for it
