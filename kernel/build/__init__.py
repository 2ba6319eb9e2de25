"""Builds a worker's `State` from its settings: the one place where the organs meet."""

from __future__ import annotations

import asyncio
import logging
import ssl
import sys
from pathlib import Path
from typing import Any

from kernel import __version__
from kernel.alerts.dispatch import Dispatcher
from kernel.alerts.service import Alerts
from kernel.build.capture import make_capture
from kernel.build.grpc import make_grpc
from kernel.build.health import make_incidents, make_prober
from kernel.build.identity import MakeUpstream, make_authority
from kernel.build.traffic import add_upstreams, make_mirrorings, make_splits
from kernel.config import Settings
from kernel.exchange.asgi import HeaderList
from kernel.exchange.client_socket import ClientSockets
from kernel.exchange.cors import Cors
from kernel.geocoding.geocoder import Geocoder
from kernel.health.report import Health
from kernel.http.addresses import Peers
from kernel.identity.api_keys import ApiKeys
from kernel.identity.assertion import Assertions, signers
from kernel.identity.keys import Key, KeySet, secret_key
from kernel.identity.mint import Minter, Signer
from kernel.identity.pem import load_public_keys
from kernel.identity.policy import Policy
from kernel.identity.revocations import Revocations
from kernel.identity.stamp import Stamp
from kernel.identity.tickets import Tickets
from kernel.identity.tokens import Verifier
from kernel.primitives.tls import client_context
from kernel.routing.catalog import Service, Trust, destinations
from kernel.routing.platform import INTERNAL_SERVICES
from kernel.state import State
from kernel.store.limiter import Limiter
from kernel.store.redis import Store
from kernel.store.tracked import TrackedMap
from kernel.telemetry.accesslog import AccessLog
from kernel.telemetry.audit import Audit
from kernel.telemetry.auditfile import AuditFile
from kernel.telemetry.bus import Bus
from kernel.telemetry.lag import LoopLag
from kernel.telemetry.lines import JsonLines, PrettyLines
from kernel.telemetry.log import Log
from kernel.telemetry.metrics import Metrics
from kernel.telemetry.profile import Profile
from kernel.telemetry.redact import Anonymizer
from kernel.telemetry.scrape import Scraper
from kernel.telemetry.trace import RequestIds, Tracer
from kernel.telemetry.writer import FdSink, Writer
from kernel.tenancy.demo_sessions import DemoSessions
from kernel.tenancy.guard import StreamGuard
from kernel.tenancy.tenants import Tenants
from kernel.tenancy.timestamps import Timestamps
from kernel.traffic.idempotency_ledger import Ledger
from kernel.traffic.versions import Versions
from kernel.upstream.balance import Upstream
from kernel.upstream.client import ServiceClient
from kernel.upstream.pool import PoolLimits, Sweeper
from kernel.upstream.resolver import Resolver

_STDOUT = 1
_FLUSH_SECONDS = 2.0


def baseline_headers(settings: Settings) -> HeaderList:
    """What every response carries, whoever made it."""
    headers: HeaderList = [(b"x-content-type-options", b"nosniff")]
    if settings.https_only:
        headers.append((b"strict-transport-security", b"max-age=31536000; includeSubDomains"))
    return headers


def key_set(settings: Settings) -> KeySet:
    """The local keys. Raises `KeyConfigError`."""
    keys: list[Key] = [secret_key(secret) for secret in settings.jwt_secret_keys]
    if settings.jwt_service_public_key:
        keys += load_public_keys(settings.jwt_service_public_key, settings.jwt_algorithm, service=True)
    if settings.jwt_public_key:
        keys += load_public_keys(settings.jwt_public_key, settings.jwt_algorithm)
    return KeySet(keys, provisional=settings.provisional_keys)


def policy(settings: Settings) -> Policy:
    """What a token must say."""
    return Policy(
        issuers=frozenset(settings.jwt_issuer),
        services=INTERNAL_SERVICES,
        audience=settings.jwt_audience,
        leeway=settings.jwt_leeway_seconds,
        require_type=settings.jwt_require_type,
    )


class _Telemetry:
    """Log, audit and metrics of one worker, and the threads and timers behind them."""

    def __init__(self, settings: Settings, run_dir: Path) -> None:
        pretty = settings.structlog_pretty_print
        encoder = PrettyLines(colour=sys.stdout.isatty()) if pretty else JsonLines()
        level = logging.getLevelNamesMapping()[settings.log_level]
        secret = next(iter(settings.jwt_secret_keys), settings.jwt_public_key or "").encode()
        anonymizer = Anonymizer(secret) if settings.log_anonymize else None
        self.writer = Writer(FdSink(_STDOUT))
        self.log = Log(self.writer, level=level, encoder=encoder)
        self.log.take_over_stdlib()
        self._audit_file: AuditFile | None
        if settings.audit_log_file:
            self._audit_file = AuditFile(Path(settings.audit_log_file))
            self.audit_writer = Writer(self._audit_file)
            self.audit = Audit(self.audit_writer, marks=True)
        else:
            self._audit_file = None
            self.audit_writer = self.writer
            self.audit = Audit(self.writer, encoder, anonymizer)
        also = self.audit.requests if settings.audit_all else None
        self.access_log = AccessLog(
            self.writer, level=level, encoder=encoder, anonymizer=anonymizer, also=also
        )
        self.metrics = Metrics(__version__)
        self.lag = LoopLag(asyncio.get_running_loop())
        self.metrics.register_source("lag", self.lag.snapshot)
        self.metrics.register_source("log", self._dropped)
        self.scraper = Scraper(self.metrics, Bus(run_dir), run_dir)

    def _dropped(self) -> dict[str, dict[str, int]]:
        dropped = {"access": self.writer.dropped}
        if self.audit_writer is not self.writer:
            dropped["audit"] = self.audit_writer.dropped
        return {"gateway_log_lines_dropped_total": dropped}

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self.access_log.start(loop)
        self.audit.start(loop)
        self.lag.start()
        await self.scraper.start()

    async def close(self) -> None:
        """Everything counted and logged so far is written; a stuck sink is given up on."""
        self.lag.stop()
        self.access_log.close()
        self.audit.close()
        await self.scraper.stop()
        for writer in {self.writer, self.audit_writer}:
            written = await asyncio.to_thread(writer.close, _FLUSH_SECONDS)
            if written and writer is self.audit_writer and self._audit_file is not None:
                self._audit_file.close()


async def build_state(settings: Settings, store_url: str, run_dir: Path) -> State:
    """Connect and assemble everything. A store or service that is down does not keep a worker from starting.

    Raises:
        KeyConfigError: a key cannot be used.
    """
    telemetry = _Telemetry(settings, run_dir)
    metrics = telemetry.metrics
    store = Store(store_url)
    await store.start()
    metrics.register_source("store", lambda: _store_families(store))
    limiter = Limiter(store, fail_open=settings.rate_limit_fail_mode == "open", fleet=settings.workers)
    await limiter.start()
    tracked = TrackedMap(store)
    await tracked.start()
    timestamps = Timestamps(
        lambda key, value: telemetry.log.warning("unreadable time of a change", where=key, value=value)
    )
    metrics.register_source(
        "timestamps", lambda: {"gateway_freshness_unreadable_total": timestamps.unreadable}
    )
    resolver = Resolver(telemetry.log, settings.dns_refresh_seconds)
    make_upstream = _upstream_maker(settings, metrics, resolver)
    upstreams = _upstreams(settings, metrics, make_upstream)
    grpc = make_grpc(settings, upstreams, telemetry.log)
    verifier = Verifier(key_set(settings), policy(settings))
    minter = None
    if settings.jwt_secret_keys:
        signer = Signer(settings.jwt_secret_keys[0], "HS256")
        minter = Minter(signer, issuer=settings.jwt_issuer[0], audience=settings.jwt_audience)
    client = ServiceClient(upstreams, minter.token if minter else None)
    # Without a secret that the gateways share, each worker finds out for itself.
    stamp = Stamp(settings.jwt_secret_keys) if settings.jwt_secret_keys else None
    authority, key_upstreams = make_authority(
        settings, verifier, store, metrics, telemetry.log, client, make_upstream, stamp
    )
    metrics.register_source("authority", authority.families)
    revocations = Revocations(store, tracked)
    metrics.register_source("revocations", revocations.families)
    tenants = Tenants(store, tracked, client, stamp)
    api_keys = ApiKeys(
        store,
        tracked,
        stamp,
        tenants.plan,
        timestamps.read,
        fail_open=settings.rate_limit_fail_mode == "open",
    )
    metrics.register_source("api_keys", api_keys.families)
    demo = DemoSessions(store, client)
    tracked.on_change(lambda key: demo.mark_again() if key is None else None)
    store.on_connect(lambda _after_outage: demo.mark_again())
    tickets = Tickets(store, verifier)
    metrics.register_source("tickets", tickets.families)
    dispatcher = Dispatcher(store, client)
    metrics.register_source("dispatcher", dispatcher.families)
    guard = StreamGuard(tracked, timestamps, api_keys.end)
    alerts = Alerts(store, settings, telemetry.log)
    await alerts.start()
    metrics.register_source("alerts", alerts.families)
    geocoder = Geocoder(store, settings, make_upstream)
    await geocoder.start()
    metrics.register_source("geocode", geocoder.families)
    ledger = Ledger(
        store,
        keep=settings.idempotency_keep_seconds,
        max_body=settings.idempotency_max_body_bytes,
        max_answer=settings.idempotency_max_answer_bytes,
    )
    metrics.register_source("idempotency", ledger.families)
    versions = Versions(settings.service_catalog, settings.routes)
    metrics.register_source("versions", versions.families)
    prober = make_prober(settings, client, upstreams, grpc, telemetry.log, run_dir)
    incidents = make_incidents(store, upstreams, telemetry.log)
    metrics.register_source("health", prober.samples)
    tracer = Tracer()
    state = State(
        settings=settings,
        trusted=Peers(settings.trusted_proxies),
        admins=Peers(settings.admin_allow),
        cors=Cors(
            settings.cors_origins,
            settings.cors_allow_credentials,
            settings.cors_expose_headers,
            settings.cors_max_age,
        ),
        store=store,
        limiter=limiter,
        tracked=tracked,
        verifier=verifier,
        authority=authority,
        minter=minter,
        stamp=stamp,
        api_keys=api_keys,
        client=client,
        revocations=revocations,
        tenants=tenants,
        demo=demo,
        tickets=tickets,
        dispatcher=dispatcher,
        guard=guard,
        alerts=alerts,
        geocoder=geocoder,
        ledger=ledger,
        upstreams=upstreams,
        versions=versions,
        splits=make_splits(settings, upstreams, metrics),
        mirrorings=make_mirrorings(settings, upstreams, metrics, tracer, telemetry.log),
        grpc=grpc,
        metrics=metrics,
        access_log=telemetry.access_log,
        audit=telemetry.audit,
        log=telemetry.log,
        client_sockets=ClientSockets(settings.port),
        scraper=telemetry.scraper,
        health=Health(
            prober,
            version=__version__,
            redis_connected=lambda: store.connected,
            not_ready=lambda: "draining" if state.draining else "" if authority.ready else "keys",
            breakers=lambda: {name: upstream.breaker_state for name, upstream in upstreams.items()},
            ejected=lambda: {name: upstream.snapshot()["ejected"] for name, upstream in upstreams.items()},
        ),
        request_ids=RequestIds(),
        tracer=tracer,
        timestamps=timestamps,
        baseline=baseline_headers(settings),
    )
    metrics.register_source("websocket", state.sockets.families)
    if settings.identity_assertion:
        signing, published = signers(settings.assertion_private_key, settings.jwt_secret_keys)
        state.assertions = Assertions(signing[0], published)
    if settings.gateway_profile:
        state.profile = Profile()
        state.profile.start()
        metrics.register_source("profile", state.profile.families)
    state.capture = make_capture(settings, telemetry.log, run_dir)
    if state.capture is not None:
        metrics.register_source("capture", state.capture.families)
    await telemetry.start()
    prober.start()
    incidents.start()
    authority.start()
    api_keys.start()
    state.closers.append(telemetry.close)
    if state.capture is not None:
        state.closers.append(state.capture.close)
    state.closers += [store.close, tracked.close, limiter.close, ledger.close]
    state.closers += [prober.stop, tenants.close, demo.close, guard.close, alerts.close]
    state.closers += [geocoder.close, incidents.stop]
    state.closers += [upstream.close for upstream in (*upstreams.values(), *key_upstreams)]
    state.closers += [mirroring.close for mirroring in state.mirrorings.values()]
    state.closers += [service.close for service in grpc.values()]
    state.closers += [authority.close, api_keys.close, resolver.close, state.client_sockets.close]
    return state


def _store_families(store: Store) -> dict[str, Any]:
    numbers = store.snapshot()
    return {
        "gateway_redis_connected": int(numbers["connected"]),
        "gateway_redis_errors_total": int(numbers["errors"]),
        "gateway_redis_reconnects_total": int(numbers["reconnects"]),
        "gateway_redis_command_duration_seconds": [numbers["seconds"], int(numbers["commands"])],
    }


def _upstream_maker(settings: Settings, metrics: Metrics, resolver: Resolver) -> MakeUpstream:
    """Makes upstreams with the pool limits that are configured."""
    sweeper = Sweeper(asyncio.get_running_loop())
    limits = PoolLimits(
        max_connections=settings.upstream_max_connections,
        max_waiting=settings.upstream_max_waiting,
        queue_timeout=settings.queue_timeout_seconds,
        connect_timeout=settings.connect_timeout_seconds,
        keepalive=settings.keepalive_seconds,
        max_age=settings.connection_max_age_seconds,
    )

    contexts: dict[Trust | None, ssl.SSLContext] = {}

    def make(name: str, urls: tuple[str, ...], service: Service | None = None) -> Upstream:
        trust = service.trust if service else None
        # PERF: a store of authorities is 0.8 MiB and 20 ms: one for all that are judged alike.
        if trust not in contexts and any(url.startswith("https:") for url in urls):
            contexts[trust] = client_context(trust.ca, trust.identity) if trust else client_context()
        return Upstream(
            name,
            urls,
            sweeper,
            limits,
            metrics.upstream(name),
            idle_timeout=settings.idle_timeout_seconds,
            body_timeout=settings.body_timeout_seconds,
            tls=contexts.get(trust),
            # What is asked now and then (key sets, addresses) is connected to anew each time, by its name.
            resolver=resolver if service else None,
            health=service.health if service and service.grpc is None else "",
            preserve_host=service is not None and service.preserve_host,
        )

    return make


def _upstreams(settings: Settings, metrics: Metrics, make: MakeUpstream) -> dict[str, Upstream]:
    catalog = {service.name: service for service in destinations(settings.service_catalog)}
    upstreams = {name: make(name, urls, catalog.get(name)) for name, urls in settings.services.items()}
    add_upstreams(settings, upstreams, make)
    metrics.register_source("upstreams", lambda: _upstream_families(upstreams))
    return upstreams


def _upstream_families(upstreams: dict[str, Upstream]) -> dict[str, Any]:
    connections: dict[tuple[str, str], int] = {}
    waiting: dict[str, int] = {}
    breakers: dict[tuple[str, str], int] = {}
    replicas: dict[str, int] = {}
    ejected: dict[str, int] = {}
    for name, upstream in upstreams.items():
        numbers = upstream.snapshot()
        connections[name, "active"] = numbers["active"]
        connections[name, "idle"] = numbers["idle"]
        waiting[name] = numbers["waiting"]
        breakers[name, numbers["breaker"]] = 1
        replicas[name] = numbers["replicas"]
        ejected[name] = numbers["ejected"]
    return {
        "gateway_pool_connections": connections,
        "gateway_pool_waiting": waiting,
        "gateway_breaker_state": breakers,
        "gateway_replicas": replicas,
        "gateway_replicas_ejected": ejected,
    }
