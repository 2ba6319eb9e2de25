"""Merging in a process of its own: 19 usual services have 8 MB. At most once a minute, and only when a document changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

import msgspec
from msgspec import Struct

from kernel.openapi.editions import Edition
from kernel.openapi.together import merged
from kernel.primitives.own_process import OwnProcess, begin, give, given
from kernel.routing.catalog import RouteRow

# Exit codes beside 0: a result, of which a service's document is missing.
_INCOMPLETE = 3


class _Job(Struct):
    """What goes before the documents themselves, which follow in this order. `reasons`: why others have none."""

    rows: tuple[RouteRow, ...]
    # Of all services, in order.
    services: tuple[str, ...]
    reasons: dict[str, str]
    version: str
    index: tuple[dict[str, Any], ...]


class Maker:
    """Calls `merged` in another process; a call blocks and belongs into a thread."""

    def __init__(self, edition: Edition) -> None:
        self._edition = edition
        self._process = OwnProcess(__name__, frozenset((0, _INCOMPLETE)))
        self.stop = self._process.stop

    def __call__(self, own: bytes, found: Mapping[str, bytes | str]) -> tuple[bytes, bool]:
        """What `merged` returns. Raises `NotMade`."""
        edition = self._edition
        bodies = [body for body in found.values() if isinstance(body, bytes)]
        reasons = {name: body for name, body in found.items() if isinstance(body, str)}
        job = msgspec.msgpack.encode(
            _Job(edition.rows, tuple(found), reasons, edition.version, edition.index)
        )
        body, code = self._process((job, own, *bodies))
        return body, code == 0


def main() -> NoReturn:
    """The other side."""
    begin()
    job = msgspec.msgpack.decode(given(), type=_Job)
    own = given()
    found = {name: job.reasons.get(name) or given() for name in job.services}
    body, complete = merged(own, found, job.rows, job.version, job.index)
    give(body, 0 if complete else _INCOMPLETE)
