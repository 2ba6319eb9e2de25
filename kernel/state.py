"""State: everything a worker holds between requests, built once when it starts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kernel.alerts.dispatch import Dispatcher
from kernel.alerts.service import Alerts
from kernel.capture.writing import Capture
from kernel.config import Settings
from kernel.exchange.asgi import HeaderList, Receive, Scope, Send
from kernel.exchange.client_socket import ClientSockets
from kernel.exchange.cors import Cors
from kernel.exchange.exchange import Handler
from kernel.exchange.sockets import Sockets
from kernel.exchange.streams import Streams
from kernel.geocoding.geocoder import Geocoder
from kernel.health.report import Health
from kernel.http.addresses import Peers
from kernel.http.headers import HeaderKinds
from kernel.identity.api_keys import ApiKeys
from kernel.identity.assertion import Assertions
from kernel.identity.authority import Authority
from kernel.identity.mint import Minter
from kernel.identity.revocations import Revocations
from kernel.identity.stamp import Stamp
from kernel.identity.tickets import Tickets
from kernel.identity.tokens import Verifier
from kernel.routing.catalog import RouteRow
from kernel.store.limiter import Limiter
from kernel.store.redis import Store
from kernel.store.tracked import TrackedMap
from kernel.telemetry.accesslog import AccessLog
from kernel.telemetry.audit import Audit
from kernel.telemetry.log import Log
from kernel.telemetry.metrics import Metrics
from kernel.telemetry.operations import Operations
from kernel.telemetry.profile import Profile
from kernel.telemetry.scrape import Scraper
from kernel.telemetry.trace import RequestIds, Tracer
from kernel.tenancy.demo_sessions import DemoSessions
from kernel.tenancy.guard import StreamGuard
from kernel.tenancy.tenants import Tenants
from kernel.tenancy.timestamps import Timestamps
from kernel.traffic.canary import Split
from kernel.traffic.idempotency_ledger import Ledger
from kernel.traffic.mirror import Mirroring
from kernel.traffic.versions import Versions
from kernel.upstream.balance import Upstream
from kernel.upstream.client import ServiceClient

if TYPE_CHECKING:
    from kernel.upstream.grpc_channels import GrpcService
Enter = Callable[[Scope, Receive, Send], Awaitable[None] | None]


@dataclass(slots=True)
class State:
    """One a worker; stages and handlers are compiled against it."""

    settings: Settings
    trusted: Peers
    admins: Peers
    cors: Cors
    store: Store
    limiter: Limiter
    tracked: TrackedMap
    verifier: Verifier
    authority: Authority
    minter: Minter | None
    stamp: Stamp | None
    api_keys: ApiKeys
    client: ServiceClient
    revocations: Revocations
    tenants: Tenants
    demo: DemoSessions
    tickets: Tickets
    dispatcher: Dispatcher
    guard: StreamGuard
    alerts: Alerts
    geocoder: Geocoder
    ledger: Ledger
    upstreams: dict[str, Upstream]
    versions: Versions
    # By service, where it has a canary.
    splits: dict[str, Split]
    # By service, where it has a mirror.
    mirrorings: dict[str, Mirroring]
    # Those of them that speak gRPC.
    grpc: Mapping[str, GrpcService]
    metrics: Metrics
    access_log: AccessLog
    audit: Audit
    scraper: Scraper
    health: Health
    request_ids: RequestIds
    tracer: Tracer
    log: Log
    client_sockets: ClientSockets
    header_kinds: HeaderKinds = field(default_factory=HeaderKinds)
    timestamps: Timestamps = field(default_factory=Timestamps)
    # Headers every response carries, whatever made it.
    baseline: HeaderList = field(default_factory=list)
    # Ended in reverse order when the worker stops.
    closers: list[Callable[[], Awaitable[object]]] = field(default_factory=list)
    # Set with CAPTURE_FILE.
    capture: Capture | None = None
    # Set with IDENTITY_ASSERTION.
    assertions: Assertions | None = None
    # Set with GATEWAY_PROFILE.
    profile: Profile | None = None
    # Long-lived requests, which a drain ends.
    streams: Streams = field(default_factory=Streams)
    sockets: Sockets = field(default_factory=Sockets)
    # Of GraphQL.
    operations: Operations = field(default_factory=Operations)
    draining: bool = False
    # Set by the gateway: the way that every request takes (see app.py), for those that handlers make.
    enter: Enter | None = None

    async def close(self) -> None:
        """Let go of everything; the last lines and numbers are written first of all by what holds them."""
        for close in reversed(self.closers):
            await close()


Factory = Callable[[State, RouteRow], Handler]
# Handlers' names in the catalogue -> what makes them for a row.
Factories = Mapping[str, Factory]
