"""Settings: every variable of the gateway, typed, frozen, documented where it is declared.

`Meta` carries the parser, the text and the example; variables.py reads them back.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import field

from kernel.config.declare import seconds as _seconds
from kernel.config.declare import variable as _var
from kernel.config.edge import EdgeSettings
from kernel.config.urls import (
    BASE_URL,
    CONTACT,
    KEY_SOURCE,
    KeySource,
)
from kernel.config.values import (
    FLAG,
    LABEL,
    SECRETS,
    TEXT,
    choice,
    integer,
    listed,
    number,
    size,
)
from kernel.routing.catalog import CHANNELS, SSE, Limit, RouteRow, Service
from kernel.routing.platform import ROUTES, SERVICES

_ASYMMETRIC = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
_GIB = 1024**3


# By severity; whatever is not named goes to the streams.
DEFAULT_CHANNELS = {"high": (SSE, "email"), "urgent": CHANNELS, "critical": CHANNELS}


def default_services(catalog: tuple[Service, ...] = SERVICES) -> dict[str, tuple[str, ...]]:
    """Where each service is when nothing says otherwise: its name in a cluster's DNS."""
    return {service.name: (f"http://{service.name}-service:8000",) for service in catalog}


class Settings(EdgeSettings, frozen=True, kw_only=True):
    """One attribute for each variable, in lower case, those of the process first. An empty variable counts as unset."""

    jwt_public_key: Annotated[
        str | None,
        _var(
            TEXT,
            "Public keys that verify tokens: PEM text (one or several blocks, each after a line `kid: NAME`), or paths "
            "of PEM files, comma-separated, each `[kid=]path`. Without it and `JWT_JWKS_URL` the auth service is asked about "
            "each new token; in `dev` a key pair is made, and it is asked if `AUTH_SERVICE_URL` is set.",
            "/run/keys/jwt_public.pem",
            group="Tokens",
            secret=True,
        ),
    ] = None
    jwt_algorithm: Annotated[
        str, _var(choice(*_ASYMMETRIC), "The algorithm of `JWT_PUBLIC_KEY`.", "RS256")
    ] = "RS256"
    jwt_jwks_url: Annotated[
        tuple[KeySource, ...],
        _var(
            listed(KEY_SOURCE),
            "Key sets that are fetched and refreshed; `issuer=URL` binds one to an `iss`.",
            "https://auth.example.com/.well-known/jwks.json",
        ),
    ] = ()
    jwt_secret_keys: Annotated[
        tuple[str, ...],
        _var(
            SECRETS,
            "Secret of service tokens (HS256), shared with the services; 32 bytes or more outside `dev`. Several: the first "
            "signs, all verify.",
            "the output of: openssl rand -base64 48",
            secret=True,
            name="JWT_SECRET_KEY",
        ),
    ] = ()
    jwt_service_public_key: Annotated[
        str | None,
        _var(
            TEXT,
            "Public keys that verify service tokens, in the forms of `JWT_PUBLIC_KEY`; users' tokens never.",
            "/run/keys/services_public.pem",
            secret=True,
        ),
    ] = None
    jwt_issuer: Annotated[tuple[str, ...], _var(listed(TEXT), "Accepted `iss` claims.", "bakery-auth")] = (
        "bakery-auth",
    )
    jwt_audience: Annotated[
        str | None, _var(TEXT, "Demanded `aud` claim; unset: not checked.", "bakery-api")
    ] = None
    identity_assertion: Annotated[
        bool,
        _var(
            FLAG, "Services get `x-gateway-assertion`: who calls, signed for that service, for 60 s.", "true"
        ),
    ] = False
    assertion_private_key: Annotated[
        str | None,
        _var(
            TEXT,
            "Ed25519 private keys of assertions, as PEM text; the first signs, all are published at "
            "`/.well-known/jwks.json`. Unset: HS256 with a key made from `JWT_SECRET_KEY`.",
            "the output of: openssl genpkey -algorithm ed25519",
            secret=True,
        ),
    ] = None
    jwt_leeway_seconds: Annotated[
        float, _seconds("How far `nbf` and `iat` may lie in the future.", "5", low=0, high=300)
    ] = 5.0
    jwt_require_type: Annotated[
        bool, _var(FLAG, "`false` takes a token without a `type` claim as `access`.", "true")
    ] = True

    rate_limit_requests: Annotated[
        int,
        _var(integer(1, 10**9), "Requests a client may make in each window.", "300", group="Limits"),
    ] = 300
    rate_limit_window_seconds: Annotated[
        float, _seconds("Length of the window.", "60", low=1, high=86400)
    ] = 60.0
    service_rate_limit_requests: Annotated[
        int, _var(integer(0, 10**9), "The same for a service's token; 0: no limit.", "0")
    ] = 0
    login_rate_limit_account: Annotated[
        int,
        _var(
            integer(0, 10**9),
            "Failed logins and refreshes for one account (`email` and `username` of the body), and registrations, in each "
            "`LOGIN_RATE_LIMIT_WINDOW_SECONDS`, wherever they come from. 0: no limit.",
            "10",
        ),
    ] = 10
    login_rate_limit_address: Annotated[
        int, _var(integer(0, 10**9), "The same of one address, whatever the accounts. 0: no limit.", "30")
    ] = 30
    login_rate_limit_window_seconds: Annotated[
        float, _seconds("Length of that window.", "60", low=1, high=86400)
    ] = 60.0
    rate_limit_fail_mode: Annotated[
        str,
        _var(
            choice("open", "closed", fold=str.lower),
            "Without Redis: `open` lets each worker keep the limit on its own, `closed` answers 503.",
            "closed",
        ),
    ] = "open"
    max_body_bytes: Annotated[
        int, _var(size(0, 1024 * _GIB), "Largest request body; more is answered 413.", "10MiB")
    ] = 10 * 1024**2
    max_header_bytes: Annotated[
        int, _var(size(1024, 1024**2), "Largest request line and headers; more is answered 431.", "32KiB")
    ] = 32 * 1024

    header_timeout_seconds: Annotated[
        float,
        _seconds(
            "Client: request line and headers must have come.",
            "10",
            low=1,
            group="Timeouts",
        ),
    ] = 10.0
    client_keepalive_seconds: Annotated[
        float,
        _seconds(
            "Client: how long a connection is kept between two requests; longer than the balancer keeps it.",
            "620",
            low=1,
        ),
    ] = 75.0
    body_timeout_seconds: Annotated[
        float, _seconds("Client: longest pause in a request body; a small one (16 KiB) altogether.", "30")
    ] = 30.0
    queue_timeout_seconds: Annotated[float, _seconds("Waiting for a connection to a busy service.", "5")] = (
        5.0
    )
    connect_timeout_seconds: Annotated[float, _seconds("Connecting to a service.", "3")] = 3.0
    request_timeout_seconds: Annotated[
        float, _seconds("Service: until the first byte of its response; 504 after it.", "30")
    ] = 30.0
    idle_timeout_seconds: Annotated[float, _seconds("Service: longest pause in a response body.", "60")] = (
        60.0
    )
    keepalive_seconds: Annotated[
        float,
        _seconds(
            "How long an idle connection to a service is kept: below the service's own time (uvicorn, Node 5; gunicorn 2).",
            "4",
            low=0,
        ),
    ] = 4.0
    connection_max_age_seconds: Annotated[
        float,
        _seconds(
            "How long a connection to a service is used at all, give or take a tenth: a balancer between then chooses anew.",
            "300",
            low=1,
        ),
    ] = 300.0
    dns_refresh_seconds: Annotated[
        float,
        _seconds(
            "How often the names of services are looked up; each address is a replica, 16 at most.",
            "5",
            low=0.1,
        ),
    ] = 5.0
    upstream_max_connections: Annotated[
        int,
        _var(
            integer(1, 65535),
            "Connections of a worker to one replica; half of them at most for long uploads.",
            "128",
            group="Services",
        ),
    ] = 128
    upstream_max_waiting: Annotated[
        int,
        _var(integer(0, 1_000_000), "Requests of a worker that wait for one service; more get 503.", "1024"),
    ] = 1024
    api_keys_per_tenant: Annotated[
        int, _var(integer(1, 10_000), "API keys that a tenant may have.", "50", group="API keys")
    ] = 50
    subscription_grace_days: Annotated[
        float, _var(number(0, 3650), "Days that an expired subscription goes on.", "7")
    ] = 7.0
    idempotency: Annotated[
        bool,
        _var(
            FLAG,
            "Heed `Idempotency-Key` on POST and PATCH of every route that knows its callers; gateway.toml's `idempotency` "
            "says it for one.",
            "true",
            group="Idempotency",
        ),
    ] = False
    idempotency_keep_seconds: Annotated[
        float, _seconds("How long an answer is kept and replayed.", "86400", low=1, high=30 * 86400)
    ] = 86400.0
    idempotency_max_body_bytes: Annotated[
        int, _var(size(0, 16 * 1024**2), "Largest request body with a key; more is answered 413.", "1MiB")
    ] = 1024**2
    idempotency_max_answer_bytes: Annotated[
        int,
        _var(
            size(0, 16 * 1024**2),
            "Largest answer that is kept; of others, only that there was one.",
            "256KiB",
        ),
    ] = 256 * 1024
    nominatim_url: Annotated[
        str,
        _var(
            BASE_URL,
            "Where addresses are looked up.",
            "https://nominatim.example.com",
            group="Geocoding",
        ),
    ] = "https://nominatim.openstreetmap.org"
    nominatim_contact: Annotated[
        str | None,
        _var(
            CONTACT,
            "An e-mail address or URL for its operators, sent in `User-Agent`.",
            "ops@bakery.example",
        ),
    ] = None
    nominatim_interval_seconds: Annotated[
        float,
        _seconds("Pause between two requests of all instances together.", "1", low=0, high=60),
    ] = 1.0
    alerts_retention_events: Annotated[
        int, _var(integer(1, 1_000_000), "Alerts kept of each tenant for replay.", "2000", group="Alerts")
    ] = 2000
    alerts_retention_seconds: Annotated[
        float, _seconds("How long they are kept.", "86400", low=1, high=30 * 86400)
    ] = 86400.0
    alerts_max_bytes: Annotated[
        int, _var(size(256, 1024**2), "Largest alert; larger ones are dropped.", "64KiB")
    ] = 64 * 1024
    alerts_severities: Annotated[
        tuple[str, ...],
        _var(listed(LABEL), "Severities that streams may ask for.", "low,medium,high,urgent"),
    ] = ("info", "low", "medium", "high", "urgent", "critical")
    alerts_max_streams: Annotated[
        int, _var(integer(1, 1_000_000), "Alert streams a worker keeps open; more are answered 503.", "8192")
    ] = 8192
    alerts_heartbeat_seconds: Annotated[
        float, _seconds("Between two signs of life on a silent stream.", "15", low=0.1, high=300)
    ] = 15.0
    alerts_queue_events: Annotated[
        int, _var(integer(1, 100_000), "Alerts a stream may be behind before it is cut off.", "1000")
    ] = 1000
    alerts_queue_bytes: Annotated[int, _var(size(1024, 1024**3), "The same in bytes.", "1MiB")] = 1024**2

    websocket_idle_timeout_seconds: Annotated[
        float, _seconds("Longest silence in both directions.", "300", low=0.05, high=86400, group="WebSocket")
    ] = 300.0
    websocket_max_message_bytes: Annotated[
        int, _var(size(125, 16 * 1024**2), "Largest message, in either direction.", "4MiB")
    ] = 4 * 1024**2
    websocket_max_connections: Annotated[
        int, _var(integer(1, 1_000_000), "Sockets a worker keeps open; more are answered 503.", "8192")
    ] = 8192

    graphql: Annotated[
        bool,
        _var(
            FLAG,
            "Serves GraphQL over the services at `/api/v1/graphql`, by their OpenAPI documents.",
            "true",
            group="GraphQL",
        ),
    ] = False
    graphql_introspection: Annotated[
        bool,
        _var(
            FLAG,
            "Clients may ask for the schema, and wrong names are told what is like them.",
            "true",
            default="`false` in `prod`, else `true`",
        ),
    ] = True
    graphql_max_depth: Annotated[
        int, _var(integer(1, 50), "How deep fields may be, from a root field on.", "12")
    ] = 12
    graphql_max_aliases: Annotated[
        int, _var(integer(0, 1000), "Aliases in a document, those of its fragments included.", "30")
    ] = 30
    graphql_max_requests: Annotated[
        int, _var(integer(1, 1000), "Requests to services that one operation may need.", "30")
    ] = 30
    graphql_max_cost: Annotated[
        int,
        _var(
            integer(1, 100_000),
            "Fields of one operation, each times the length of the lists it is in.",
            "10000",
        ),
    ] = 10_000
    graphql_timeout_seconds: Annotated[
        float, _seconds("For one operation, all its requests together.", "30")
    ] = 30.0

    # The keys above were made for this run: nobody else signs with them.
    provisional_keys: bool = False
    # From the service URL variables, the catalogue and gateway.toml.
    services: dict[str, tuple[str, ...]] = field(default_factory=default_services)
    service_catalog: tuple[Service, ...] = SERVICES
    routes: tuple[RouteRow, ...] = ROUTES
    tier_limits: dict[str, Limit] = field(default_factory=dict)
    tenant_limits: dict[str, Limit] = field(default_factory=dict)
    # Severity -> where a dispatched alert goes that names no channels.
    alert_channels: dict[str, tuple[str, ...]] = field(default_factory=DEFAULT_CHANNELS.copy)

    def __repr__(self) -> str:
        # SECURITY: the default would print secrets wherever a Settings ends up in a log or a traceback.
        return f"Settings({self.environment}, {self.host}:{self.port})"
