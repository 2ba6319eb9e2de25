"""The policy stages, one a file. `ORDER` is the order in which they run.

A stage's module declares
- `NAME`, its public name: in the access log's `phase`, in `gateway explain`, in the profile;
- `make(state, row)`, the stage of a route, or None where it has no part in it;
- `describe(settings, row)`, what it demands, in words; empty where `make` gives None.

The limiter comes before authentication, so that no signature is verified for a client over its limit.
"""

from __future__ import annotations

from typing import Protocol

from kernel.config import Settings
from kernel.exchange.exchange import Stage
from kernel.exchange.phase import Phase
from kernel.routing.catalog import RouteRow
from kernel.stages import (
    admin,
    assertion,
    attempts,
    authenticate,
    capture,
    cors,
    credentials,
    critical,
    demo,
    edge,
    freshness,
    handshake,
    lifecycle,
    limit,
    networks,
    quota,
    readonly,
    subscription,
    tenancy,
)
from kernel.state import State


class Policy(Protocol):
    """What a stage's module declares."""

    @property
    def NAME(self) -> Phase: ...  # noqa: N802  # a constant of the module

    def make(self, state: State, row: RouteRow) -> Stage | None: ...

    def describe(self, settings: Settings, row: RouteRow) -> str: ...


ORDER: tuple[Policy, ...] = (
    capture,
    cors,
    lifecycle,
    edge,
    networks,
    handshake,
    credentials,
    limit,
    attempts,
    admin,
    authenticate,
    demo,
    tenancy,
    quota,
    freshness,
    subscription,
    readonly,
    critical,
    assertion,
)
# What every answer needs, preflights and shed load included.
ALWAYS: tuple[Policy, ...] = (capture, cors, edge)

Named = tuple[Phase, Stage]


def compile_stages(state: State, row: RouteRow, order: tuple[Policy, ...] = ORDER) -> tuple[Named, ...]:
    """The stages a row's requests run through, each with its name."""
    return tuple((policy.NAME, stage) for policy in order if (stage := policy.make(state, row)) is not None)


def describe(settings: Settings, row: RouteRow) -> list[tuple[str, str]]:
    """(stage, what it demands) of each stage a route has, in order."""
    return [(policy.NAME, text) for policy in ORDER if (text := policy.describe(settings, row))]
