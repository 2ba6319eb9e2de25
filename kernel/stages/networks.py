"""Networks: from where a route may be called, by IP_ALLOW and IP_DENY and by the route's own lists.

An address has to be in every list of those allowed that is not empty, and in none of those denied. Probes and scrapes, which
come by address, are judged by ADMIN_ALLOW or not at all.
"""

from __future__ import annotations

from ipaddress import ip_network
from typing import Final

from kernel.config import Settings
from kernel.exchange.exchange import Exchange, Stage
from kernel.exchange.phase import Phase
from kernel.http.addresses import UNKNOWN, Peers
from kernel.http.problems import ADDRESS_FORBIDDEN, Problem
from kernel.routing.catalog import RouteRow
from kernel.state import State

NAME: Final = Phase("networks")


def _lists(settings: Settings, row: RouteRow) -> tuple[list[tuple[str, ...]], list[str]]:
    """The lists of which an address must be in each, and the networks of which it must be in none."""
    if row.direct:
        return [], []
    of_all = tuple(str(network) for network in settings.ip_allow)
    denied = [str(network) for network in settings.ip_deny]
    return [each for each in (of_all, row.ip_allow) if each], [*denied, *row.ip_deny]


def describe(settings: Settings, row: RouteRow) -> str:
    """What the stage demands of a request, in words; empty where it has no part in the route."""
    allowed, denied = _lists(settings, row)
    texts = [f"from {', '.join(each)}" for each in allowed]
    if denied:
        texts.append(f"not from {', '.join(denied)}")
    return "; ".join(texts)


def make(state: State, row: RouteRow) -> Stage | None:
    """The stage of routes that not every address may call."""
    allowed, denied = _lists(state.settings, row)
    if not allowed and not denied:
        return None
    # PERF: one look at a memo of addresses for each list: 0.1 us.
    ins = tuple(Peers([ip_network(each) for each in networks]) for networks in allowed)
    out = Peers([ip_network(each) for each in denied])

    def networks(x: Exchange) -> Problem | None:
        address = x.client_ip
        # SECURITY: who cannot be told ("unknown", of a proxy's header) may be one that is denied.
        if address in out or address == UNKNOWN or any(address not in each for each in ins):
            return ADDRESS_FORBIDDEN()
        return None

    return networks
