"""What stands beside the services of a catalogue."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

from kernel.routing.catalog import Service
from kernel.routing.traffic import Canary, Mirror

CANARY: Literal["canary"] = "canary"
MIRROR: Literal["mirror"] = "mirror"


class Beside(NamedTuple):
    """A canary or a mirror of `service`, of which kind `kind` says."""

    kind: Literal["canary", "mirror"]
    service: Service
    variant: Canary | Mirror

    @property
    def name(self) -> str:
        """In metrics, logs and health."""
        return f"{self.service.name}-{self.kind}"

    @property
    def env(self) -> str:
        """The variable whose URLs are used instead of its own."""
        return f"{self.service.env}_{self.kind.upper()}"


def beside(catalog: Iterable[Service]) -> Iterator[Beside]:
    """All of them."""
    for service in catalog:
        if service.canary is not None:
            yield Beside(CANARY, service, service.canary)
        if service.mirror is not None:
            yield Beside(MIRROR, service, service.mirror)
