"""The model is made in a process of its own, and only when some document has changed (see kernel/primitives/own_process.py).

A service of which no valid schema can be made is left out; the others do not suffer.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import NoReturn

import msgspec
from graphql import GraphQLError
from msgspec import Struct

from kernel.graphql.compiling import compiled
from kernel.graphql.model import Model, ServicePart, decode, encode
from kernel.graphql.naming import Unique
from kernel.graphql.schema import built, flaws, reserved
from kernel.openapi.routed import Table, routed_to
from kernel.primitives.own_process import OwnProcess, begin, give, given
from kernel.routing.catalog import RouteRow

# Components may refer to each other in long chains.
_DEEPEST = 20_000


class _Job(Struct):
    """What goes before the documents themselves, which follow in this order. `reasons`: why others have none."""

    rows: tuple[RouteRow, ...]
    services: tuple[str, ...]
    reasons: dict[str, str]


def modelled(found: Mapping[str, bytes | str], rows: tuple[RouteRow, ...]) -> Model:
    """The model of the services' documents, in their order."""
    table = Table(rows)
    unique = Unique(reserved())
    parts = [compiled(name, body, routed_to(table, name), unique) for name, body in found.items()]
    return Model([part if part.reason else _sound(part) for part in parts])


def _sound(part: ServicePart) -> ServicePart:
    try:
        wrong = flaws(built(Model([part])).schema)
    except (GraphQLError, TypeError, ValueError) as error:
        wrong = str(error)[:500]
    return ServicePart(part.name, f"no valid schema comes of it: {wrong}") if wrong else part


class ModelMaker:
    """Calls `modelled` in another process; a call blocks and belongs into a thread."""

    def __init__(self, rows: tuple[RouteRow, ...]) -> None:
        self._rows = rows
        self._process = OwnProcess(__name__)
        self.stop = self._process.stop

    def __call__(self, found: Mapping[str, bytes | str]) -> Model:
        """What `modelled` returns. Raises `NotMade`."""
        bodies = [body for body in found.values() if isinstance(body, bytes)]
        reasons = {name: body for name, body in found.items() if isinstance(body, str)}
        job = msgspec.msgpack.encode(_Job(self._rows, tuple(found), reasons))
        return decode(self._process((job, *bodies))[0])


def main() -> NoReturn:
    """The other side."""
    begin()
    sys.setrecursionlimit(_DEEPEST)
    job = msgspec.msgpack.decode(given(), type=_Job)
    found = {name: job.reasons.get(name) or given() for name in job.services}
    give(encode(modelled(found, job.rows)))
