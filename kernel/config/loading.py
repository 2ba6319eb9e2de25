"""`load`: environment, `.env` and gateway.toml to one `Settings`, or all that is wrong with them at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from msgspec import Struct
from msgspec.structs import replace

from kernel.config import dotenv, gateway_toml
from kernel.config.errors import ConfigError, ConfigErrors
from kernel.config.rules import RULES, Rule, warnings
from kernel.config.settings import Settings, default_services
from kernel.config.unknown import strays
from kernel.config.urls import REPLICAS
from kernel.config.variables import VARIABLES
from kernel.routing.catalog import Service


class Loaded(Struct, frozen=True):
    """What a configuration came to: settings, and what looks wrong but does not stop a start."""

    settings: Settings
    warnings: tuple[ConfigError, ...]


def load(environ: Mapping[str, str], env_file: Path | None = None) -> Settings:
    """The settings of `environ`, with those of `env_file` where `environ` has none. Raises `ConfigErrors`."""
    return load_with_warnings(environ, env_file).settings


def load_with_warnings(
    environ: Mapping[str, str], env_file: Path | None = None, more: Iterable[Rule] = ()
) -> Loaded:
    """Like `load`; `more` are rules of the caller's, collected with the others. Raises `ConfigErrors`."""
    errors: list[ConfigError] = []
    merged = dict(_read_env_file(env_file, errors))
    merged.update(environ)
    # Compose files and Kubernetes manifests write NAME= for a variable that is not to be set.
    given = {name: value.strip() for name, value in merged.items() if value.strip()}
    # Kubernetes sets REDIS_PORT=tcp://... in every pod beside a service called "redis": that is not ours.
    if given.get("REDIS_PORT", "").startswith("tcp://"):
        del given["REDIS_PORT"]
    settings = Settings(**_values(given, errors))
    settings = replace(settings, **_derived(settings, given))
    settings = _with_services(settings, given, errors)
    names = frozenset(given)
    for rule in (*RULES, *more):
        errors.extend(rule(settings, names))
    found = (*warnings(settings, names), *strays(names, settings.service_catalog))
    if errors:
        raise ConfigErrors(sorted(errors, key=_position), found)
    return Loaded(settings, found)


def _position(error: ConfigError) -> int:
    """Where an error stands: .env first, then the variables as in the reference, then service URLs and gateway.toml."""
    if error.variable.startswith(".env"):
        return -1
    return next((i for i, each in enumerate(VARIABLES) if each.name == error.variable), len(VARIABLES))


def _read_env_file(path: Path | None, errors: list[ConfigError]) -> Mapping[str, str]:
    if path is None or not path.is_file():
        return {}
    try:
        found, wrong = dotenv.parse(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not UTF-8 text"
        errors.append(ConfigError(str(path), f"cannot be read: {reason}"))
        return {}
    errors.extend(wrong)
    return found


def _values(given: Mapping[str, str], errors: list[ConfigError]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for variable in VARIABLES:
        raw = given.get(variable.name)
        if raw is None:
            continue
        try:
            values[variable.attribute] = variable.kind.parse(raw)
        except ValueError as error:
            errors.append(ConfigError(variable.name, str(error), variable.example))
    return values


def _derived(settings: Settings, given: Mapping[str, str]) -> dict[str, Any]:
    """Values that come from other variables."""
    derived: dict[str, Any] = {}
    if "HTTPS_ONLY" not in given:
        derived["https_only"] = settings.environment == "prod"
    if "HTTP2" not in given:
        derived["http2"] = settings.tls_cert_file is not None
    if settings.redis_url is None and settings.redis_host is not None:
        password = f":{quote(settings.redis_password, safe='')}@" if settings.redis_password else ""
        host = f"[{settings.redis_host}]" if ":" in settings.redis_host else settings.redis_host
        derived["redis_url"] = f"redis://{password}{host}:{settings.redis_port}/{settings.redis_db}"
    return derived


def _with_services(settings: Settings, given: Mapping[str, str], errors: list[ConfigError]) -> Settings:
    """Add gateway.toml's services, routes and limits, then the URLs of the environment, which override."""
    if settings.gateway_config is not None:
        settings = gateway_toml.apply(settings, settings.gateway_config, errors)
    services = default_services(settings.service_catalog) | settings.services
    for service, urls in _service_urls(settings.service_catalog, given, errors):
        services[service] = urls
    return replace(settings, services=services)


def _service_urls(
    catalog: tuple[Service, ...], given: Mapping[str, str], errors: list[ConfigError]
) -> Iterator[tuple[str, tuple[str, ...]]]:
    for service in catalog:
        raw = given.get(service.env)
        if raw is None:
            continue
        try:
            yield service.name, REPLICAS.parse(raw)
        except ValueError as error:
            errors.append(ConfigError(service.env, str(error), f"http://{service.name}-service:8000"))
