"""From a merged snapshot to the bytes Prometheus reads: text 0.0.4, or OpenMetrics when the Accept header asks for it.

Imported at the first scrape only: prometheus_client costs a worker 30 ms and 5 MiB that serving does not need.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.exposition import choose_encoder

from kernel.telemetry.families import COUNTER, FAMILIES, HISTOGRAM, Family, Samples, Snapshot

_OPENMETRICS = "application/openmetrics-text; version=1.0.0"


def expose(snapshot: Snapshot, accept: str) -> tuple[str, bytes]:
    """The content type and body for an Accept header (empty: text 0.0.4)."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(SnapshotCollector(snapshot))
    # Not the client's own header: prometheus_client fails on a version that is no number, and promises any that is one.
    encoder, content_type = choose_encoder(_OPENMETRICS if "application/openmetrics-text" in accept else "")
    return content_type, encoder(registry)


class SnapshotCollector:
    """A prometheus_client custom collector over one snapshot.

    Every family is present with its HELP, even when nothing has been counted yet.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        """One `Metric` a family."""
        for family in FAMILIES.values():
            yield _metric(family, self._snapshot.get(family.name, {}))


def _metric(family: Family, samples: Samples) -> Metric:
    # A counter's family carries no suffix, its samples do (OpenMetrics); text 0.0.4 puts it back.
    base = family.name.removesuffix("_total")
    metric = Metric(base, family.help, family.kind)
    bounds = (*(repr(bound) for bound in family.bounds), "+Inf")
    for values, value in sorted(samples.items()):
        labels = dict(zip(family.labels, values, strict=True))
        if not isinstance(value, list):
            metric.add_sample(family.name if family.kind == COUNTER else base, labels, value)
            continue
        seen = 0.0
        for bound, count in zip(bounds, value[1:], strict=True):
            seen += count
            if family.kind == HISTOGRAM:
                metric.add_sample(base + "_bucket", {**labels, "le": bound}, seen)
        metric.add_sample(base + "_count", labels, seen)
        metric.add_sample(base + "_sum", labels, value[0])
    return metric
