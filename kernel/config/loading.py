"""`load`: environment, `.env` and gateway.toml to one `Settings`, or all that is wrong with them at once."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from msgspec import Struct
from msgspec.structs import replace

from kernel.config import dotenv, gateway_toml, idempotency, traffic
from kernel.config.errors import ConfigError, ConfigErrors
from kernel.config.reading import Unreadable, text
from kernel.config.rules import RULES, Rule, warnings
from kernel.config.settings import Settings, default_services
from kernel.config.unknown import strays
from kernel.config.urls import REPLICAS
from kernel.config.values import sound
from kernel.config.variables import VARIABLES
from kernel.routing.catalog import Service, destinations
from kernel.routing.graphql_rows import GRAPHIQL_ROUTES, GRAPHQL_ROUTES

_MAX_ENV_FILE = 1024 * 1024
_MAX_SECRET_FILE = 64 * 1024
_POSITIONS = {variable.name: position for position, variable in enumerate(VARIABLES)}


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
    set_by_name = _from_files(given, errors)
    # Kubernetes sets REDIS_PORT=tcp://... in every pod beside a service called "redis": that is not ours.
    if given.get("REDIS_PORT", "").startswith("tcp://"):
        del given["REDIS_PORT"]
    settings = Settings(**_values(given, errors))
    settings = replace(settings, **_derived(settings, given))
    doubts: list[ConfigError] = []
    settings = _with_services(settings, given, errors, doubts)
    names = frozenset(given) | set_by_name
    for rule in (*RULES, *more):
        errors.extend(rule(settings, names))
    found = (*warnings(settings, names), *strays(names, settings.service_catalog), *doubts)
    if errors:
        raise ConfigErrors(sorted(errors, key=_position), found)
    return Loaded(settings, found)


def _position(error: ConfigError) -> int:
    """Where an error stands: .env first, then the variables as in the reference, then service URLs and gateway.toml."""
    if error.variable.startswith(".env"):
        return -1
    return _POSITIONS.get(
        error.variable.removesuffix("_FILE"), _POSITIONS.get(error.variable, len(VARIABLES))
    )


def _read_env_file(path: Path | None, errors: list[ConfigError]) -> Mapping[str, str]:
    if path is None or not os.path.isfile(path):
        return {}
    try:
        found, wrong = dotenv.parse(text(path, _MAX_ENV_FILE))
    except Unreadable as why:
        errors.append(ConfigError(str(path), str(why)))
        return {}
    errors.extend(wrong)
    return found


def _from_files(given: dict[str, str], errors: list[ConfigError]) -> frozenset[str]:
    """Put the secrets into `given` that `<NAME>_FILE` variables name; the names of all that such a variable is set for.

    As the images of docker-library do it: both set is an error, and the line feeds at the end go.
    """
    named: set[str] = set()
    for variable in VARIABLES:
        file = f"{variable.name}_FILE"
        if not variable.secret or file not in given:
            continue
        named.add(variable.name)
        example = f"/run/secrets/{variable.name.lower()}"
        if variable.name in given:
            errors.append(
                ConfigError(file, f"is set beside {variable.name}: only one of them can be", example)
            )
            continue
        try:
            value = text(Path(given[file]), _MAX_SECRET_FILE).rstrip("\r\n")
        except Unreadable as why:
            errors.append(ConfigError(file, f"the file {why}", example))
            continue
        if value.strip():
            given[variable.name] = value
        else:
            errors.append(ConfigError(file, "the file is empty", example))
    return frozenset(named)


def _values(given: Mapping[str, str], errors: list[ConfigError]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for variable in VARIABLES:
        raw = given.get(variable.name)
        if raw is None:
            continue
        try:
            values[variable.attribute] = variable.kind.parse(sound(raw))
        except ValueError as error:
            errors.append(ConfigError(variable.name, str(error), variable.example))
    return values


def _derived(settings: Settings, given: Mapping[str, str]) -> dict[str, Any]:
    """Values that come from other variables."""
    derived: dict[str, Any] = {}
    if "HTTPS_ONLY" not in given:
        derived["https_only"] = settings.environment == "prod"
    if "GRAPHQL_INTROSPECTION" not in given:
        derived["graphql_introspection"] = settings.environment != "prod"
    if "HTTP2" not in given:
        derived["http2"] = settings.tls_cert_file is not None
    if settings.redis_url is None and settings.redis_host is not None:
        password = f":{quote(settings.redis_password, safe='')}@" if settings.redis_password else ""
        host = f"[{settings.redis_host}]" if ":" in settings.redis_host else settings.redis_host
        derived["redis_url"] = f"redis://{password}{host}:{settings.redis_port}/{settings.redis_db}"
    if settings.graphql:
        page = GRAPHIQL_ROUTES if settings.environment == "dev" else ()
        derived["routes"] = (*settings.routes, *GRAPHQL_ROUTES, *page)
    return derived


def _with_services(
    settings: Settings, given: Mapping[str, str], errors: list[ConfigError], doubts: list[ConfigError]
) -> Settings:
    """Add gateway.toml's services, routes and limits, then the URLs of the environment, which override."""
    if settings.gateway_config is not None:
        settings = gateway_toml.apply(settings, settings.gateway_config, errors, doubts)
    services = default_services(settings.service_catalog) | settings.services
    for service, urls in _service_urls(destinations(settings.service_catalog), given, errors):
        services[service] = urls
    catalog = traffic.by_environment(settings, given, errors)
    return idempotency.settle(replace(settings, services=services, service_catalog=catalog))


def _service_urls(
    catalog: Iterable[Service], given: Mapping[str, str], errors: list[ConfigError]
) -> Iterator[tuple[str, tuple[str, ...]]]:
    for service in catalog:
        raw = given.get(service.env)
        if raw is None:
            continue
        try:
            yield service.name, REPLICAS.parse(sound(raw))
        except ValueError as error:
            errors.append(ConfigError(service.env, str(error), f"http://{service.name}-service:8000"))
