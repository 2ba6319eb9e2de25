"""`[services.x.canary]` and `[services.x.mirror]`: read, and held against the services they stand beside."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from msgspec.structs import replace

from kernel.config.errors import ConfigError
from kernel.config.settings import Settings
from kernel.config.tables import CANARY, MIRROR, Field, decode
from kernel.config.urls import REPLICAS
from kernel.config.values import sound
from kernel.http.headers import FORWARD, HeaderKinds
from kernel.routing.beside import beside
from kernel.routing.catalog import Service, destinations, with_head
from kernel.routing.traffic import Canary, Mirror

_FINEST = 100  # parts of a percent
# Below this, a percentage is written in binary as exactly as can be.
_ROUNDING = 1e-6


def read(values: dict[str, Any], where: str, errors: list[ConfigError]) -> dict[str, Canary | Mirror]:
    """Take both tables out of `values`; what is sound of them. `where`, with `.canary]`, is where they stand."""
    found: dict[str, Canary | Mirror] = {}
    if "canary" in values:
        canary = _canary(_Table(values.pop("canary"), CANARY, f"{where}.canary]", errors))
        if canary is not None:
            found["canary"] = canary
    if "mirror" in values:
        mirror = _mirror(_Table(values.pop("mirror"), MIRROR, f"{where}.mirror]", errors))
        if mirror is not None:
            found["mirror"] = mirror
    return found


class _Table:
    """One table and its errors."""

    def __init__(
        self, table: dict[str, Any], fields: Mapping[str, Field], where: str, errors: list[ConfigError]
    ) -> None:
        self._before = len(errors)
        self.values = decode(table, fields, where, errors)
        self._fields = fields
        self._where = where
        self._errors = errors
        for name in ("url", "percent"):
            if name not in table:
                self.complain(name, "is needed")
        self.urls = self._urls()
        self.percent: float = self.values.get("percent", 0.0)
        if abs(self.percent * _FINEST - round(self.percent * _FINEST)) > _ROUNDING:
            self.complain("percent", f"{self.percent:g} has more than two decimals")

    @property
    def sound(self) -> bool:
        return len(self._errors) == self._before

    def complain(self, name: str, problem: str) -> None:
        self._errors.append(
            ConfigError(f"{self._where} {name}", problem, f"{name} = {self._fields[name].example}")
        )

    def _urls(self) -> tuple[str, ...]:
        value = self.values.get("url")
        if value is None:
            return ()
        try:
            return REPLICAS.parse(value if isinstance(value, str) else ",".join(value))
        except ValueError as error:
            self.complain("url", str(error))
            return ()


def _canary(table: _Table) -> Canary | None:
    header, _, value = table.values.get("header", "").partition("=")
    # SECURITY: it is taken out of requests. What the gateway or a service goes by must not be.
    if header and HeaderKinds()[header.encode()] != FORWARD:
        table.complain("header", f"{header} is a header that the gateway itself reads or sets")
    sticky = table.values.get("sticky", "user")
    return Canary(table.urls, table.percent, sticky, header, value) if table.sound else None


def _mirror(table: _Table) -> Mirror | None:
    if not table.sound:
        return None
    methods = with_head(frozenset(table.values.get("methods", ("GET",))))
    return Mirror(table.urls, table.percent, methods, table.values.get("timeout", 5.0))


def by_environment(
    settings: Settings, given: Mapping[str, str], errors: list[ConfigError]
) -> tuple[Service, ...]:
    """The catalogue, with the URLs that the environment names for what stands beside services."""
    found = {service.name: service for service in settings.service_catalog}
    for each in beside(settings.service_catalog):
        raw = given.get(each.env)
        if raw is None:
            continue
        try:
            variant = replace(each.variant, urls=REPLICAS.parse(sound(raw)))
        except ValueError as error:
            errors.append(ConfigError(each.env, str(error), f"http://{each.service.name}-next:8000"))
            continue
        service = found[each.service.name]
        found[service.name] = replace(service, **{each.kind: variant})
    return tuple(found.values())


def variants_can_be(settings: Settings, given: frozenset[str]) -> Iterator[ConfigError]:
    """What stands beside a service speaks as it does, and is another one: it would get its own requests twice."""
    file = settings.gateway_config.name if settings.gateway_config is not None else "gateway.toml"
    names = {service.name for service in destinations(settings.service_catalog)}
    for each in beside(settings.service_catalog):
        where = f"{file} [services.{each.service.name}.{each.kind}]"
        of_url = each.env if each.env in given else f"{where} url"
        if any(url.startswith("grpc:") for url in each.variant.urls):
            problem = "is a grpc URL, for a service that speaks HTTP"
            yield ConfigError(of_url, problem, f"http://{each.service.name}-next:8000")
        for url in sorted(set(each.variant.urls) & set(settings.services[each.service.name])):
            problem = f"{url} is the service's own"
            yield ConfigError(of_url, problem, f"http://{each.service.name}-next:8000")
        if each.name in names:
            yield ConfigError(where, f"is called {each.name}, as a service is: rename the service")
