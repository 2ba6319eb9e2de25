"""Upstream: a service with its replicas. Chooses the replica, keeps the retry budget, tells what it knows.

Each replica has a breaker of its own; the service's breaker is open when all of them are. A replica whose breaker is open,
or that fails while the others are well (outlier.py), is ejected: it gets no request while another can take it.

Every URL of a service is a replica, and every address of a name in one (resolver.py): they come and go while requests flow.
"""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from kernel.exchange.exchange import Exchange
from kernel.http.problems import UPSTREAM_OPEN, UPSTREAM_TIMEOUT, GatewayError, Problem, ProblemKind
from kernel.primitives.tls import client_context
from kernel.upstream.address import Address, parse
from kernel.upstream.breaker import CLOSED, HALF_OPEN, OPEN, Breaker
from kernel.upstream.fast_response import FastResponseReader
from kernel.upstream.outlier import Standing, blame
from kernel.upstream.pool import Pool, PoolLimits, Sweeper
from kernel.upstream.resolver import Found, Resolver, is_literal
from kernel.upstream.response_headers import ResponseHeaders
from kernel.upstream.vital_sign import responds

# A tenth of the requests may be retries, and always a few, so that quiet services get them too (Envoy's retry budget).
_BUDGET_SHARE = 0.1
_BUDGET_MOST = 10.0


class Replica:
    """One address of a service."""

    __slots__ = ("answers", "breaker", "host_line", "pool", "proxy_line", "standing")

    def __init__(self, pool: Pool, preserve_host: bool) -> None:
        authority = pool.address.authority
        pool.owner = self
        self.pool = pool
        self.breaker = Breaker()
        self.standing = Standing()
        self.answers = 0  # less those that only the service's meter counts
        # What follows the target of a request: of ours, and of one that is relayed.
        self.host_line = b" HTTP/1.1\r\nhost: %b\r\n" % authority.encode()
        self.proxy_line = b" HTTP/1.1\r\n" if preserve_host else self.host_line

    @property
    def name(self) -> str:
        """For operators: as it is configured, and where it is."""
        address = self.pool.address
        return f"{address.authority} ({self.pool.ips[0]})" if self.pool.ips else address.authority

    def move(self, ips: tuple[str, ...]) -> None:
        """It is another one now, of which nothing is known."""
        self.pool.move(ips)
        self.breaker = Breaker()
        self.standing = Standing()


class Upstream:
    """Requests to the service `name`. Make it in the loop that uses it; `meter` is told of answers and failures."""

    def __init__(
        self,
        name: str,
        urls: tuple[str, ...],
        sweeper: Sweeper,
        limits: PoolLimits,
        meter: Any,
        *,
        idle_timeout: float = 60.0,
        body_timeout: float = 30.0,
        tls: ssl.SSLContext | None = None,
        headers: ResponseHeaders | None = None,
        preserve_host: bool = False,
        resolver: Resolver | None = None,
        health: str = "",
    ) -> None:
        addresses = [parse(url) for url in urls]
        self.name = name
        self.meter = meter
        self.sweeper = sweeper
        self.idle_timeout = idle_timeout
        self.body_timeout = body_timeout
        # The Host that whoever relays a request says himself, when its client said none; empty: it is said here.
        self.stand_in = addresses[0].authority.encode() if preserve_host else b""
        # Makes its OpenAPI document, where it cannot be asked for it.
        self.document: Callable[[], bytes] | None = None
        # A question that any service can answer, for one that answers nothing; and the replicas that it is put to just now.
        self._health = health.encode()
        self._asked: dict[Replica, asyncio.Task[bool]] = {}
        self._budget = _BUDGET_MOST
        self._counted = 0
        own = frozenset(form for address in addresses for form in address.own)
        reader = (
            FastResponseReader(ResponseHeaders(), own) if headers is None else FastResponseReader(headers)
        )
        if tls is None and any(address.tls for address in addresses):
            tls = client_context()

        def make(address: Address, ips: tuple[str, ...]) -> Replica:
            pool = Pool(address, limits, sweeper, reader, tls if address.tls else None, ips)
            if resolver is not None:
                pool.doubt = partial(resolver.doubt, address.host)
            return Replica(pool, preserve_host)

        self._make = make
        self.replicas = [make(address, ()) for address in addresses]
        # Those that requests may still be at, whose address is gone.
        self._leaving: list[Replica] = []
        # The usual case is decided without a call.
        self.only = self.replicas[0] if len(self.replicas) == 1 else None
        sweeper.watchers.append(self._look)
        if resolver is not None:
            for address in addresses:
                if not address.path and not is_literal(address.host):
                    resolver.watch(address.host, partial(self._moved, address))

    def other(self, replica: Replica) -> Replica | None:
        """Another replica that admits a request, or None."""
        able = self._able()
        if replica in able:
            able.remove(replica)
        return random.choice(able) if able else None  # noqa: S311  # spreads load, hides nothing

    def any_replica(self) -> Replica:
        """One whatever its breaker says: for probes, by which a recovery shows."""
        return random.choice(self.replicas)  # noqa: S311  # spreads load, hides nothing

    def relent(self) -> None:
        """The service was found well: let the next request try the replicas that are left alone."""
        for replica in self.replicas:
            replica.breaker.relent(self.sweeper.now)

    def admits(self) -> bool:
        """Whether `choose` would find one."""
        only = self.only
        return (only is not None and not only.breaker.troubled) or bool(self._able())

    def choose(self) -> Replica:
        """Of two that a request may go to, drawn by lot, the one with fewer requests in flight.

        PERF: as even as the fewest of all, in practice (Mitzenmacher 2001), and sixteen cost no more than two.

        Raises:
            GatewayError: UPSTREAM_OPEN, with the seconds until the next probe.
        """
        able = self._able()
        if not able:
            soonest = min(replica.breaker.until for replica in self.replicas) - self.sweeper.now
            wait = b"%d" % max(1, int(soonest + 0.999))
            detail = f"{self.name} has failed repeatedly and is left alone for a moment."
            self.meter.failed(UPSTREAM_OPEN.code)
            raise GatewayError(UPSTREAM_OPEN(detail, ((b"retry-after", wait),)))
        count = len(able)
        if count == 1:
            return able[0]
        first = int(random.random() * count)  # noqa: S311  # spreads load, hides nothing
        second = int(random.random() * (count - 1))  # noqa: S311
        one, two = able[first], able[second + (second >= first)]
        return one if one.pool.outstanding <= two.pool.outstanding else two

    def answered(self, replica: Replica, status: int) -> None:
        """An answer of `replica` came, all of it. Of the only one there is nobody need tell."""
        replica.answers += 1
        if replica.standing.answered(status):
            self._blame(replica)

    def failed(self, replica: Replica, kind: ProblemKind, *, begun: bool = False) -> None:
        """`replica` gave no answer, and it is its fault; or one that broke off: `begun`."""
        now = self.sweeper.now
        if kind is UPSTREAM_TIMEOUT:
            if not begun and replica.breaker.timeout(now, self._answers(replica)):
                self._ask(replica)
            return
        if not begun:
            replica.breaker.failure(now, self._answers(replica))
        self._blame(replica)

    def may_retry(self) -> bool:
        """Spend one retry of the budget; False when it is used up."""
        requests = sum(self.meter.outcomes.values())
        self._budget = min(_BUDGET_MOST, self._budget + _BUDGET_SHARE * (requests - self._counted))
        self._counted = requests
        if self._budget < 1:
            return False
        self._budget -= 1
        self.meter.retries += 1
        return True

    @property
    def breaker_state(self) -> str:
        """closed while any replica is, open when all are."""
        now = self.sweeper.now
        states = {replica.breaker.state(now) for replica in self.replicas}
        return CLOSED if CLOSED in states else HALF_OPEN if HALF_OPEN in states else OPEN

    def ejected(self, replica: Replica) -> bool:
        """Whether it gets no request while another can take it."""
        now = self.sweeper.now
        return now < replica.standing.until or replica.breaker.state(now) != CLOSED

    def tls_failures(self) -> Iterator[tuple[Replica, str]]:
        """The replicas that no connection can be made to because of TLS, each with the reason, which is for operators."""
        for replica in self.replicas:
            failure = replica.pool.tls_failure
            if failure:
                yield replica, failure

    def snapshot(self) -> dict[str, Any]:
        """Numbers for metrics and health, summed over the replicas."""
        pools = [replica.pool for replica in self.replicas]
        return {
            "active": sum(len(pool.busy) for pool in pools),
            "idle": sum(len(pool.idle) for pool in pools),
            "waiting": sum(pool.waiting for pool in pools),
            "opened": sum(pool.opened for pool in pools),
            "reused": sum(pool.reused for pool in pools),
            "breaker": self.breaker_state,
            "replicas": len(self.replicas),
            "ejected": sum(map(self.ejected, self.replicas)),
        }

    def exchanges(self) -> Iterator[Exchange]:
        """Those that have a connection now."""
        for replica in self.replicas:
            for connection in replica.pool.busy:
                if connection.watched is not None:
                    yield connection.watched

    def give_up(self, problem: Problem) -> None:
        """End with `problem` what is on the callback lane."""
        for replica in (*self.replicas, *self._leaving):
            for connection in list(replica.pool.busy):
                if connection.listener is not None:
                    connection.fail(GatewayError(problem))

    async def close(self) -> None:
        """Close every pool."""
        if self._look in self.sweeper.watchers:
            self.sweeper.watchers.remove(self._look)
        for task in self._asked.values():
            task.cancel()
        for replica in (*self.replicas, *self._leaving):
            await replica.pool.close()

    # --- inside ---

    def _look(self) -> None:
        """A second has passed."""
        for replica in self.replicas:
            replica.breaker.roll(self._answers(replica))
            replica.pool.renew()
            if replica.breaker.silent:
                self._ask(replica)
        if self._leaving:
            self._leaving = [replica for replica in self._leaving if replica.pool.size]

    def _ask(self, replica: Replica) -> None:
        """Requests to `replica` are not answered: see whether its health path is, before it is left alone and while it is."""
        if not self._health:
            replica.breaker.silence(self.sweeper.now)
        elif replica not in self._asked:
            head = b"GET " + self._health + replica.host_line + b"\r\n"
            task = asyncio.get_running_loop().create_task(responds(replica.pool, head))
            self._asked[replica] = task
            task.add_done_callback(partial(self._said, replica))

    def _said(self, replica: Replica, task: asyncio.Task[bool]) -> None:
        del self._asked[replica]
        if not task.cancelled() and task.exception() is None and task.result():
            replica.answers += 1
            replica.breaker.success()
        elif not task.cancelled():
            replica.breaker.silence(self.sweeper.now)

    def _moved(self, address: Address, found: Found) -> None:
        """The name in `address` stands for what was `found` now. Who has it already stays as it is, with its connections."""
        mine = [replica for replica in self.replicas if replica.pool.address is address]
        free = [replica for replica in mine if replica.pool.ips[:1] not in {(ip,) for ip in found.addresses}]
        have = {replica.pool.ips[0]: replica for replica in mine if replica not in free}
        for ip in found.addresses:
            ips = (ip, *found.spare)
            if ip in have:
                have[ip].pool.ips = ips
            elif free:
                free.pop().move(ips)
            else:
                self.replicas.append(self._make(address, ips))
        for replica in free:
            self.replicas.remove(replica)
            self._leaving.append(replica)
            replica.pool.retire()
        self._count()

    def _count(self) -> None:
        """There may be more than one replica now, or no more than one: whose answers the meter counts."""
        only = self.replicas[0] if len(self.replicas) == 1 else None
        if only is not self.only:
            counted = sum(self.meter.buckets)
            if self.only is not None:
                self.only.answers += counted
            if only is not None:
                only.answers -= counted
            self.only = only

    def _able(self) -> list[Replica]:
        """Those that a request may go to: the ejected ones too, when nobody else is left."""
        now = self.sweeper.now
        able = [replica for replica in self.replicas if replica.breaker.admits(now)]
        return [replica for replica in able if now >= replica.standing.until] or able

    def _answers(self, replica: Replica) -> int:
        """How many `replica` has given."""
        return replica.answers + (sum(self.meter.buckets) if replica is self.only else 0)

    def _blame(self, replica: Replica) -> None:
        now = self.sweeper.now
        others = [
            each.standing
            for each in self.replicas
            if each is not replica and each.breaker.state(now) == CLOSED
        ]
        blame(replica.standing, len(self.replicas), others, now)
