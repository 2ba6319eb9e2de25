from __future__ import annotations

from functools import partial

import pytest
from prometheus_client.parser import text_string_to_metric_families

from kernel.telemetry.exposition import expose
from kernel.telemetry.families import FAMILIES, Snapshot, merge
from kernel.telemetry.metrics import Metrics

THE_BRIEFS = {
    "gateway_requests_total": ("method", "path", "status_code"),
    "gateway_request_duration_seconds": ("method", "path"),
    "gateway_request_size_bytes": (),
    "gateway_response_size_bytes": (),
    "gateway_auth_attempts_total": ("status",),
    "gateway_auth_cache_hits_total": (),
    "gateway_auth_cache_misses_total": (),
    "gateway_rate_limit_exceeded_total": ("endpoint",),
    "gateway_service_health": ("service_name", "status"),
}


def samples(snapshot: Snapshot) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """What a Prometheus server would read."""
    text = expose(snapshot, "")[1].decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(snapshot: Snapshot, name: str, **labels: str) -> float:
    return samples(snapshot)[name, frozenset(labels.items())]


def test_names_and_labels_are_the_briefs_letter_for_letter() -> None:
    assert {name: FAMILIES[name].labels for name in THE_BRIEFS} == THE_BRIEFS


def test_every_family_is_exposed_with_help_and_type_before_anything_happened() -> None:
    lines = expose(Metrics().snapshot(), "")[1].decode().splitlines()
    for family in FAMILIES.values():
        assert f"# HELP {family.name} {family.help}" in lines
        assert f"# TYPE {family.name} {family.kind}" in lines


def test_requests_are_counted_by_method_template_and_status() -> None:
    metrics = Metrics()
    meter = metrics.route("/api/v1/inventory/**")
    for status in (200, 200, 404):
        meter.observe("GET", status, 0.004, 0, 10)
    read = samples(metrics.snapshot())
    labels = {("method", "GET"), ("path", "/api/v1/inventory/**")}
    assert read["gateway_requests_total", frozenset(labels | {("status_code", "200")})] == 2
    assert read["gateway_requests_total", frozenset(labels | {("status_code", "404")})] == 1
    assert read["gateway_request_duration_seconds_count", frozenset(labels)] == 3
    assert read["gateway_request_duration_seconds_sum", frozenset(labels)] == pytest.approx(0.012)


def test_the_same_template_has_one_meter() -> None:
    metrics = Metrics()
    assert metrics.route("/a") is metrics.route("/a")
    assert metrics.upstream("sales") is metrics.upstream("sales")


@pytest.mark.parametrize(
    ("seconds", "bound", "inside"),
    [
        (0.005, "0.005", True),
        (0.0050001, "0.005", False),
        (0.0, "0.0005", True),
        (11.0, "10.0", False),
        (30.0, "30.0", True),
        (45.0, "60.0", True),
        (60.1, "60.0", False),
    ],
)
def test_duration_bounds_are_inclusive(seconds: float, bound: str, inside: bool) -> None:
    metrics = Metrics()
    metrics.route("/a").observe("GET", 200, seconds, 0, 0)
    read = metrics.snapshot()
    assert value(read, "gateway_request_duration_seconds_bucket", method="GET", path="/a", le=bound) == inside
    assert value(read, "gateway_request_duration_seconds_bucket", method="GET", path="/a", le="+Inf") == 1


@pytest.mark.parametrize(
    ("size", "bound", "inside"),
    [
        (0, "64.0", True),
        (64, "64.0", True),
        (65, "64.0", False),
        (1 << 26, "67108864.0", True),
        ((1 << 26) + 1, "67108864.0", False),
    ],
)
def test_size_bounds_are_inclusive_and_empty_bodies_count(size: int, bound: str, inside: bool) -> None:
    metrics = Metrics()
    metrics.route("/a").observe("GET", 200, 0.0, size, size)
    for name in ("gateway_request_size_bytes", "gateway_response_size_bytes"):
        read = metrics.snapshot()
        assert value(read, name + "_bucket", le=bound) == inside
        assert value(read, name + "_count") == 1
        assert value(read, name + "_sum") == size


def test_method_names_of_a_client_make_no_series() -> None:
    metrics = Metrics()
    meter = metrics.route("unmatched")
    for number in range(100):
        meter.observe(f"METHOD{number}", 400, 0.0, 0, 0)
    assert metrics.snapshot()["gateway_requests_total"] == {("OTHER", "unmatched", "400"): 100}


def test_upstream_outcomes_retries_and_times_are_counted_by_service() -> None:
    metrics = Metrics()
    meter = metrics.upstream("sales")
    meter.answered(201, 0.02)
    meter.answered(503, 0.02)
    meter.failed("upstream-timeout")
    meter.retries += 1
    read = metrics.snapshot()
    for outcome in ("2xx", "5xx", "upstream-timeout"):
        assert value(read, "gateway_upstream_requests_total", service="sales", outcome=outcome) == 1
    assert value(read, "gateway_upstream_response_seconds_count", service="sales") == 2
    assert value(read, "gateway_upstream_retries_total", service="sales") == 1


def test_sources_are_read_at_each_snapshot() -> None:
    metrics = Metrics()
    waiting = {"sales": 1}
    metrics.register_source(
        "pool",
        lambda: {
            "gateway_pool_waiting": waiting,
            "gateway_redis_connected": 1,
            "gateway_redis_command_duration_seconds": [0.5, 10],
            "gateway_pool_connections": {("sales", "idle"): 4.0},
        },
    )
    waiting["sales"] = 7
    read = metrics.snapshot()
    assert value(read, "gateway_pool_waiting", service="sales") == 7
    assert value(read, "gateway_redis_connected") == 1
    assert value(read, "gateway_redis_command_duration_seconds_sum") == 0.5
    assert value(read, "gateway_redis_command_duration_seconds_count") == 10
    assert value(read, "gateway_pool_connections", service="sales", state="idle") == 4


def test_a_source_that_fails_or_names_an_unknown_family_is_counted_and_hides_nothing_else() -> None:
    metrics = Metrics()
    metrics.register_source("broken", lambda: {"gateway_shed_total": 1 // 0})
    metrics.register_source("misspelt", lambda: {"gateway_shedd_total": 1})
    metrics.register_source("good", lambda: {"gateway_redis_connected": 1})
    read = metrics.snapshot()
    assert value(read, "gateway_metrics_source_errors_total", source="broken") == 1
    assert value(read, "gateway_metrics_source_errors_total", source="misspelt") == 1
    assert value(read, "gateway_redis_connected") == 1


def test_workers_add_up() -> None:
    workers = [Metrics(), Metrics()]
    for number, metrics in enumerate(workers, start=1):
        metrics.route("/a").observe("GET", 200, 0.01, 5, 5)
        metrics.shed = number
        metrics.in_flight = number
        metrics.register_source("lag", partial(dict, gateway_event_loop_lag_seconds=number / 10))
        metrics.register_source("redis", partial(dict, gateway_redis_connected=number - 1))
    total = merge(metrics.snapshot() for metrics in workers)
    assert value(total, "gateway_requests_total", method="GET", path="/a", status_code="200") == 2
    assert value(total, "gateway_request_duration_seconds_bucket", method="GET", path="/a", le="0.01") == 2
    assert value(total, "gateway_shed_total") == 3
    assert value(total, "gateway_requests_in_flight") == 3
    assert value(total, "gateway_workers") == 2
    assert value(total, "gateway_event_loop_lag_seconds") == 0.2
    assert value(total, "gateway_redis_connected") == 0


def test_of_a_worker_that_is_gone_only_counters_and_histograms_remain() -> None:
    gone = Metrics()
    gone.route("/a").observe("GET", 200, 0.01, 5, 5)
    gone.in_flight = 9
    total = merge([Metrics().snapshot()], retired=[gone.snapshot()])
    assert value(total, "gateway_requests_total", method="GET", path="/a", status_code="200") == 1
    assert value(total, "gateway_response_size_bytes_count") == 1
    assert value(total, "gateway_requests_in_flight") == 0
    assert value(total, "gateway_workers") == 1


def test_merging_leaves_its_inputs_alone() -> None:
    metrics = Metrics()
    metrics.route("/a").observe("GET", 200, 0.01, 5, 5)
    first, second = metrics.snapshot(), metrics.snapshot()
    before = str(first)
    merge([first, second])
    assert str(first) == before


def test_histograms_of_another_release_do_not_break_a_scrape() -> None:
    ours: Snapshot = {"gateway_request_size_bytes": {(): [1.0] + [1.0] * 12}}
    theirs: Snapshot = {"gateway_request_size_bytes": {(): [5.0, 5.0]}, "gateway_gone_total": {(): 1}}
    assert merge([ours], retired=[theirs]) == ours


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("", "text/plain; version=0.0.4"),
        ("*/*", "text/plain; version=0.0.4"),
        ("application/openmetrics-text;version=1.0.0,text/plain;q=0.5", "application/openmetrics-text"),
    ],
)
def test_the_accept_header_chooses_the_format(accept: str, content_type: str) -> None:
    got, body = expose(Metrics("1.0.0").snapshot(), accept)
    assert got.startswith(content_type)
    assert body.endswith(b"# EOF\n") == ("openmetrics" in content_type)
    assert b"gateway_auth_cache_hits_total 0.0" in body
    assert b'version="1.0.0"' in body


def test_process_metrics_describe_this_process() -> None:
    read = samples(Metrics().snapshot())
    assert read["process_resident_memory_bytes", frozenset()] > 1024 * 1024
    assert read["process_cpu_seconds_total", frozenset()] > 0
    assert read["process_open_fds", frozenset()] > 2
    assert read["process_start_time_seconds", frozenset()] > 0
