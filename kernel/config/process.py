"""The settings of the process itself: where it listens, what it logs, its store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from msgspec import Struct

from kernel.config import values
from kernel.config.declare import seconds as _seconds
from kernel.config.declare import variable as _var
from kernel.config.urls import ADDRESS, HOST, STORE_URL
from kernel.config.values import FLAG, PATH, TEXT, choice, integer, number, size


class ProcessSettings(Struct, frozen=True, kw_only=True):
    """The first part of `Settings`."""

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
        _var(
            integer(16, 1_000_000),
            "Open client connections a worker, as far as open files allow; more wait in the backlog.",
            "16384",
        ),
    ] = 16384
    max_requests_in_flight: Annotated[
        int,
        _var(integer(1, 1_000_000), "Requests a worker handles at once; more are answered 503.", "4096"),
    ] = 4096
    drain_seconds: Annotated[
        float,
        _seconds(
            "After SIGTERM: still accept, with readiness false and `Connection: close`, until balancers have noticed. "
            "Not after Ctrl-C.",
            "5",
            low=0,
        ),
    ] = 5.0
    shutdown_grace_seconds: Annotated[
        float, _seconds("Time that requests in flight have to end after that.", "30", low=0)
    ] = 30.0
    tls_cert_file: Annotated[
        Path | None,
        _var(
            PATH,
            "PEM certificate chain; serves HTTPS, with `TLS_KEY_FILE`. Read again at SIGHUP.",
            "/run/tls/tls.crt",
        ),
    ] = None
    tls_key_file: Annotated[
        Path | None, _var(PATH, "PEM private key of `TLS_CERT_FILE`, not encrypted.", "/run/tls/tls.key")
    ] = None
    tls_min_version: Annotated[
        str,
        _var(
            choice("1.2", "1.3"),
            "Oldest version of TLS that clients may speak. With 1.2, forward-secret AEAD ciphers only (RFC 9325).",
            "1.3",
        ),
    ] = "1.2"
    http2: Annotated[
        bool,
        _var(
            FLAG,
            "HTTP/2 beside HTTP/1.1: by ALPN, or without TLS by prior knowledge. An open connection takes 8 KiB more.",
            "true",
            default="`true` with `TLS_CERT_FILE`, else `false`",
        ),
    ] = False
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
    audit_all: Annotated[
        bool,
        _var(
            FLAG, "Every request is an audit event, one line each; else refusals and uses of power.", "true"
        ),
    ] = False

    gateway_profile: Annotated[
        bool, _var(FLAG, "Time each stage and handler, and garbage collection, for `/metrics`.", "true")
    ] = False

    capture_file: Annotated[
        Path | None,
        _var(
            PATH,
            "Where requests and their answers go, a HAR entry a line, for `gateway capture` and `gateway replay`; unset: "
            "nowhere.",
            "/var/lib/gateway/capture.ndjson",
            group="Capture",
        ),
    ] = None
    capture_percent: Annotated[
        float, _var(number(0, 100), "Of how many in a hundred; decimals count.", "0.5")
    ] = 100.0
    capture_routes: Annotated[
        str,
        _var(
            choice("all", "marked", fold=str.lower),
            "`all` routes but health and metrics, or `marked` ones, which say `capture = true`.",
            "marked",
        ),
    ] = "all"
    capture_bodies: Annotated[bool, _var(FLAG, "Bodies, too.", "true")] = False
    capture_body_bytes: Annotated[
        int,
        _var(size(1, 16 * 1024**2), "Of each body, as much; the record says when there was more.", "64KiB"),
    ] = 64 * 1024
    capture_max_bytes: Annotated[
        int,
        _var(size(64 * 1024, 1024**4), "What the file and its rotated ones may take together.", "256MiB"),
    ] = 256 * 1024**2
    capture_redact: Annotated[
        bool, _var(FLAG, "`false` writes secrets as they are; not in `prod`.", "true")
    ] = True

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
