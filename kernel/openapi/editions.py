"""Which documents there are: one for each version of the API, of the services that have it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from msgspec import Struct

from kernel.routing.catalog import V1, VERSION_UNKNOWN, Lifecycle, RouteRow, Service


class Edition(Struct, frozen=True):
    """One document. `services` are asked for theirs by the names in `upstreams`; `index` tells of all editions."""

    version: str = V1
    services: tuple[Service, ...] = ()
    upstreams: dict[str, str] = {}
    rows: tuple[RouteRow, ...] = ()
    index: tuple[dict[str, Any], ...] = ()


def editions(catalog: tuple[Service, ...], rows: tuple[RouteRow, ...]) -> dict[str, Edition]:
    """The editions by version. v1's has all that is no other version's, the gateway's own endpoints among it."""
    names = sorted({name for service in catalog for name in service.served}, key=lambda name: int(name[1:]))
    # Without a version there is nothing to tell.
    index = tuple(_indexed(name, catalog) for name in names) if any(s.versions for s in catalog) else ()
    found: dict[str, Edition] = {}
    for name in names:
        services = tuple(service for service in catalog if name in service.served)
        upstreams = {
            service.name: version.upstream
            for service in services
            for version in service.versions
            if version.name == name
        }
        wanted = ("", V1) if name == V1 else (name,)
        own = tuple(row for row in rows if row.version in wanted and row.handler != VERSION_UNKNOWN)
        found[name] = Edition(name, services, upstreams, own, index)
    return found


def _indexed(name: str, catalog: tuple[Service, ...]) -> dict[str, Any]:
    lives: dict[str, dict[str, str]] = {service.name: {} for service in catalog if name in service.served} | {
        service.name: dict(_told(version.life))
        for service in catalog
        for version in service.versions
        if version.name == name
    }
    return {"version": name, "document": f"/openapi.json?version={name}", "services": lives}


def _told(life: Lifecycle) -> Iterator[tuple[str, str]]:
    for what, moment in (("deprecated", life.deprecated), ("sunset", life.sunset)):
        if moment is not None:
            yield what, datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    if life.successor:
        yield "successor", life.successor
