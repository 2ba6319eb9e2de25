"""Canary: a share of a service's requests goes to another version of it, always the same users' or tenants'.

A client's place is a hash of the service and of who asks, out of 10,000: below the share it is the canary's. So it is the
same in every worker, gateway and year; a growing share only adds clients; another service's canary has other clients.

A canary that cannot be reached costs nobody a request: the service gets what was not written yet.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Awaitable, Mapping
from hashlib import blake2b

from kernel.exchange.exchange import Exchange, Handler
from kernel.http.addresses import address_key
from kernel.http.problems import UPSTREAM_OPEN, ProblemKind
from kernel.routing.traffic import BY_TENANT, Canary
from kernel.upstream.balance import Upstream

PLACES = 10_000
_ALWAYS, _NEVER = b"always", b"never"


def place(service: bytes, who: str) -> int:
    """Where `who` stands among the callers of `service`: 0 to 9,999. PERF: 0.6 us."""
    digest = blake2b(who.encode(), digest_size=8, key=service).digest()
    return int.from_bytes(digest, "big") % PLACES


class Split:
    """Between `service` and its canary at `upstream`, as `canary` says. One a worker and service."""

    def __init__(self, canary: Canary, service: Upstream, upstream: Upstream) -> None:
        self.upstream = upstream
        self._service = service
        # A key has 64 bytes at most.
        self._key = service.name.encode()[:64]
        self._share = round(canary.percent * PLACES / 100)
        self._by_tenant = canary.sticky == BY_TENANT
        self._value = canary.value.encode()
        # As HTTP frameworks read it: "_" is "-" in names.
        name = canary.header.replace("-", "[-_]").encode()
        self._line = re.compile(rb"%b:[ \t]*(.*?)[ \t]*\r\n" % name, re.DOTALL) if name else None
        # What the canary should have had, by the reason that it had not.
        self.fallbacks: defaultdict[str, int] = defaultdict(int)

    def beside(self, service: Handler, canary: Handler) -> Handler:
        """The handler that gives each request to one of these."""
        takes = self.takes

        def either(x: Exchange) -> Awaitable[None] | None:
            return canary(x) if takes(x) else service(x)

        return either

    def takes(self, x: Exchange) -> bool:
        """Whether the canary has `x`. The header that decides is taken out of it: it is for the gateway alone."""
        wanted = self._demanded(x) if self._line is not None else None
        if wanted is None:
            wanted = self._share > 0 and place(self._key, self._who(x)) < self._share
        if wanted and not self.upstream.admits():
            self.fallbacks[UPSTREAM_OPEN.code] += 1
            return False
        return wanted

    def fall_back(self, x: Exchange, kind: ProblemKind) -> Upstream:
        """The service, for what the canary cannot have: see `forward`."""
        self.fallbacks[kind.code] += 1
        x.service = self._service.name
        return self._service

    def _who(self, x: Exchange) -> str:
        """Who stays together: a tenant, or a user; of whom nobody knows, an address."""
        if self._by_tenant and x.tenant:
            return f"tenant:{x.tenant}"
        identity = x.identity
        if identity is None:
            return address_key(x.client_ip)
        if identity.kind == "service" and x.tenant:
            # Few services ask for many: all of one's would be a share of its own.
            return f"{identity.bucket}:{x.tenant}"
        return identity.bucket

    def _demanded(self, x: Exchange) -> bool | None:
        """What the header says, if it is there and says anything."""
        line = self._line
        assert line is not None
        found = [match for match in map(line.fullmatch, x.lines) if match is not None]
        if not found:
            return None
        for match in found:
            x.lines.remove(match[0])
        value = found[-1][1]
        if self._value:
            return True if value == self._value else None
        return True if value == _ALWAYS else False if value == _NEVER else None


def families(splits: Mapping[str, Split]) -> dict[str, dict[tuple[str, str], int]]:
    """Their metrics, beside those that the canaries have as services do."""
    return {
        "gateway_canary_fallbacks_total": {
            (service, reason): count
            for service, split in splits.items()
            for reason, count in split.fallbacks.items()
        }
    }
