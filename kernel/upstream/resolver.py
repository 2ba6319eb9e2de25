"""Names of services, resolved again and again in the background: who moves is followed, all of a name's addresses are used.

Rules:
- Nothing on a request's way waits for it: until a name's first answer connections are made by the name, as ever.
- A lookup that fails, or finds nothing, changes nothing: the last good answer stays.
- One lookup of a name at a time, in the loop's threads. Literal addresses and unix sockets are never looked up.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import random
import socket
from collections.abc import Awaitable, Callable, Sequence

from msgspec import Struct

from kernel.telemetry.log import Log

MOST_ADDRESSES = 16
_MOST_SPARE = 2
# PERF: uvloop has four threads for lookups, and a silent DNS server keeps each for ten seconds: the store's must not wait.
_AT_ONCE = 2
# Who cannot connect asks for a lookup now; no more often than this, in seconds.
_SOONEST = 1.0

Lookup = Callable[[str], Awaitable[Sequence[str]]]


class Found(Struct, frozen=True):
    """What a name stands for: `addresses` of the family that the system prefers, and a few `spare` ones of the other.

    A host with two families is one replica, not two: the other family is only for when a connection cannot be made
    (RFC 8305).
    """

    addresses: tuple[str, ...]
    spare: tuple[str, ...] = ()


Moved = Callable[[Found], None]


def is_literal(host: str) -> bool:
    """Whether there is nothing to look up."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def sorted_out(answer: Sequence[str]) -> Found:
    """`answer` as the system orders it (RFC 6724: the better family first); DNS shuffles the rest, so it is sorted."""
    unique = tuple(dict.fromkeys(answer))
    first = ":" in unique[0]
    same = sorted(each for each in unique if (":" in each) == first)
    other = sorted(each for each in unique if (":" in each) != first)
    return Found(tuple(same[:MOST_ADDRESSES]), tuple(other[:_MOST_SPARE]))


class Resolver:
    """One a worker. `refresh` is how long an answer is used, in seconds, give or take a tenth."""

    def __init__(self, log: Log, refresh: float, lookup: Lookup | None = None) -> None:
        self._log = log
        self._refresh = refresh
        self._lookup = lookup or _by_system
        self._watchers: dict[str, list[Moved]] = {}
        self._known: dict[str, Found] = {}
        self._room = asyncio.Semaphore(_AT_ONCE)
        self._soon: dict[str, asyncio.Event] = {}
        self._tasks: list[asyncio.Task[None]] = []

    def watch(self, host: str, moved: Moved) -> None:
        """Call `moved` with what `host` stands for, as soon as that is known and whenever it changes."""
        if host in self._watchers:
            self._watchers[host].append(moved)
            if host in self._known:
                moved(self._known[host])
            return
        self._watchers[host] = [moved]
        self._soon[host] = asyncio.Event()
        self._tasks.append(asyncio.create_task(self._keep(host), name=f"resolve-{host}"))

    def doubt(self, host: str) -> None:
        """It cannot be reached where it was: look again now."""
        event = self._soon.get(host)
        if event is not None:
            event.set()

    async def close(self) -> None:
        """No more lookups."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _keep(self, host: str) -> None:
        failing = ""
        while True:
            try:
                async with self._room:
                    answer = await self._lookup(host)
                why = "" if answer else "no addresses"
                if answer:
                    self._tell(host, sorted_out(answer))
            except (OSError, UnicodeError) as error:
                why = error.strerror or str(error) if isinstance(error, OSError) else "not a host name"
            except Exception as error:  # nothing may end this: nobody would follow the name any more
                why = type(error).__name__
            # One that was never resolved is the prober's to tell: its service is unhealthy.
            if host not in self._known:
                why = ""
            if why and why != failing:
                self._log.warning("name of a service not resolved", host=host, reason=why.lower())
            elif failing and not why:
                self._log.info("name of a service resolved again", host=host)
            failing = why
            await self._pause(host)

    def _tell(self, host: str, found: Found) -> None:
        before = self._known.get(host)
        if found == before:
            return
        self._known[host] = found
        if before is not None:
            self._log.info("addresses of a service changed", host=host, addresses=list(found.addresses))
        for moved in self._watchers[host]:
            moved(found)

    async def _pause(self, host: str) -> None:
        soon = self._soon[host]
        await asyncio.sleep(min(_SOONEST, self._refresh))
        left = self._refresh * random.uniform(0.9, 1.1) - _SOONEST  # noqa: S311  # spreads load, hides nothing
        if left > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await soon.wait()
        soon.clear()


async def _by_system(host: str) -> Sequence[str]:
    """As `getaddrinfo` does it: hosts file, search domains, DNS. Its own timeouts bound it."""
    found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return [entry[4][0] for entry in found if isinstance(entry[4][0], str)]
