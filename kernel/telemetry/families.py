"""Every metric family the gateway exposes, as data: one row = name, type, labels, help, and how workers add up.

A snapshot is plain data (`family name -> label values -> value`), so that it travels between workers as msgpack.
A value is a number, for a histogram the list `[sum, count of bucket 0, 1, ..., count above the last bound]` (not
cumulative), for a summary `[sum, count]`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

Value = float | list[float]
Samples = dict[tuple[str, ...], Value]
Snapshot = dict[str, Samples]

COUNTER, GAUGE, HISTOGRAM, SUMMARY = "counter", "gauge", "histogram", "summary"
# How the values of several workers become one. OWN: the value of the worker that answers the scrape.
SUM, MAX, MIN, OWN = "sum", "max", "min", "own"

# The last two are for what may take as long: REQUEST_TIMEOUT_SECONDS is 30, routes with an own timeout, streams.
SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
# Powers of two: a size finds its bucket with int.bit_length().
SIZE_POWERS = (6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26)
SIZES = tuple(float(1 << power) for power in SIZE_POWERS)


class Family(NamedTuple):
    """One row. `bounds` are a histogram's upper bounds, without the infinite one."""

    name: str
    kind: str
    help: str
    labels: tuple[str, ...] = ()
    merge: str = SUM
    bounds: tuple[float, ...] = ()


_ROWS = (
    # The brief's, letter for letter: dashboards depend on them.
    Family(
        "gateway_requests_total", COUNTER, "Requests by route template.", ("method", "path", "status_code")
    ),
    Family(
        "gateway_request_duration_seconds",
        HISTOGRAM,
        "Seconds from a request's head to the end of its response.",
        ("method", "path"),
        bounds=SECONDS,
    ),
    Family("gateway_request_size_bytes", HISTOGRAM, "Bytes of request bodies.", bounds=SIZES),
    Family("gateway_response_size_bytes", HISTOGRAM, "Bytes of response bodies.", bounds=SIZES),
    Family("gateway_auth_attempts_total", COUNTER, "Tokens checked, by result.", ("status",)),
    Family("gateway_auth_cache_hits_total", COUNTER, "Tokens whose verified identity was cached."),
    Family("gateway_auth_cache_misses_total", COUNTER, "Tokens that had to be verified."),
    Family("gateway_rate_limit_exceeded_total", COUNTER, "Requests refused with 429.", ("endpoint",)),
    Family(
        "gateway_service_health",
        GAUGE,
        "1 for the status the last probe of a service had, else 0.",
        ("service_name", "status"),
        OWN,
    ),
    # Requests the gateway could not serve.
    Family("gateway_problems_total", COUNTER, "Problem documents by code.", ("code",)),
    Family(
        "gateway_deprecated_requests_total",
        COUNTER,
        "Requests for a version that ends, by who sent them: kind of token, tier of the tenant.",
        ("service", "version", "caller", "tier"),
    ),
    Family("gateway_shed_total", COUNTER, "Requests refused because the worker was at capacity."),
    Family("gateway_requests_in_flight", GAUGE, "Requests being served now."),
    Family(
        "gateway_unchecked_total",
        COUNTER,
        "Requests let through without a freshness or read-only check because Redis was out of reach.",
    ),
    Family(
        "gateway_freshness_unreadable_total",
        COUNTER,
        "Values of subscription_changed_at that were neither Unix seconds nor ISO 8601.",
    ),
    Family(
        "gateway_api_keys_total",
        COUNTER,
        "API keys that a worker did not know yet: verified, renewed (its tenant's subscription asked for), unchecked (let in "
        "without the store), or the code of the problem that refused it.",
        ("result",),
    ),
    Family("gateway_api_keys_known", GAUGE, "API keys that a worker has verified and remembers."),
    Family("gateway_jwks_fetches_total", COUNTER, "Key sets fetched, by result.", ("result",)),
    Family(
        "gateway_auth_refreshes_total", COUNTER, "Expired sessions to be refreshed, by result.", ("result",)
    ),
    Family(
        "gateway_tickets_total",
        COUNTER,
        "Tickets of streams and sockets: issued, redeemed, resumed, refused.",
        ("result",),
    ),
    Family(
        "gateway_alert_dispatches_total",
        COUNTER,
        "Alerts handed to a channel, by result: delivered, duplicate, failed.",
        ("channel", "result"),
    ),
    Family(
        "gateway_revocations_delayed_total",
        COUNTER,
        "Logouts that had to wait because Redis was out of reach.",
    ),
    Family("gateway_revocations_waiting", GAUGE, "Logouts that Redis does not know of yet."),
    Family(
        "gateway_idempotency_requests_total",
        COUNTER,
        "Requests whose Idempotency-Key was heeded: the first under it, replayed, under-way, mismatch, unknown, not-kept, "
        "unavailable.",
        ("result",),
    ),
    Family(
        "gateway_idempotency_outcomes_total",
        COUNTER,
        "What became of the first requests under a key: done (its answer is kept), not-kept, unknown, gone (not sent).",
        ("outcome",),
    ),
    Family("gateway_idempotency_under_way", GAUGE, "First requests under a key that services have now."),
    # Upstreams.
    Family(
        "gateway_upstream_requests_total",
        COUNTER,
        "Requests sent to a service, by outcome (2xx ... 5xx, or the problem's code).",
        ("service", "outcome"),
    ),
    Family(
        "gateway_upstream_response_seconds",
        HISTOGRAM,
        "Seconds a service took to its response's head.",
        ("service",),
        bounds=SECONDS,
    ),
    Family("gateway_upstream_retries_total", COUNTER, "Requests sent to a service again.", ("service",)),
    Family(
        "gateway_canary_fallbacks_total",
        COUNTER,
        "Requests for a service's canary that the service had, since the canary could not be reached: by the problem's code.",
        ("service", "reason"),
    ),
    Family(
        "gateway_mirror_requests_total",
        COUNTER,
        "Requests drawn to be copied to a service's mirror: same status, different, failed; busy, body: not copied.",
        ("service", "result"),
    ),
    Family(
        "gateway_mirror_differences_total",
        COUNTER,
        "Copies that the mirror answered with another status than the service.",
        ("service", "status", "mirror_status"),
    ),
    Family("gateway_mirror_under_way", GAUGE, "Copies that the mirror has not answered yet.", ("service",)),
    Family("gateway_pool_connections", GAUGE, "Connections to a service, by state.", ("service", "state")),
    Family("gateway_pool_waiting", GAUGE, "Requests waiting for a connection to a service.", ("service",)),
    Family(
        "gateway_breaker_state",
        GAUGE,
        "Workers whose circuit breaker for a service is in this state.",
        ("service", "state"),
    ),
    Family(
        "gateway_replicas",
        GAUGE,
        "Addresses of a service: its URLs, and those of names in them, each counted by each worker.",
        ("service",),
    ),
    Family(
        "gateway_replicas_ejected",
        GAUGE,
        "Replicas of a service that get no requests while others can take them, each counted by each worker.",
        ("service",),
    ),
    # With GATEWAY_PROFILE.
    Family(
        "gateway_stage_seconds",
        SUMMARY,
        "With GATEWAY_PROFILE: seconds in each stage and handler, waiting included.",
        ("stage",),
    ),
    Family(
        "gateway_gc_pause_seconds",
        SUMMARY,
        "With GATEWAY_PROFILE: seconds that garbage collection stopped a worker.",
        ("generation",),
    ),
    Family(
        "gateway_client_connections_closed_total",
        COUNTER,
        "Clients' connections closed: no request came, its head took long, nothing went over them, or an end was not read.",
        ("reason",),
    ),
    Family(
        "gateway_tls_certificate_expires_seconds",
        GAUGE,
        "When the certificate that clients are shown ends, in Unix time. Absent without TLS.",
        merge=MIN,
    ),
    # WebSocket.
    Family("gateway_websocket_connections", GAUGE, "Sockets open now."),
    Family("gateway_websocket_opened_total", COUNTER, "Sockets admitted by every policy."),
    Family("gateway_websocket_refused_total", COUNTER, "Sockets refused for want of room."),
    Family("gateway_websocket_closed_total", COUNTER, "Sockets that ended, by close code.", ("code",)),
    Family(
        "gateway_websocket_messages_total",
        COUNTER,
        "Messages received from clients, and sent to them.",
        ("direction",),
    ),
    # Alerts.
    Family("gateway_alerts_subscribed", GAUGE, "1 when every worker hears what is published.", merge=MIN),
    Family("gateway_alerts_recorded_total", COUNTER, "Alerts recorded; each counts once in the whole fleet."),
    Family("gateway_alerts_duplicate_total", COUNTER, "Alerts published with an id recorded before."),
    Family("gateway_alerts_malformed_total", COUNTER, "Published messages that were no alert.", ("reason",)),
    Family("gateway_alerts_dropped_total", COUNTER, "Alerts that Redis could not take for too long."),
    Family("gateway_sse_streams", GAUGE, "Alert streams open now."),
    Family("gateway_sse_streams_opened_total", COUNTER, "Alert streams opened."),
    Family("gateway_sse_streams_refused_total", COUNTER, "Alert streams refused for want of room."),
    Family(
        "gateway_sse_streams_closed_total",
        COUNTER,
        "Alert streams that ended: the client left, was too slow, lost its rights, or the worker drained.",
        ("reason",),
    ),
    Family("gateway_sse_events_total", COUNTER, "Alerts handed to streams, replayed ones included."),
    Family("gateway_sse_replayed_total", COUNTER, "Alerts handed to streams that had missed them."),
    Family("gateway_sse_resets_total", COUNTER, "Streams told of a gap that cannot be filled.", ("reason",)),
    # GraphQL.
    Family(
        "gateway_graphql_operations_total",
        COUNTER,
        "GraphQL operations, by who executes them, type and name: the first 100 names, then `other`.",
        ("service", "type", "operation"),
    ),
    Family(
        "gateway_graphql_errors_total",
        COUNTER,
        "Errors of fields, and of requests that were not executed, by who executes them and the problem's code.",
        ("service", "code"),
    ),
    Family("gateway_graphql_requests_total", COUNTER, "Requests to services that fields made."),
    Family(
        "gateway_graphql_spared_total", COUNTER, "Fields whose request another field of the operation made."
    ),
    Family(
        "gateway_graphql_schemas_total",
        COUNTER,
        "Schemas made: one at the start, then when a document changed.",
    ),
    # Geocoding.
    Family("gateway_geocode_cache_hits_total", COUNTER, "Addresses and places that were cached."),
    Family("gateway_geocode_cache_misses_total", COUNTER, "Addresses and places that had to be looked up."),
    Family(
        "gateway_geocode_lookups_total",
        COUNTER,
        "Addresses and places to be looked up: answered, or the problem's code.",
        ("result",),
    ),
    Family("gateway_geocode_wait_seconds", SUMMARY, "Seconds waited for a turn to ask Nominatim."),
    Family("gateway_geocode_waiting", GAUGE, "Questions that wait for their turn now."),
    # Redis.
    Family("gateway_redis_connected", GAUGE, "1 when every worker reaches Redis.", merge=MIN),
    Family("gateway_redis_errors_total", COUNTER, "Redis commands that failed or timed out."),
    Family("gateway_redis_reconnects_total", COUNTER, "Connections to Redis made anew after a loss."),
    Family("gateway_redis_command_duration_seconds", SUMMARY, "Seconds Redis commands took."),
    # The workers themselves.
    Family(
        "gateway_event_loop_lag_seconds",
        GAUGE,
        "How late timers fire: moving average of the worst worker.",
        merge=MAX,
    ),
    Family(
        "gateway_event_loop_lag_max_seconds",
        GAUGE,
        "The latest a timer fired in the last minute, in any worker.",
        merge=MAX,
    ),
    Family(
        "gateway_log_lines_dropped_total", COUNTER, "Log lines lost because their sink was stuck.", ("log",)
    ),
    Family(
        "gateway_capture_records_total",
        COUNTER,
        "With CAPTURE_FILE: records of requests, written or dropped because the disk was full or too slow.",
        ("result",),
    ),
    Family(
        "gateway_metrics_source_errors_total",
        COUNTER,
        "Sources of metrics that failed at a scrape.",
        ("source",),
    ),
    Family("gateway_workers", GAUGE, "Worker processes that answered or left a fresh snapshot."),
    Family("gateway_build_info", GAUGE, "1, labelled with what runs.", ("version", "python"), OWN),
    Family("process_cpu_seconds_total", COUNTER, "Processor seconds, all workers."),
    Family("process_resident_memory_bytes", GAUGE, "Resident memory, all workers added up."),
    Family("process_open_fds", GAUGE, "Open file descriptors, all workers."),
    Family("process_max_fds", GAUGE, "File descriptors a worker may open.", merge=MIN),
    Family("process_start_time_seconds", GAUGE, "Start of the oldest worker, Unix seconds.", merge=MIN),
)

FAMILIES = {row.name: row for row in _ROWS}


def merge(snapshots: Iterable[Snapshot], *, retired: Iterable[Snapshot] = ()) -> Snapshot:
    """Add up snapshots; the first one's values stand for families marked OWN.

    `retired` are those of workers that are gone: only their counters and histograms still count.
    """
    result: Snapshot = {}
    for snapshot in snapshots:
        _add(result, snapshot, everything=True)
    for snapshot in retired:
        _add(result, snapshot, everything=False)
    return result


def _add(result: Snapshot, snapshot: Snapshot, *, everything: bool) -> None:
    for name, samples in snapshot.items():
        family = FAMILIES.get(name)
        if family is None or (family.kind == GAUGE and not everything):
            continue
        into = result.setdefault(name, {})
        for labels, value in samples.items():
            if labels not in into:
                into[labels] = value.copy() if isinstance(value, list) else value
            else:
                into[labels] = _combine(family.merge, into[labels], value)


def _combine(how: str, ours: Value, theirs: Value) -> Value:
    if isinstance(ours, list) or isinstance(theirs, list):
        # Lists of another length come from another release in the same run directory: theirs cannot be added.
        if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
            return [a + b for a, b in zip(ours, theirs, strict=True)]
        return ours
    if how == SUM:
        return ours + theirs
    if how == MAX:
        return max(ours, theirs)
    if how == MIN:
        return min(ours, theirs)
    return ours
