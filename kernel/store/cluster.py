"""A cluster as a carrier of commands: a `Link` to every primary, a table of slots, and redirections followed.

All or nothing: while any primary is out of reach the whole store counts as down, until a failover has covered its
slots again. What the cluster has said of its nodes is kept, so that it is found again when those that the address names
are gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from time import monotonic
from typing import Any

from redis.crc import key_slot
from redis.exceptions import AskError, ClusterDownError, MovedError, ResponseError

from kernel.store.address import Address, Node
from kernel.store.errors import StoreDown, StoreRefused
from kernel.store.keys import PROBE
from kernel.store.link import Argument, Command, Link, Owner, stop
from kernel.store.reasons import text

_SLOTS = 16384
# Connecting takes several round trips: the slots, then every primary, then a proof of each.
_OPEN = 5
_HOPS = 5
_TRY_AGAIN = 0.01
# Nodes to ask for the slots, at most.
_ASKED = 32
_SCRIPTS = frozenset({"EVAL", "EVALSHA", "EVAL_RO", "EVALSHA_RO"})
# Commands of no key: any node will do.
_KEYLESS = frozenset({"PING", "INFO", "PUBLISH", "CONFIG", "CLUSTER", "SCRIPT", "TIME"})


class Slots:
    """Who holds which slot, as it was heard last: a store keeps it over all connections."""

    __slots__ = ("_probes", "_table", "known", "primaries")

    def __init__(self) -> None:
        self.primaries: frozenset[Node] = frozenset()
        self.known: tuple[Node, ...] = ()  # replicas too
        self._table: list[Node | None] = [None] * _SLOTS
        self._probes: dict[Node, str] | None = None

    def learn(self, reply: list[Any], asked: Node) -> None:
        """Take in what `asked` answered to CLUSTER SLOTS. Raises ClusterDownError when slots are nobody's."""
        table: list[Node | None] = [None] * _SLOTS
        known: dict[Node, None] = {}
        covered = 0
        for first, last, *nodes in reply:
            places = [_node(node, asked) for node in nodes]
            known.update(dict.fromkeys(places))
            table[first : last + 1] = [places[0]] * (last + 1 - first)
            covered += last + 1 - first
        if covered < _SLOTS:
            raise ClusterDownError(f"{_SLOTS - covered} of {_SLOTS} slots are nobody's")
        self._table = table
        self._probes = None
        self.known = tuple(known)
        self.primaries = frozenset(node for node in table if node is not None)

    def home(self, key: str) -> Node | None:
        """The primary that holds `key`."""
        return self._table[key_slot(key.encode("utf-8", "surrogateescape"))]

    def move(self, key: str, node: Node) -> None:
        """The slot of `key` has gone to `node`."""
        self._table[key_slot(key.encode("utf-8", "surrogateescape"))] = node

    def probes(self) -> dict[Node, str]:
        """A key for each primary that lies in one of its slots."""
        if self._probes is None:
            missing = set(self.primaries)
            self._probes = {}
            # A node of a few slots may go without; to look on would take longer than a connection may.
            for number in range(4096):
                key = f"{PROBE}:{number}"
                home = self.home(key)
                if home in missing:
                    missing.discard(home)
                    self._probes[home] = key
                    if not missing:
                        break
        return self._probes


class ClusterLink:
    """A `Carrier`, and the owner of the links to the primaries."""

    def __init__(self, address: Address, timeout: float, owner: Owner, slots: Slots) -> None:
        self._address = address
        self._timeout = timeout
        self._owner = owner
        self._slots = slots
        self._loop = asyncio.get_running_loop()
        self._links: dict[Node, Link] = {}
        # Commands for nodes that are being connected to, and whether ASKING goes before.
        self._waiting: dict[Node, list[tuple[Command, bool]]] = {}
        self._opening: dict[Node, asyncio.Task[Link]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._refreshing: asyncio.Task[None] | None = None
        self._broken = False

    async def open(self) -> None:
        """Learn the slots from the first node that knows them, and connect to every primary."""
        async with asyncio.timeout(_OPEN * self._timeout):
            await self._learn()
            await asyncio.gather(*(self._link(node) for node in self._slots.primaries))

    async def prove(self) -> None:
        """See every primary take a write."""
        probes = self._slots.probes()
        await asyncio.gather(*(link.prove(probes.get(node)) for node, link in self._links.items()))

    def submit(self, command: Command) -> None:
        key = _key(command.args)
        node = next(iter(self._links), None) if key is None else self._slots.home(key)
        if node is None or self._broken:
            command.fail(StoreDown("the connections are broken"))
        else:
            self._send(node, command)

    def abandon(self, error: Exception) -> None:
        if not self._broken:
            self._owner.lost(self, error, self._detach())

    async def close(self) -> list[Command]:
        unanswered = self._detach()
        await stop(self._tasks)
        await asyncio.gather(*(link.close() for link in self._links.values()))
        return unanswered

    async def refresh(self) -> None:
        """Ask for the slots again. Raises StoreError, RedisError or OSError."""
        if self._refreshing is None or self._refreshing.done():
            self._refreshing = self._task(self._relearn())
        await asyncio.shield(self._refreshing)

    # --- the owner of links ----------------------------------------------------------------------------------------

    def landed(self, seconds: float) -> None:
        """A reply came."""
        self._owner.landed(seconds)

    def lost(self, carrier: Link, error: Exception, unanswered: list[Command]) -> None:
        """One link broke: they are all given up."""
        if self._broken:
            for command in unanswered:
                command.fail(StoreDown(text(error)))
        else:
            self._owner.lost(self, error, [*unanswered, *self._detach()])

    def doubted(self, carrier: Link) -> None:
        """A node refused something in a way that may mean everything."""
        self._owner.doubted(self)

    def redirected(self, carrier: Link, command: Command, error: ResponseError) -> None:
        """MOVED: the slot has another home. ASK: only this command goes there. TRYAGAIN: its keys are on their way."""
        if not isinstance(error, AskError):
            if monotonic() + _TRY_AGAIN < command.due:
                self._loop.call_later(_TRY_AGAIN, self.submit, command)
            else:
                command.fail(StoreRefused(text(error)))
        elif command.hops == _HOPS:
            command.fail(StoreRefused(text(error)))
        else:
            command.hops += 1
            # Without a host it is the one that answered.
            origin = next((node for node, link in self._links.items() if link is carrier), ("", 0))
            node = (error.host or origin[0], int(error.port))
            if isinstance(error, MovedError):
                key = _key(command.args)
                if key is not None:
                    self._slots.move(key, node)
                if self._refreshing is None or self._refreshing.done():
                    self._refreshing = self._task(self._relearn())
                self._send(node, command)
            else:
                self._send(node, command, asking=True)

    # --- nodes -----------------------------------------------------------------------------------------------------

    def _send(self, node: Node, command: Command, *, asking: bool = False) -> None:
        link = self._links.get(node)
        if link is None:
            waiting = self._waiting.get(node)
            if waiting is None:
                waiting = self._waiting[node] = []
                self._task(self._reach(node))
            waiting.append((command, asking))
            return
        if asking:
            link.ask("ASKING").add_done_callback(_forget)
        link.submit(command)

    async def _reach(self, node: Node) -> None:
        """Connect to a node that was heard of in a redirection."""
        try:
            link = await self._link(node)
        except Exception as error:  # whatever it is, a primary cannot be reached
            self.abandon(error)
            return
        for command, asking in self._waiting.pop(node, ()):
            if asking:
                link.ask("ASKING").add_done_callback(_forget)
            link.submit(command)

    async def _link(self, node: Node) -> Link:
        link = self._links.get(node)
        if link is not None:
            return link
        if node not in self._opening:
            self._opening[node] = self._task(self._open_link(node))
        return await asyncio.shield(self._opening[node])

    async def _open_link(self, node: Node) -> Link:
        try:
            link = Link(self._address.connection(node, self._timeout), self._timeout, self)
            await link.open()
            self._links[node] = link
            return link
        finally:
            del self._opening[node]

    async def _learn(self) -> None:
        """Ask the nodes that are known, and those of the address, all at once: some of them may hang."""
        named = [node for node in self._address.endpoints if isinstance(node, tuple)]
        nodes = list(dict.fromkeys([*named, *self._slots.known]))[:_ASKED]
        asking = {self._task(self._ask(node)) for node in nodes}
        error: Exception = ClusterDownError("no node is known")
        try:
            while asking:
                done, asking = await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    failure = task.exception()
                    if failure is None:
                        return
                    if isinstance(failure, Exception):
                        error = failure
        finally:
            await stop(asking)
        raise error

    async def _ask(self, node: Node) -> None:
        """Learn the slots from `node`."""
        link = self._links.get(node)
        if link is not None:
            self._slots.learn(await link.ask("CLUSTER", "SLOTS"), node)
            return
        asked = Link(self._address.connection(node, self._timeout), self._timeout, _Inquirer())
        try:
            await asked.open()
            self._slots.learn(await asked.ask("CLUSTER", "SLOTS"), node)
        finally:
            await asked.close()

    async def _relearn(self) -> None:
        """Learn the slots anew, connect to new primaries, and let go of those that are none any more."""
        for node in list(self._links):
            try:
                await self._ask(node)
                break
            except StoreRefused:
                continue
        await asyncio.gather(*(self._link(node) for node in self._slots.primaries))
        for node in self._links.keys() - self._slots.primaries:
            link = self._links.pop(node)
            # What was on its way to it is sent to whoever has its keys now.
            for command in await link.close():
                self.submit(command)

    def _detach(self) -> list[Command]:
        self._broken = True
        unanswered = [command for link in self._links.values() for command in link.detach()]
        for waiting in self._waiting.values():
            unanswered += [command for command, _ in waiting]
        self._waiting.clear()
        return unanswered

    def _task(self, work: Any) -> asyncio.Task[Any]:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(_forget)
        return task


class _Inquirer:
    """The owner of a link that is used for one question."""

    def landed(self, seconds: float) -> None:
        """Nothing to count."""

    def lost(self, carrier: Any, error: Exception, unanswered: Iterable[Command]) -> None:
        """Whoever asked is told why."""
        for command in unanswered:
            command.fail(error)

    def doubted(self, carrier: Any) -> None:
        """It is not the store's connection."""

    def redirected(self, carrier: Any, command: Command, error: ResponseError) -> None:
        """No question of its is about a key."""
        command.fail(StoreRefused(text(error)))


def _key(args: tuple[Argument, ...]) -> str | None:
    """The first key of a command; a script's keys lie together."""
    name = args[0]
    if name in _SCRIPTS:
        return str(args[3]) if int(args[2]) else None
    return None if name in _KEYLESS or len(args) < 2 else str(args[1])


def _node(said: list[Any], asked: Node) -> Node:
    """A node as CLUSTER SLOTS names it; without a host it is the one that was asked."""
    host = said[0].decode() if said[0] else ""
    return (host if host and host != "?" else asked[0], int(said[1]))


def _forget(reply: asyncio.Future[Any]) -> None:
    """Take note of a failure, or asyncio reports it as one that nobody saw."""
    if not reply.cancelled():
        reply.exception()
