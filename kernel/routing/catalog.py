"""The catalogue: services and routes as data; those of the platform are in platform.py.

`gateway.toml` adds to it or changes it without code (see kernel/config/gateway_toml.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from msgspec import Struct
from msgspec.structs import replace

from kernel.routing.rpc import Grpc, Rule
from kernel.routing.traffic import Canary, Mirror

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
WRITES = frozenset({"POST", "PUT", "PATCH", "DELETE"})
READS = METHODS - WRITES
# Lowest first: a route for one tier is open to all above it.
TIERS = ("starter", "professional", "enterprise")

# Names of handlers that others know, too.
ALERT_STREAM = "alert-stream"
VERSION_UNKNOWN = "version-unknown"

# Where an alert may go.
SSE = "sse"
CHANNELS = (SSE, "email", "whatsapp")

LOGOUT = "logout"
# What is attempted on a route whose attempts are limited.
LOGIN = "login"
REGISTER = "register"
REFRESH = "refresh"
SUBSCRIPTION_CHANGED = "subscription-changed"
DEMO_CREATED = "demo-created"

# Operations that the tenant service verifies.
DELETE_TENANT = "delete-tenant"
CHANGE_SUBSCRIPTION = "change-subscription"


class Limit(Struct, frozen=True):
    """`requests` in each `window` seconds."""

    requests: int
    window: float

    @property
    def text(self) -> str:
        """In words."""
        return f"{self.requests} requests in {self.window:g} s"


class Trust(Struct, frozen=True):
    """PEM texts: who may have signed a service's certificate (empty: the system's authorities), and our own with its key."""

    ca: bytes = b""
    identity: bytes = b""

    def __repr__(self) -> str:
        # SECURITY: a private key is in it.
        return "Trust(...)"


V1 = "v1"


class Lifecycle(Struct, frozen=True):
    """How long a version lives: Unix seconds (RFC 9745, RFC 8594). `successor` is a version's name, or a URL; the pages tell
    people why."""

    deprecated: int | None = None
    sunset: int | None = None
    successor: str = ""
    deprecation_page: str = ""
    sunset_page: str = ""


class Version(Struct, frozen=True):
    """A version of a service's API, below /api/{name}/.

    `upstream` is who answers: the service itself, or replicas of the version's own, whose URLs are in the variable `env`.
    `prefix` stands at the service where /api/{name} stood; None: the path is sent as it came.
    """

    name: str
    upstream: str
    env: str
    prefix: str | None = None
    life: Lifecycle = Lifecycle()


class Service(Struct, frozen=True):
    """A service behind the gateway.

    `env` names the variable with its URLs; `prefixes` are its path segments below /api/v1/; `health` and `openapi` are
    paths of the service itself. `tenant_scoped` services also answer below /api/v1/tenants/{tenant_id}/.
    """

    name: str
    env: str
    prefixes: tuple[str, ...]
    health: str = "/health"
    openapi: str = "/openapi.json"
    tenant_scoped: bool = True
    # How its TLS is judged and shown; None as most are.
    trust: Trust | None = None
    # It is told the Host that the client named, not its own.
    preserve_host: bool = False
    canary: Canary | None = None
    mirror: Mirror | None = None
    grpc: Grpc | None = None  # it speaks gRPC
    # v1, of which it is the life alone, and those beside it.
    versions: tuple[Version, ...] = ()

    @property
    def served(self) -> tuple[str, ...]:
        """The names of its versions."""
        return (V1, *(version.name for version in self.versions if version.name != V1))


def destinations(catalog: Iterable[Service]) -> Iterator[Service]:
    """All that is asked under a name of its own: the services, and versions with replicas of their own as such."""
    for service in catalog:
        yield service
        for version in service.versions:
            if version.upstream != service.name:
                own = {"name": version.upstream, "env": version.env}
                yield replace(service, **own, versions=(), canary=None, mirror=None)


def with_head(methods: frozenset[str] | None) -> frozenset[str]:
    """The methods that are answered: None is all of them, and GET brings HEAD (RFC 9110 section 9.1)."""
    if methods is None:
        return METHODS
    return methods | {"HEAD"} if "GET" in methods else methods


# SECURITY: a key has no account whose password it could change, and gets no tokens.
NO_KEYS = frozenset({"auth"})


class RouteRow(Struct, frozen=True, kw_only=True):
    """One route as declared; `Route` is its compiled form."""

    # "/a/b" literal segments, "{name}" one segment, a trailing "**" zero or more segments.
    pattern: str
    # None: every method of METHODS.
    methods: frozenset[str] | None = None
    # Key into the handlers' table.
    handler: str = "proxy"
    # The upstream of a proxied route.
    service: str | None = None
    # Needs no token.
    public: bool = False
    # In staging and prod only for ADMIN_ALLOW networks or service tokens.
    admin: bool = False
    # Only for service tokens.
    service_only: bool = False
    # What scopes of API keys call a route that is no service's; none: it takes no keys.
    scope: str = ""
    # The lowest tier that may use it.
    min_tier: str | None = None
    # A limit of its own, beside the client's; rows of one `limit_key` share it.
    limit: Limit | None = None
    limit_key: str = ""
    # Seconds until the response's first byte, when not REQUEST_TIMEOUT_SECONDS.
    timeout: float | None = None
    # Bytes, when not MAX_BODY_BYTES.
    max_body: int | None = None
    allow_encoded_slash: bool = False  # lets %2F through, for services that have it in their ids
    websocket: bool = False
    # Works without an active subscription and in read-only mode, so that a customer can log in and pay.
    always_writable: bool = False
    safe: bool = False  # changes nothing that read-only mode protects, although its method may
    graphql: bool = False  # the service speaks GraphQL here: what is asked is judged before it is sent on
    # Networks of which an address must be in one, if there are any; and in none.
    ip_allow: tuple[str, ...] = ()
    ip_deny: tuple[str, ...] = ()
    # The operation that the tenant service is asked about each time; refused when it cannot say.
    critical: str | None = None
    # LOGIN, REGISTER or REFRESH: attempts are limited by address and by account.
    attempts: str = ""
    # What a 2xx answer makes the gateway do: LOGOUT, SUBSCRIPTION_CHANGED or DEMO_CREATED.
    effect: str | None = None
    idempotency: str | None = None  # whether an Idempotency-Key is heeded: see keyed.py
    # Answers whatever the load, without a limit: an orchestrator that cannot ask kills a healthy, busy gateway, and an
    # operator needs the numbers most when there is too much of everything.
    exempt: bool = False
    # Whether it is captured; None: as CAPTURE_ROUTES says.
    capture: bool | None = None
    # Answers over plain HTTP and for any host, too: probes and scrapers come by address.
    direct: bool = False
    rules: tuple[Rule, ...] = ()  # of a gRPC service's: what a path of it may be, the likeliest first
    # Of the service's API; "" for v1, unless there is something to tell of it.
    version: str = ""
    # Who is asked, when not the service itself.
    upstream: str = ""
    # The path that is sent, a pattern of the same variables; "": what came.
    rewrite: str = ""
    # (lower-case name, value): what a service is told beside the gateway's own, and not.
    set_headers: tuple[tuple[str, str], ...] = ()
    remove_headers: tuple[str, ...] = ()
    # Of its answers; an empty value removes.
    response_headers: tuple[tuple[str, str], ...] = ()
    # Set where callers are told that the version ends.
    life: Lifecycle | None = None

    @property
    def asked(self) -> str:
        """The name of the upstream of a proxied row."""
        assert self.service is not None
        return self.upstream or self.service

    @property
    def identified(self) -> bool:
        """Whether a request must say whose it is. Admin routes go by network, unless only services may call them."""
        return self.service_only or not (self.public or self.admin)

    def key_scope(self, method: str) -> str:
        """The scope that an API key needs for `method`; "" where keys are refused."""
        name = self.service or self.scope
        if not self.identified or self.service_only or self.critical is not None or name in NO_KEYS:
            return ""
        # What will be said in a socket is not known, nor what a POST of GraphQL asks a service.
        writes = self.websocket or (method in WRITES and (self.graphql or not self.safe))
        return f"{name}:{'write' if writes else 'read'}" if name else ""

    @property
    def answered(self) -> frozenset[str]:
        """The methods it answers."""
        return with_head(self.methods)

    @property
    def browser(self) -> bool:
        """Whether browsers open it without headers: tickets, and tokens in the query or a subprotocol, are taken."""
        return self.websocket or self.handler == ALERT_STREAM


def service_rows(service: Service) -> Iterator[RouteRow]:
    """The routes every service has: its prefixes and, below a tenant, its prefixes and its own name."""
    for prefix in service.prefixes:
        yield RouteRow(pattern=f"/api/v1/{prefix}/**", service=service.name)
    if service.tenant_scoped:
        for segment in dict.fromkeys((*service.prefixes, service.name)):
            yield RouteRow(pattern=f"/api/v1/tenants/{{tenant_id}}/{segment}/**", service=service.name)
