"""Fanout: recorded alerts to the open streams of this worker, tenant by tenant.

Rules:
- A tenant's alerts are handed on in the order of the store's stream. Each announcement names the one before it: when that
  is not the one handed on last, something was missed (or the store began anew), and the tenant is read from the store.
- All of a tenant's live streams stand at the topic's position or beyond it; each passes over what it knows.
- Streams are woken a few at a time, so that an alert to thousands of them does not hold up everybody else's requests.
"""

from __future__ import annotations

import asyncio
from collections import deque
from time import monotonic

from kernel.alerts.client import ALL, Client, Wants
from kernel.alerts.counters import Counters
from kernel.alerts.event import Event, decoded
from kernel.store.alertlog import AlertLog, Position
from kernel.store.errors import StoreError
from kernel.store.link import stop

# Alerts, and bytes, read from the store at once.
_PAGE = 64
_PAGE_BYTES = 1024 * 1024
_RETRY = 0.25
# Streams woken in one turn of the loop.
_WOKEN_AT_ONCE = 32
# Readers of the store at once: each holds a page.
_READERS = 16
# Heartbeats are spread over so many ticks.
_SLOTS = 60


class Topic:
    """One tenant's streams in this worker. `members` counts those that are not live yet, too."""

    __slots__ = ("_fanout", "_missed", "_task", "live", "members", "position", "tenant")

    def __init__(self, fanout: Fanout, tenant: str) -> None:
        self.tenant = tenant
        self.members = 0
        self.live: set[Client] = set()
        # What has been handed on last; None: nothing yet.
        self.position: Position | None = None
        self._fanout = fanout
        self._missed = False
        self._task: asyncio.Task[None] | None = None

    def admit(self, client: Client) -> bool:
        """Make `client` live, unless more was handed on than it knows."""
        known, here = client.position, self.position
        assert known is not None
        if self._task is None and not self.live and (here is None or here.generation != known.generation):
            here = self.position = known
        if here is None or here.generation != known.generation:
            self.catch_up()
            return False
        if known < here:
            return False
        if not self.live:
            self.position = known
        self.live.add(client)
        return True

    def receive(self, position: Position, previous: Position, raw: bytes) -> None:
        """An alert was recorded."""
        here = self.position
        if self._task is not None:
            self._missed = True
        elif not self.live:
            self.position = position
        elif here is None or position.generation != here.generation or (position > here and previous > here):
            self.catch_up()
        elif position > here:
            self._hand_on(Event(position, raw))

    def catch_up(self) -> None:
        """Read from the store what was handed on to nobody."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._read())

    async def close(self) -> None:
        """Read nothing any more."""
        if self._task is not None:
            await stop([self._task])

    def _hand_on(self, event: Event) -> None:
        self.position = event.position
        for client in list(self.live):
            client.offer(event)

    async def _read(self) -> None:
        fanout = self._fanout
        try:
            while self.live:
                self._missed = False
                try:
                    async with fanout.readers:
                        page = await fanout.log.read(self.tenant, self.position, fanout.page)
                except StoreError:
                    await asyncio.sleep(_RETRY)
                    continue
                if page.verdict != "ok":
                    for client in list(self.live):
                        client.reset(page.verdict, page.start)
                for event in decoded(page.entries):
                    self._hand_on(event)
                self.position = page.position
                # A stream that can keep up has had its turn before the next page fills its queue.
                while fanout.waking:  # noqa: ASYNC110  # a turn of the loop is what is waited for
                    await asyncio.sleep(0)
                if not page.more and not self._missed:
                    return
        finally:
            self._task = None


class Fanout:
    """One a worker. Nothing runs while no stream is open.

    `max_events` and `max_bytes` bound what a stream may be behind; `heartbeat` seconds lie between two of its heartbeats;
    no alert has more than `max_alert` bytes.
    """

    def __init__(
        self,
        log: AlertLog,
        numbers: Counters,
        *,
        max_events: int,
        max_bytes: int,
        heartbeat: float,
        max_alert: int = 64 * 1024,
    ) -> None:
        self.log = log
        self.numbers = numbers
        self.max_events = max_events
        self.max_bytes = max_bytes
        self.page = max(1, min(_PAGE, _PAGE_BYTES // max_alert))
        self.readers = asyncio.Semaphore(_READERS)
        # Counts the times that announcements may have been missed.
        self.connection = 0
        self._heartbeat = heartbeat
        self._topics: dict[str, Topic] = {}
        self._count = 0
        self._dirty: deque[Client] = deque()
        self._slots: list[set[Client]] = [set() for _ in range(_SLOTS)]
        self._turn = 0
        self._ticker: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return self._count

    @property
    def waking(self) -> bool:
        """Whether streams wait for their turn."""
        return bool(self._dirty)

    def open(self, tenant: str, known: Position | None = None, wants: Wants = ALL) -> Client:
        """A stream of `tenant`'s alerts after `known`; None: of those from now on."""
        topic = self._topics.get(tenant)
        if topic is None:
            topic = self._topics[tenant] = Topic(self, tenant)
        topic.members += 1
        client = Client(self, topic, known, wants)
        self._count += 1
        self.numbers.opened += 1
        client.slot = self.numbers.opened % _SLOTS
        self._slots[client.slot].add(client)
        if self._ticker is None:
            self._tick_later()
        return client

    def close(self, client: Client) -> None:
        """The stream has ended. Call it once."""
        topic = self._topics[client.topic.tenant]
        topic.live.discard(client)
        topic.members -= 1
        if not topic.members:
            del self._topics[topic.tenant]
        self._slots[client.slot].discard(client)
        self._count -= 1
        self.numbers.closed[client.ended or "client"] += 1

    def receive(self, tenant: str, position: Position, previous: Position, raw: bytes) -> None:
        """An alert was recorded. Raises ValueError for what is no payload."""
        topic = self._topics.get(tenant)
        if topic is not None:
            topic.receive(position, previous, raw)

    def connected(self) -> None:
        """Announcements come (again); what came before may have been missed."""
        self.connection += 1
        for topic in self._topics.values():
            if topic.live:
                topic.catch_up()

    def wake_soon(self, client: Client) -> None:
        """Wake `client` when its turn has come."""
        client.dirty = True
        if not self._dirty:
            asyncio.get_running_loop().call_soon(self._wake)
        self._dirty.append(client)

    async def stop(self) -> None:
        """Everything that runs ends; streams that are open get nothing any more."""
        if self._ticker is not None:
            self._ticker.cancel()
        await asyncio.gather(*(topic.close() for topic in self._topics.values()))

    def _wake(self) -> None:
        dirty = self._dirty
        for _ in range(min(_WOKEN_AT_ONCE, len(dirty))):
            client = dirty.popleft()
            client.dirty = False
            client.wake()
        if dirty:
            asyncio.get_running_loop().call_soon(self._wake)

    def _tick(self) -> None:
        self._ticker = None
        if not self._count:
            return
        now = monotonic()
        self._turn = (self._turn + 1) % _SLOTS
        for client in list(self._slots[self._turn]):
            client.beat(now, 2 * self._heartbeat)
        self._tick_later()

    def _tick_later(self) -> None:
        self._ticker = asyncio.get_running_loop().call_later(self._heartbeat / _SLOTS, self._tick)
