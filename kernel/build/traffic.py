"""What stands beside services: the canaries and mirrors of the catalogue, each with an upstream of its own."""

from __future__ import annotations

from collections.abc import Mapping

from kernel.build.identity import MakeUpstream
from kernel.config import Settings
from kernel.routing.beside import beside
from kernel.routing.traffic import Canary, Mirror
from kernel.telemetry.log import Log
from kernel.telemetry.metrics import Metrics
from kernel.telemetry.trace import Tracer
from kernel.traffic import canary, mirror
from kernel.traffic.canary import Split
from kernel.traffic.mirror import Mirroring
from kernel.upstream.balance import Upstream


def add_upstreams(settings: Settings, upstreams: dict[str, Upstream], make: MakeUpstream) -> None:
    """Put those of the variants beside their services'."""
    for each in beside(settings.service_catalog):
        upstreams[each.name] = make(each.name, each.variant.urls, each.service)


def make_splits(settings: Settings, upstreams: Mapping[str, Upstream], metrics: Metrics) -> dict[str, Split]:
    """By service, where it has a canary."""
    splits = {
        each.service.name: Split(each.variant, upstreams[each.service.name], upstreams[each.name])
        for each in beside(settings.service_catalog)
        if isinstance(each.variant, Canary)
    }
    if splits:
        metrics.register_source("canaries", lambda: canary.families(splits))
    return splits


def make_mirrorings(
    settings: Settings, upstreams: Mapping[str, Upstream], metrics: Metrics, tracer: Tracer, log: Log
) -> dict[str, Mirroring]:
    """By service, where it has a mirror. They are to be closed."""
    mirrorings = {
        each.service.name: Mirroring(each.variant, each.service.name, upstreams[each.name], tracer, log)
        for each in beside(settings.service_catalog)
        if isinstance(each.variant, Mirror)
    }
    if mirrorings:
        metrics.register_source("mirrors", lambda: mirror.families(mirrorings))
    return mirrorings
