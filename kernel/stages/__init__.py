"""The policy stages. `ORDER` is the order in which they run; a factory that returns None leaves its stage out of a route.

The limiter comes before authentication, so that no signature is verified for a client over its limit.
"""

from __future__ import annotations

from collections.abc import Callable

from kernel.exchange.route import Stage
from kernel.routing.catalog import RouteRow
from kernel.stages import (
    admin,
    authenticate,
    cors,
    credentials,
    critical,
    demo,
    edge,
    freshness,
    handshake,
    limit,
    quota,
    readonly,
    subscription,
    tenancy,
)
from kernel.state import State

Factory = Callable[[State, RouteRow], Stage | None]

ORDER: tuple[Factory, ...] = (
    cors.make,
    edge.make,
    handshake.make,
    credentials.make,
    limit.make,
    admin.make,
    authenticate.make,
    demo.make,
    tenancy.make,
    quota.make,
    freshness.make,
    subscription.make,
    readonly.make,
    critical.make,
)
# What every answer needs, preflights and shed load included.
ALWAYS: tuple[Factory, ...] = (cors.make, edge.make)


def compile_stages(state: State, row: RouteRow) -> tuple[Stage, ...]:
    """The flat tuple of stages a row's requests run through."""
    made = (make(state, row) for make in ORDER)
    return tuple(stage for stage in made if stage is not None)
