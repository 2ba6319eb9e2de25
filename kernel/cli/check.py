"""`gateway check`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from typing import Any

import msgspec

from kernel.cli.output import Style, plural, print_errors, summary, table
from kernel.cli.settings import examine, obtain
from kernel.config import ConfigErrors, Loaded, Settings
from kernel.routing.beside import beside
from kernel.routing.catalog import Service
from kernel.routing.platform import SERVICES


def add(parser: argparse.ArgumentParser) -> None:
    parser.description = """\
Validate the whole configuration without serving: every variable, .env and gateway.toml, the keys and the route table.
All errors are reported at once, each with its variable, what is wrong and an example. Exits 0 when the gateway would
start, 1 when it would not; warnings (a misspelt variable, say) do not change that, unless --strict."""
    parser.epilog = """\
examples:
  gateway check
  ENVIRONMENT=prod REDIS_HOST=redis gateway check --probe
  gateway check --strict --json | jq -r '.errors[], .warnings[] | .variable'
  gateway check --reference > configuration.md
  gateway check --schema > gateway.schema.json     # then `#:schema ./gateway.schema.json` on top of gateway.toml
"""
    parser.add_argument(
        "--probe",
        action="store_true",
        help="also reach Redis, the JWKS and every service; 1 if any cannot be",
    )
    parser.add_argument(
        "--timeout", type=float, default=3.0, metavar="SECONDS", help="for a probe (default: 3)"
    )
    parser.add_argument("--strict", action="store_true", help="exit 1 for a warning, too")
    parser.add_argument("--json", action="store_true", help="one JSON object, whatever is found")
    parser.add_argument(
        "--schema", action="store_true", help="print the JSON Schema of gateway.toml instead, for editors"
    )
    parser.add_argument(
        "--reference",
        action="store_true",
        help="print every variable and gateway.toml field as Markdown instead",
    )


def run(args: argparse.Namespace) -> int:
    if args.reference:
        from kernel.config.reference import reference  # noqa: PLC0415

        sys.stdout.write(reference())
        return 0
    if args.schema:
        from kernel.config.schema import schema  # noqa: PLC0415

        _print_json(schema())
        return 0
    if args.json:
        return _report(args)
    loaded = obtain()
    if loaded is None:
        return 1
    style = Style(sys.stdout)
    note = summary((), loaded.warnings)
    doubts = f", with {style('33', note)}" if note else ""
    sys.stdout.write(f"gateway: {style('1;32', 'the configuration is valid')}{doubts}\n\n")
    print_errors((), loaded.warnings, sys.stdout)
    if loaded.warnings:
        sys.stdout.write("\n")
    rows = facts(loaded.settings)
    sys.stdout.write("\n".join(f"  {line}" for line in table(rows, ("2", ""), style)) + "\n")
    failed = 0
    if args.probe:
        from kernel.cli.probe import probe  # noqa: PLC0415

        failed = probe(loaded.settings, args.timeout)
    if args.strict and loaded.warnings:
        sys.stderr.write("gateway: not accepted: with --strict a warning is an error\n")
        return 1
    return failed


def _report(args: argparse.Namespace) -> int:
    """Everything as one JSON object."""
    found = examine()
    errors = found.errors if isinstance(found, ConfigErrors) else ()
    accepted = not errors and not (args.strict and found.warnings)
    report: dict[str, Any] = {"accepted": accepted, "errors": errors, "warnings": found.warnings}
    if isinstance(found, Loaded):
        report["facts"] = dict(facts(found.settings))
        if args.probe:
            from kernel.cli.probe import reached  # noqa: PLC0415

            results = reached(found.settings, args.timeout)
            names = ("name", "address", "found", "took")
            report["probes"] = [{"well": well, **dict(zip(names, row, strict=True))} for well, row in results]
            accepted = report["accepted"] = accepted and all(well for well, _ in results)
    _print_json(report)
    return int(not accepted)


def _print_json(value: object) -> None:
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n")


def facts(settings: Settings) -> Iterator[tuple[str, str]]:
    """What the gateway would do, in a few lines. No secrets."""
    scheme = "https" if settings.tls_cert_file else "http"
    workers = plural(settings.workers, "worker")
    yield "environment", settings.environment
    yield "listens on", f"{scheme}://{_bracketed(settings.host)}:{settings.port}, {workers}"
    yield "store", _store(settings)
    yield "user tokens", _keys(settings)
    yield "service tokens", _service_keys(settings)
    limit = f"{settings.rate_limit_requests} requests per {settings.rate_limit_window_seconds:g} s and client"
    yield "rate limit", f"{limit}, {settings.rate_limit_fail_mode} without the store"
    added = len(settings.service_catalog) - len(SERVICES)
    origin = f", {added} of them from gateway.toml" if added else ""
    yield "routes", f"{len(settings.routes)} to {plural(len(settings.service_catalog), 'service')}{origin}"
    versions = "; ".join(_versions(service) for service in settings.service_catalog if service.versions)
    if versions:
        yield "versions", versions
    for each in beside(settings.service_catalog):
        yield each.name, f"{each.variant.text}: {', '.join(each.variant.urls)}"
    for service in settings.service_catalog:
        if service.grpc is not None:
            yield f"gRPC {service.name}", _methods(service, settings)
    yield "origins", ", ".join(settings.cors_origins) or "none: pages of other origins cannot call"


def _methods(service: Service, settings: Settings) -> str:
    """What of a gRPC service is served, in words."""
    from kernel.transcoding.descriptors import Descriptors  # noqa: PLC0415

    assert service.grpc is not None
    served = {rule.call for row in settings.routes if row.service == service.name for rule in row.rules}
    calls = Descriptors(service.grpc.descriptors).calls()
    left = ", ".join(call.rpartition(".")[2] for call in calls if call not in served)
    return f"{plural(len(served), 'method')} served" + (f", without a route: {left}" if left else "")


def _versions(service: Service) -> str:
    """A service's versions, in words."""
    ending = {version.name for version in service.versions if version.life.deprecated is not None}
    named = (f"{name} (deprecated)" if name in ending else name for name in service.served)
    return f"{service.name}: {', '.join(named)}"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _store(settings: Settings) -> str:
    if settings.redis_url is None:
        return "embedded Valkey, started with the gateway"
    from kernel.store.address import parse  # noqa: PLC0415

    return str(parse(settings.redis_url))


def _service_keys(settings: Settings) -> str:
    parts: list[str] = []
    if settings.jwt_secret_keys:
        count = len(settings.jwt_secret_keys)
        parts.append(
            "HS256, JWT_SECRET_KEY"
            + (f": the first of {count} secrets signs, all verify" if count > 1 else "")
        )
    elif settings.environment == "dev":
        parts.append("a secret made for this run")
    if settings.jwt_service_public_key:
        parts.append("JWT_SERVICE_PUBLIC_KEY")
    return "; ".join(parts) or "refused: JWT_SECRET_KEY is not set"


def _keys(settings: Settings) -> str:
    from kernel.identity.pem import load_public_keys  # noqa: PLC0415

    parts: list[str] = []
    dev = settings.environment == "dev"
    if settings.jwt_public_key:
        keys = load_public_keys(settings.jwt_public_key, settings.jwt_algorithm)
        parts.append(f"{settings.jwt_algorithm}, {plural(len(keys), 'public key')}")
    parts += [f"key set {source.url}" for source in settings.jwt_jwks_url]
    if parts:
        return "; ".join(parts)
    return (
        f"{settings.jwt_algorithm}, a key pair made for this run"
        if dev
        else "none: the auth service is asked"
    )
