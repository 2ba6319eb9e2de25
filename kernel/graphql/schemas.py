"""Schemas: the one in use in this worker, made when the worker starts and anew in the background when a document has changed.

Nobody waits for a new one. A document that cannot be had, or is no use, changes nothing: the service's last good one stays.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from hashlib import sha256
from time import monotonic
from typing import Any

from graphql import GraphQLError

from kernel.graphql.maker import ModelMaker
from kernel.graphql.model import Model
from kernel.graphql.schema import Built, built
from kernel.http.problems import GRAPHQL_UNAVAILABLE, GatewayError
from kernel.openapi.fetching import Call, fetched
from kernel.primitives.own_process import NotMade
from kernel.primitives.single_flight import SingleFlight
from kernel.routing.catalog import RouteRow, Service
from kernel.telemetry.log import Log

_FRESH_SECONDS = 60.0
# A service that is missing may just be starting.
_INCOMPLETE_SECONDS = 10.0
# How long a request waits for the first one.
_PATIENCE = 10.0
_RETRY = ((b"retry-after", b"2"),)


class Schemas:
    """One a worker. `call(service, path)` fetches a service's document. `tell`: clients learn why something is left out."""

    def __init__(
        self,
        services: tuple[Service, ...],
        rows: tuple[RouteRow, ...],
        call: Call,
        log: Log,
        *,
        tell: bool,
    ) -> None:
        self._services = services
        self._maker = ModelMaker(rows)
        self._call = call
        self._log = log
        self._tell_clients = tell
        self._flight: SingleFlight[str, None] = SingleFlight()
        self._built: Built | None = None
        # A digest of what it was made of.
        self._of = b""
        # The last document of each service that was of use.
        self._good: dict[str, bytes] = {}
        self._told: dict[str, str] = {}
        self._until = 0.0
        self._renewed = 0

    def start(self) -> None:
        """Make the first one; nobody waits for it yet."""
        self._flight.start("", self._make)

    async def get(self) -> Built:
        """The schema. Raises GatewayError: GRAPHQL_UNAVAILABLE, there is none yet."""
        if self._built is None:
            try:
                async with asyncio.timeout(_PATIENCE):
                    await self._flight.run("", self._make)
            except TimeoutError:
                pass
            if self._built is None:
                raise GatewayError(GRAPHQL_UNAVAILABLE(headers=_RETRY))
        elif monotonic() >= self._until:
            self._flight.start("", self._make)
        return self._built

    def families(self) -> dict[str, Any]:
        """For the metrics."""
        return {"gateway_graphql_schemas_total": self._renewed}

    async def close(self) -> None:
        """End what is under way."""
        self._maker.stop()
        await self._flight.close()

    async def _make(self) -> None:
        found = await fetched(self._services, self._call)
        reasons = {name: body for name, body in found.items() if isinstance(body, str)}
        use = {name: self._good.get(name, body) if name in reasons else body for name, body in found.items()}
        of = _digest(use)
        if self._built is None or of != self._of:
            try:
                model, built_ = await asyncio.to_thread(self._model, use)
            except (NotMade, GraphQLError, TypeError, ValueError, LookupError) as why:
                self._log.warning("no GraphQL schema could be made", reason=str(why))
                self._until = monotonic() + _INCOMPLETE_SECONDS
                return
            reasons |= {part.name: part.reason for part in model.services if part.reason}
            self._of = of
            self._built = built_
            self._renewed += 1
        self._tell(reasons)
        self._until = monotonic() + (_INCOMPLETE_SECONDS if reasons else _FRESH_SECONDS)

    def _model(self, use: dict[str, bytes | str]) -> tuple[Model, Built]:
        """Of the documents that are of `use`; a bad one's place is taken by the last good one."""
        model = self._maker(use)
        bad = {part.name: part.reason for part in model.services if part.reason and part.name in self._good}
        if bad:
            kept = {name: self._good[name] for name in bad}
            model = self._maker({**use, **kept})
            use = {**use, **kept}
        for part in model.services:
            body = use[part.name]
            if part.name in bad:
                part.reason = bad[part.name]
            elif not part.reason and isinstance(body, bytes):
                self._good[part.name] = body
        return model, built(model, tell=self._tell_clients)

    def _tell(self, reasons: Mapping[str, str]) -> None:
        """One line in the log for each service, when it changes."""
        for name, reason in reasons.items():
            if self._told.get(name) != reason:
                kept = name in self._good
                self._log.warning(
                    "GraphQL goes on with a service's last good document"
                    if kept
                    else "a service is not in GraphQL",
                    service=name,
                    reason=reason,
                )
        self._told = dict(reasons)


def _digest(found: Mapping[str, bytes | str]) -> bytes:
    of = sha256()
    for name, body in found.items():
        data = body if isinstance(body, bytes) else b"\0" + body.encode()
        of.update(b"%b %d\n" % (name.encode(), len(data)))
        of.update(data)
    return of.digest()
