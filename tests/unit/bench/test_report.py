"""Figures and verdicts of the benchmark's report."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import report
from bench.load import LoadError, Sample, parse
from bench.openloop import Latency
from bench.peers import PEERS
from bench.run import Row, Scenario

SCENARIO = Scenario("main", "main", 64, Path("/nowhere"))


def sample(rate: float) -> Sample:
    return Sample(
        requests=int(rate), seconds=1, rate=rate, errors=0, p50=1, p90=2, p99=3, worst=4, cpu=50, noise=0
    )


def latency(p50: float, p99: float) -> Latency:
    return Latency(requests=1, errors=0, p50=p50, p90=0, p99=p99, p999=0, worst=0, late_p50=0, late_p99=0)


def row(name: str, *rates: float) -> Row:
    peer = next(peer for peer in PEERS if peer.name == name)
    return Row(peer, "1", samples={"main": [sample(rate) for rate in rates]})


def test_ratio_is_paired_within_rounds() -> None:
    # The machine halved its speed in the second round: both sides felt it, the ratio does not.
    assert report.ratio([sample(3000), sample(1500)], [sample(2000), sample(1000)]) == 1.5


def test_ratio_of_nothing_is_none() -> None:
    assert report.ratio([], [sample(1)]) is None


def test_targets_judge_by_the_gateways_ratio() -> None:
    rows = [row("gateway", 1600), row("haproxy-jwt", 1000), row("stack", 40), row("granian-empty", 2000)]
    judged = {target.title: target.passed for target in report.targets(rows, SCENARIO)}
    assert judged["throughput against HAProxy with JWT"] is True
    assert judged["throughput against the brief's stack"] is False
    assert judged["throughput against granian's empty answer"] is True
    assert judged["throughput against Envoy with JWT"] is None  # not measured is no verdict


def test_an_invalid_gateway_passes_no_target() -> None:
    gateway = row("gateway", 9999)
    gateway.flag("3 failed requests")
    rows = [gateway, row("haproxy-jwt", 1000)]
    assert {target.passed for target in report.targets(rows, SCENARIO)} == {None}


def test_added_latency_is_the_difference_to_the_direct_call() -> None:
    gateway, direct = row("gateway"), row("direct")
    gateway.latencies = [latency(500, 2000), latency(700, 9000), latency(600, 2500)]
    direct.latencies = [latency(200, 300), latency(200, 300), latency(200, 300)]
    assert report.added(gateway, direct, "p50") == 400
    titles = {target.title: target for target in report.targets([gateway, direct], SCENARIO)}
    assert titles["99th percentile added at 1,000 requests/s, ms"].reached == pytest.approx(2.2)


@pytest.mark.parametrize(
    ("gateway_p99", "told"),
    [
        ([250], "NOISE 99th percentile added at 1,000 requests/s, ms: -0.05 in a round"),
        ([2000, 250, 2500], "NOISE 99th percentile added at 1,000 requests/s, ms: -0.05 in a round"),
        ([2000, 9000], "NOISE 99th percentile added at 1,000 requests/s, ms: 1.70 to 8.70 in 2 rounds"),
        ([2000, 2500], "pass  99th percentile added at 1,000 requests/s, ms: 1.95"),
        ([8000, 9000], "FAIL  99th percentile added at 1,000 requests/s, ms: 8.20"),
        ([2000, 9000, 2500], "pass  99th percentile added at 1,000 requests/s, ms: 2.20"),
    ],
)
def test_a_figure_out_of_noise_passes_nothing(gateway_p99: list[float], told: str) -> None:
    gateway, direct = row("gateway"), row("direct")
    gateway.latencies = [latency(500, p99) for p99 in gateway_p99]
    direct.latencies = [latency(200, 300) for _ in gateway_p99]
    target = report.targets([gateway, direct], SCENARIO)[-1]
    assert target.line().startswith(told)
    assert target.passed is {"p": True, "F": False, "N": None}[told[0]]


def test_invalid_rows_show_no_figure() -> None:
    broken = row("haproxy", 123456)
    broken.flag("does not start")
    table = report.throughput_table([row("direct", 50000), broken], SCENARIO)
    assert "123,456" not in table
    assert "invalid" in table


def test_tables_are_aligned() -> None:
    lines = report.throughput_table([row("direct", 50000, 51000), row("stack", 100)], SCENARIO).splitlines()
    assert len({len(line) for line in lines}) == 1


def test_wrk_errors_and_bad_statuses_are_counted_and_not_credited() -> None:
    found = parse(
        'noise\nRESULT {"requests":100,"micros":2000000,"bytes":1,"connect":0,"read":2,"write":0,"status":40,'
        '"timeout":1,"p50":1.0,"p90":2.0,"p99":3.0,"max":4.0}\n',
        cpu_seconds=0.01,
        noise=0.0,
    )
    assert found.errors == 43
    assert found.rate == 30.0
    assert found.cpu == pytest.approx(100.0)


def test_wrk_without_a_result_raises() -> None:
    with pytest.raises(LoadError):
        parse("unable to connect", cpu_seconds=0, noise=0)
