"""What stands beside the services of a catalogue."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from kernel.routing.catalog import Service
from kernel.routing.traffic import Canary, Mirror, canary_of, mirror_of


def beside(catalog: Iterable[Service]) -> Iterator[tuple[str, Service, Canary | Mirror]]:
    """The canaries and mirrors: (its name, the service, what it is) of each."""
    for service in catalog:
        if service.canary is not None:
            yield canary_of(service.name), service, service.canary
        if service.mirror is not None:
            yield mirror_of(service.name), service, service.mirror
