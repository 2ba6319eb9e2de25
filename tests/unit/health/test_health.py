from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kernel.health.prober import HEALTHY, UNHEALTHY, UNKNOWN, HealthProber, ProbeFailed, ServiceHealth
from kernel.health.report import Health
from kernel.http.problems import UPSTREAM_CONNECT, GatewayError
from kernel.telemetry.metrics import Metrics

SERVICES = ("auth", "sales")


class Platform:
    """Services that answer as they are told; counts the probes."""

    def __init__(self) -> None:
        self.errors: dict[str, BaseException] = {}
        self.probes: dict[str, int] = dict.fromkeys(SERVICES, 0)

    async def probe(self, name: str) -> None:
        self.probes[name] += 1
        if name in self.errors:
            raise self.errors[name]


@pytest.fixture
def platform() -> Platform:
    return Platform()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.002)


def prober(platform: Platform, **options: Any) -> HealthProber:
    return HealthProber(SERVICES, platform.probe, **({"interval": 60.0, "follow": 0.01} | options))


def statuses(of: HealthProber) -> list[str]:
    return [result.status for result in of.results.values()]


async def test_services_are_asked_at_once_and_again_after_the_interval(platform: Platform) -> None:
    made = prober(platform, interval=0.02)
    assert statuses(made) == [UNKNOWN, UNKNOWN]
    made.start()
    await until(lambda: platform.probes["auth"] > 2 and platform.probes["sales"] > 2)
    assert statuses(made) == [HEALTHY, HEALTHY]
    await made.stop()
    seen = dict(platform.probes)
    await asyncio.sleep(0.05)
    assert platform.probes == seen


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ProbeFailed("status 503"), "status 503"),
        (
            GatewayError(UPSTREAM_CONNECT("sales: its host name is not known.")),
            "sales: its host name is not known.",
        ),
        (ConnectionRefusedError(111, "Connect call failed ('10.0.0.7', 8000)"), "ConnectionRefusedError"),
    ],
)
async def test_a_failing_service_is_unhealthy_and_no_address_is_told(
    platform: Platform, error: BaseException, said: str
) -> None:
    platform.errors["sales"] = error
    made = prober(platform)
    made.start()
    await until(lambda: UNKNOWN not in statuses(made))
    assert statuses(made) == [HEALTHY, UNHEALTHY]
    assert made.results["sales"].error == said
    await made.stop()


async def test_a_service_that_does_not_answer_is_unhealthy_in_time() -> None:
    async def never(_: str) -> None:
        await asyncio.Event().wait()

    made = HealthProber(["slow"], never, timeout=0.02)
    made.start()
    await until(lambda: statuses(made) == [UNHEALTHY])
    assert made.results["slow"].error == "no answer within 0.02 s"
    await made.stop()


async def test_a_recovery_is_seen_before_the_interval_is_over(platform: Platform) -> None:
    platform.errors["sales"] = ProbeFailed("down")
    made = prober(platform, retry=0.01)
    made.start()
    await until(lambda: statuses(made) == [HEALTHY, UNHEALTHY])
    del platform.errors["sales"]
    await until(lambda: statuses(made) == [HEALTHY, HEALTHY])
    assert platform.probes["auth"] == 1
    await made.stop()


async def test_of_several_workers_one_probes_and_all_know(platform: Platform, tmp_path: Path) -> None:
    workers = [prober(platform, run_dir=tmp_path) for _ in range(3)]
    for worker in workers:
        worker.start()
    await until(lambda: all(statuses(worker) == [HEALTHY, HEALTHY] for worker in workers))
    assert platform.probes == {"auth": 1, "sales": 1}
    # The one that probed goes: another takes over.
    await workers[0].stop()
    await until(lambda: platform.probes == {"auth": 2, "sales": 2})
    for worker in workers[1:]:
        await worker.stop()


async def test_when_the_probing_worker_hangs_the_others_probe_themselves(
    platform: Platform, tmp_path: Path
) -> None:
    hung = prober(platform, run_dir=tmp_path)
    assert hung._is_mine()
    hung._publish()
    os.utime(tmp_path / "health.json", (1, 1))
    other = prober(platform, run_dir=tmp_path)
    other.start()
    await until(lambda: statuses(other) == [HEALTHY, HEALTHY])
    await other.stop()
    await hung.stop()


async def test_results_that_cannot_be_read_are_waited_for(platform: Platform, tmp_path: Path) -> None:
    leader = prober(platform, run_dir=tmp_path)
    assert leader._is_mine()
    (tmp_path / "health.json").write_bytes(b"{")
    assert not prober(platform, run_dir=tmp_path)._is_mine()
    await leader.stop()


def test_the_gauge_has_both_statuses_of_every_service_asked(platform: Platform) -> None:
    made = prober(platform)
    made.results["sales"] = ServiceHealth(UNHEALTHY)
    metrics = Metrics()
    metrics.register_source("health", made.samples)
    assert metrics.snapshot()["gateway_service_health"] == {
        ("sales", "healthy"): 0.0,
        ("sales", "unhealthy"): 1.0,
    }


class Gateway:
    """What `Health` asks about."""

    def __init__(self, platform: Platform) -> None:
        self.prober = prober(platform)
        self.redis = True
        self.reason = ""
        self.breakers: dict[str, str] = {}
        self.health = Health(
            self.prober,
            version="1.0.0",
            redis_connected=lambda: self.redis,
            not_ready=lambda: self.reason,
            breakers=lambda: self.breakers,
            ejected=lambda: {"sales": 2},
        )

    def found(self, *statuses: str) -> None:
        for name, status in zip(SERVICES, statuses, strict=True):
            self.prober.results[name] = ServiceHealth(
                status, 1.5, "" if status == HEALTHY else "down", 1763863261.4
            )


@pytest.fixture
def gateway(platform: Platform) -> Gateway:
    return Gateway(platform)


def test_health_is_the_briefs_document(gateway: Gateway) -> None:
    gateway.found(HEALTHY, HEALTHY)
    status, body = gateway.health.overall()
    document = json.loads(body)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", document.pop("timestamp"))
    assert status == 200
    assert document == {
        "status": "healthy",
        "version": "1.0.0",
        "services": {"auth": "healthy", "sales": "healthy"},
        "redis": "connected",
    }


@pytest.mark.parametrize(
    ("found", "redis", "reason", "expected"),
    [
        ((HEALTHY, HEALTHY), True, "", (200, "healthy")),
        ((HEALTHY, UNKNOWN), True, "", (200, "healthy")),
        ((UNKNOWN, UNKNOWN), True, "", (200, "healthy")),
        ((HEALTHY, UNHEALTHY), True, "", (200, "degraded")),
        ((HEALTHY, HEALTHY), False, "", (200, "degraded")),
        ((UNHEALTHY, UNHEALTHY), True, "", (200, "unhealthy")),
        ((HEALTHY, HEALTHY), True, "draining", (503, "unhealthy")),
        ((HEALTHY, HEALTHY), True, "keys", (503, "unhealthy")),
    ],
)
def test_the_status_says_how_the_gateway_itself_is(
    gateway: Gateway, found: tuple[str, str], redis: bool, reason: str, expected: tuple[int, str]
) -> None:
    gateway.found(*found)
    gateway.redis = redis
    gateway.reason = reason
    for document in (gateway.health.overall(), gateway.health.services(operator=False)):
        assert (document[0], json.loads(document[1])["status"]) == expected
        assert json.loads(document[1])["redis"] == ("connected" if redis else "disconnected")


def test_each_service_is_told_with_latency_error_and_breaker(gateway: Gateway) -> None:
    gateway.found(UNKNOWN, UNHEALTHY)
    gateway.breakers["sales"] = "open"
    gateway.prober.results["auth"] = ServiceHealth()
    services = json.loads(gateway.health.services(operator=False)[1])["services"]
    assert services["sales"] == {
        "status": "unhealthy",
        "latency_ms": 1.5,
        "last_error": "down",
        "checked_at": "2025-11-23T02:01:01.400Z",
        "breaker": "open",
        "ejected": 2,
    }
    assert services["auth"] == {
        "status": "unknown",
        "latency_ms": None,
        "last_error": None,
        "checked_at": None,
        "breaker": "closed",
        "ejected": 0,
    }


def test_only_operators_are_told_the_reason(gateway: Gateway) -> None:
    found = ServiceHealth(
        UNHEALTHY, 1.5, "the TLS handshake failed", 1.0, "Hostname mismatch: not valid for 'a'"
    )
    gateway.prober.results["sales"] = found
    _, body = gateway.health.services(operator=False)
    assert b"Hostname" not in body
    services = json.loads(gateway.health.services(operator=True)[1])["services"]
    assert services["sales"]["reason"] == found.reason
    assert "reason" not in services["auth"]


def test_a_service_is_unhealthy_as_soon_as_its_breaker_is_open(gateway: Gateway) -> None:
    gateway.found(HEALTHY, HEALTHY)
    gateway.breakers["sales"] = "open"
    assert json.loads(gateway.health.overall()[1])["services"]["sales"] == "unhealthy"
    assert json.loads(gateway.health.overall()[1])["status"] == "degraded"
    told = json.loads(gateway.health.services(operator=False)[1])["services"]["sales"]
    assert (told["status"], told["last_error"]) == ("unhealthy", "failed repeatedly")
    # Half-open, nobody knows: what the last probe found counts.
    gateway.breakers["sales"] = "half-open"
    assert json.loads(gateway.health.overall()[1])["services"]["sales"] == "healthy"


async def test_what_changes_is_told_once_and_by_whom_it_was_found(platform: Platform, tmp_path: Path) -> None:
    told: list[tuple[int, str, str, bool]] = []

    def made(number: int) -> HealthProber:
        return prober(
            platform,
            interval=0.02,
            retry=0.02,
            run_dir=tmp_path,
            changed=lambda name, result, mine: told.append((number, name, result.status, mine)),
        )

    first, second = made(1), made(2)
    first.start()
    await until(lambda: first.results["sales"].status == HEALTHY)
    second.start()
    await until(lambda: len(told) == 4)
    platform.errors["sales"] = ProbeFailed("ill")
    await until(lambda: len(told) == 6)
    await asyncio.sleep(0.1)
    await second.stop()
    await first.stop()
    assert sorted(told) == [
        (1, "auth", HEALTHY, True),
        (1, "sales", HEALTHY, True),
        (1, "sales", UNHEALTHY, True),
        (2, "auth", HEALTHY, False),
        (2, "sales", HEALTHY, False),
        (2, "sales", UNHEALTHY, False),
    ]


def test_live_never_changes_and_ready_says_why_not(gateway: Gateway) -> None:
    assert gateway.health.ready() == (200, b'{"status":"ready"}')
    gateway.reason = "draining"
    assert gateway.health.live()[0] == 200
    assert gateway.health.ready()[0] == 503
    assert json.loads(gateway.health.ready()[1])["reason"] == "draining"
