"""How the gateway learns and tells how its services and its store are: the prober and the incidents, with their sources."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from kernel.config import Settings
from kernel.health.incidents import Incidents
from kernel.health.prober import HEALTHY, HealthProber, ProbeFailed, ServiceHealth
from kernel.routing.beside import CANARY, beside
from kernel.routing.catalog import destinations
from kernel.store.eviction import EvictionWatch
from kernel.store.redis import Store
from kernel.telemetry.log import Log
from kernel.upstream.balance import Upstream
from kernel.upstream.breaker import CLOSED
from kernel.upstream.client import ServiceClient

if TYPE_CHECKING:
    from kernel.upstream.grpc_channels import GrpcService

Upstreams = Mapping[str, Upstream]


def make_prober(
    settings: Settings,
    client: ServiceClient,
    upstreams: Upstreams,
    grpc: Mapping[str, GrpcService],
    log: Log,
    run_dir: Path | None,
) -> HealthProber:
    """Asks each service's health path; a recovery lets requests try the service at once, and what changes is logged."""
    paths = {service.name: service.health for service in destinations(settings.service_catalog)}
    # A mirror answers nobody: how it is, its metrics and the log tell.
    canaries = {
        each.name: each.service.health for each in beside(settings.service_catalog) if each.kind == CANARY
    }
    paths |= canaries
    ill: set[str] = set()

    async def probe(service: str) -> None:
        if service in grpc:
            wrong = await grpc[service].probe()
            if wrong:
                raise ProbeFailed(wrong)
            return
        answer = await client.call(service, "GET", paths[service], probe=True)
        if answer.status >= 400:
            raise ProbeFailed(f"answered {answer.status}")

    def changed(service: str, result: ServiceHealth, mine: bool) -> None:
        well = result.status == HEALTHY
        if well:
            upstreams[service].relent()
        # One worker tells of it, and of being well only after it was ill.
        if mine and not well:
            ill.add(service)
            log.warning("service unhealthy", service=service, reason=result.error)
        elif mine and service in ill:
            log.info("service healthy again", service=service)

    def reason(service: str) -> str:
        if service in grpc:
            return grpc[service].trouble
        return "; ".join(dict.fromkeys(failure for _, failure in upstreams[service].tls_failures()))

    probed = (*settings.services, *canaries)
    return HealthProber(probed, probe, run_dir=run_dir, changed=changed, reason=reason)


def make_incidents(store: Store, upstreams: Upstreams, log: Log) -> Incidents:
    """Tells of the store, the breakers, the replicas and their TLS."""

    def breakers() -> Iterator[tuple[str, str, str]]:
        for name, upstream in upstreams.items():
            for replica in upstream.replicas:
                if replica.breaker.state(upstream.sweeper.now) != CLOSED:
                    yield name, replica.name, ""

    def ejected() -> Iterator[tuple[str, str, str]]:
        for name, upstream in upstreams.items():
            for replica in upstream.replicas:
                if upstream.sweeper.now < replica.standing.until:
                    yield name, replica.name, ""

    def tls() -> Iterator[tuple[str, str, str]]:
        for name, upstream in upstreams.items():
            for replica, failure in upstream.tls_failures():
                yield name, replica.name, failure

    def evicting(policy: str) -> None:
        log.warning(
            "store evicts keys when it is full: limits, locks and revocations can vanish; set maxmemory-policy noeviction",
            policy=policy,
        )

    EvictionWatch(store, evicting)
    return Incidents(log, lambda: (store.connected, store.last_error), breakers, ejected, tls)
