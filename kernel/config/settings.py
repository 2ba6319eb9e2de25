"""Settings: every variable of the gateway, typed, frozen, documented where it is declared.

`Meta` carries the parser, the text and the example; variables.py reads them back.
"""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path
from typing import Annotated

from msgspec import Struct, field

from kernel.addresses import Network
from kernel.catalog import CHANNELS, ROUTES, SERVICES, SSE, Limit, RouteRow, Service
from kernel.config import values
from kernel.config.declare import seconds as _seconds
from kernel.config.declare import variable as _var
from kernel.config.urls import (
    ADDRESS,
    BASE_URL,
    CONTACT,
    HOST,
    HOST_PATTERN,
    KEY_SOURCE,
    ORIGIN,
    STORE_URL,
    KeySource,
)
from kernel.config.values import FLAG, LABEL, NETWORK, PATH, TEXT, choice, integer, listed, number, size

_ASYMMETRIC = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
_PRIVATE = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "127.0.0.0/8", "::1/128", "fc00::/7")
_GIB = 1024**3


# By severity; whatever is not named goes to the streams.
DEFAULT_CHANNELS = {"high": (SSE, "email"), "urgent": CHANNELS, "critical": CHANNELS}


def default_services(catalog: tuple[Service, ...] = SERVICES) -> dict[str, tuple[str, ...]]:
    """Where each service is when nothing says otherwise: its name in a cluster's DNS."""
    return {service.name: (f"http://{service.name}-service:8000",) for service in catalog}


class Settings(Struct, frozen=True, kw_only=True):
    """One attribute for each variable, in lower case. An empty variable counts as unset."""

    port: Annotated[int, _var(integer(1, 65535), "Port to listen on.", "8000", group="Server")] = 8000
    host: Annotated[str, _var(ADDRESS, "Address to bind.", "0.0.0.0")] = "0.0.0.0"  # noqa: S104
    environment: Annotated[
        str,
        _var(
            choice("dev", "staging", "prod", fold=str.lower),
            "`dev` brings an embedded store and makes its own keys; `staging` and `prod` do neither.",
            "prod",
        ),
    ] = "dev"
    workers: Annotated[int, _var(values.WORKERS, "Worker processes.", "auto")] = 1
    max_connections: Annotated[
        int,
        _var(integer(16, 1_000_000), "Open client connections a worker; more wait in the backlog.", "16384"),
    ] = 16384
    max_requests_in_flight: Annotated[
        int,
        _var(integer(1, 1_000_000), "Requests a worker handles at once; more are answered 503.", "4096"),
    ] = 4096
    shutdown_grace_seconds: Annotated[
        float, _seconds("Time that requests in flight have to end after SIGTERM.", "30", low=0)
    ] = 30.0
    tls_cert_file: Annotated[
        Path | None,
        _var(PATH, "PEM certificate chain; serves HTTPS, with `TLS_KEY_FILE`.", "/run/tls/tls.crt"),
    ] = None
    tls_key_file: Annotated[
        Path | None, _var(PATH, "PEM private key (PKCS#8) of `TLS_CERT_FILE`.", "/run/tls/tls.key")
    ] = None
    gateway_config: Annotated[
        Path | None,
        _var(PATH, "A gateway.toml that adds or changes services, routes and limits.", "gateway.toml"),
    ] = None

    log_level: Annotated[
        str,
        _var(
            choice("DEBUG", "INFO", "WARNING", "ERROR", fold=str.upper),
            "`DEBUG` also logs a line, with redacted headers, before each request.",
            "INFO",
            group="Logs",
        ),
    ] = "INFO"
    structlog_pretty_print: Annotated[
        bool, _var(FLAG, "Coloured text for people instead of JSON lines.", "true")
    ] = False
    log_anonymize: Annotated[bool, _var(FLAG, "Truncate addresses and hash user ids in logs.", "true")] = (
        False
    )
    audit_log_file: Annotated[
        Path | None, _var(PATH, "Where security events go as JSON lines.", "/var/log/gateway/audit.jsonl")
    ] = None

    redis_host: Annotated[
        str | None,
        _var(
            HOST,
            "Redis or Valkey server. In `dev`, without it, an embedded one is started.",
            "redis",
            group="Redis",
        ),
    ] = None
    redis_port: Annotated[int, _var(integer(1, 65535), "Its port.", "6379")] = 6379
    redis_db: Annotated[int, _var(integer(0, 1_000_000), "Its database number.", "0")] = 0
    redis_password: Annotated[str | None, _var(TEXT, "Its password.", "a-password", secret=True)] = None
    redis_url: Annotated[
        str | None,
        _var(
            STORE_URL,
            "Overrides the four above: TLS, unix socket, Sentinel and Cluster forms.",
            "rediss://:a-password@redis:6379/0",
            secret=True,
        ),
    ] = None

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
    jwt_secret_key: Annotated[
        str | None,
        _var(
            TEXT,
            "Secret of service tokens (HS256), shared with the services; 32 bytes or more outside `dev`.",
            "the output of: openssl rand -base64 48",
            secret=True,
        ),
    ] = None
    jwt_issuer: Annotated[tuple[str, ...], _var(listed(TEXT), "Accepted `iss` claims.", "bakery-auth")] = (
        "bakery-auth",
    )
    jwt_audience: Annotated[
        str | None, _var(TEXT, "Demanded `aud` claim; unset: not checked.", "bakery-api")
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

    cors_origins: Annotated[
        tuple[str, ...],
        _var(
            listed(ORIGIN),
            "Pages that may call: exact origins, `https://*.example.com`, or `*` without credentials.",
            "https://app.example.com,https://*.bakery.example",
            group="Edge",
        ),
    ] = ()
    cors_allow_credentials: Annotated[
        bool, _var(FLAG, "Let pages send cookies and read the answers.", "true")
    ] = True
    trusted_proxies: Annotated[
        tuple[Network, ...],
        _var(
            listed(NETWORK),
            "Whose `X-Forwarded-*`, `Forwarded` and `x-request-id` headers are believed.",
            "10.0.0.0/8,2001:db8::/32",
        ),
    ] = ()
    allowed_hosts: Annotated[
        tuple[str, ...],
        _var(listed(HOST_PATTERN), "Host names served; unset: any.", "api.example.com,*.api.example.com"),
    ] = ()
    admin_allow: Annotated[
        tuple[Network, ...],
        _var(
            listed(NETWORK),
            "Who may read `/metrics` and the like in staging and prod.",
            "10.20.0.0/16",
            default="private and loopback networks",
        ),
    ] = tuple(ip_network(each) for each in _PRIVATE)
    https_only: Annotated[
        bool,
        _var(FLAG, "Redirect or refuse plain HTTP.", "true", default="`true` in `prod`, else `false`"),
    ] = False

    header_timeout_seconds: Annotated[
        float,
        _seconds("Client: request line and headers must have come.", "10", low=1, group="Timeouts"),
    ] = 10.0
    body_timeout_seconds: Annotated[float, _seconds("Client: longest pause in a request body.", "30")] = 30.0
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
        float, _seconds("How long an idle connection to a service is kept.", "30", low=0)
    ] = 30.0
    upstream_max_connections: Annotated[
        int,
        _var(integer(1, 65535), "Connections of a worker to one replica.", "128", group="Services"),
    ] = 128
    upstream_max_waiting: Annotated[
        int,
        _var(integer(0, 1_000_000), "Requests of a worker that wait for one service; more get 503.", "1024"),
    ] = 1024
    subscription_grace_days: Annotated[
        float, _var(number(0, 3650), "Days that an expired subscription goes on.", "7")
    ] = 7.0
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

    # The keys above were made for this run: nobody else signs with them.
    provisional_keys: bool = False
    # From the service URL variables, the catalogue and gateway.toml.
    services: dict[str, tuple[str, ...]] = field(default_factory=default_services)
    service_catalog: tuple[Service, ...] = SERVICES
    routes: tuple[RouteRow, ...] = ROUTES
    tier_limits: dict[str, Limit] = {}
    tenant_limits: dict[str, Limit] = {}
    # Severity -> where a dispatched alert goes that names no channels.
    alert_channels: dict[str, tuple[str, ...]] = field(default_factory=DEFAULT_CHANNELS.copy)

    def __repr__(self) -> str:
        # SECURITY: the default would print secrets wherever a Settings ends up in a log or a traceback.
        return f"Settings({self.environment}, {self.host}:{self.port})"
