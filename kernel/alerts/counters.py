"""What alerts and their streams count, as plain attributes; `families` makes metrics of them."""

from __future__ import annotations

from collections import defaultdict
from typing import Any


class Counters:
    """One a worker."""

    __slots__ = (
        "closed",
        "dropped",
        "duplicates",
        "malformed",
        "opened",
        "recorded",
        "refused",
        "replayed",
        "resets",
        "sent",
    )

    def __init__(self) -> None:
        self.recorded = 0
        self.duplicates = 0
        self.dropped = 0
        self.malformed: defaultdict[str, int] = defaultdict(int)
        self.opened = 0
        self.refused = 0
        self.sent = 0
        self.replayed = 0
        self.resets: defaultdict[str, int] = defaultdict(int)
        self.closed: defaultdict[str, int] = defaultdict(int)

    def families(self) -> dict[str, Any]:
        """For metrics."""
        return {
            "gateway_alerts_recorded_total": self.recorded,
            "gateway_alerts_duplicate_total": self.duplicates,
            "gateway_alerts_dropped_total": self.dropped,
            "gateway_alerts_malformed_total": dict(self.malformed),
            "gateway_sse_streams_opened_total": self.opened,
            "gateway_sse_streams_refused_total": self.refused,
            "gateway_sse_streams_closed_total": dict(self.closed),
            "gateway_sse_events_total": self.sent,
            "gateway_sse_replayed_total": self.replayed,
            "gateway_sse_resets_total": dict(self.resets),
        }
