"""Route: one compiled row of the catalogue, with everything a request needs decided beforehand."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from kernel.exchange.exchange import Exchange
from kernel.http.problems import Problem
from kernel.routing.catalog import RouteRow
from kernel.telemetry.metrics import RouteMeter

Stage = Callable[[Exchange], "Problem | Awaitable[Problem | None] | None"]
# None: nothing to wait for, the exchange's lane will hear of its end.
Handler = Callable[[Exchange], Awaitable[None] | None]


class Lane(Protocol):
    """Who runs an exchange that no task waits for; see kernel/server/intake.py."""

    def over(self, x: Exchange) -> None:
        """Its answer is out."""

    def go_on(self, x: Exchange, rest: Awaitable[None]) -> None:
        """It cannot do without a task any more; `rest` is what is left of its handler."""


class Route:
    """A row's compiled form.

    `stages` run in order until one answers with a problem; `handler` makes the response. `template` labels metrics and
    logs. Routes that are `exempt` are never shed.
    """

    __slots__ = ("admin", "exempt", "handler", "meter", "row", "stages", "template")

    def __init__(
        self, row: RouteRow, template: str, stages: tuple[Stage, ...], handler: Handler, meter: RouteMeter
    ) -> None:
        self.row = row
        self.template = template
        self.stages = stages
        self.handler = handler
        self.meter = meter
        self.admin = row.admin
        self.exempt = row.handler in PROBES


# Handlers that answer whatever the load, without a limit: an orchestrator that cannot ask kills a healthy, busy gateway,
# and an operator needs the numbers most when there is too much of everything.
PROBES = frozenset({"health", "live", "metrics", "ready", "services"})
