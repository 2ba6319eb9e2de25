"""gateway.toml: services, routes and limits that are added or changed without code.

    [services.loyalty]                       a new service at /api/v1/loyalty/**, or changes to a known one
    url = "http://loyalty:8000"
    min_tier = "professional"                holds for all its routes

    [[routes]]                               a new route, or changes to those with this pattern (and these methods)
    pattern = "/api/v1/auth/login"
    limit = {requests = 10, window = 60}

    [limits.tiers.enterprise]                a tenant's requests, by its tier or its id
    requests = 6000
    window = 60

    [alerts.channels]                        where dispatched alerts of a severity go that name no channels
    urgent = ["sse", "email", "whatsapp"]

    [services.inventory.versions.v2]         its API's second version, at /api/v2/inventory/**
    url = "http://inventory-v2:8000"

Services come first, routes after them and those of versions beside v1 last, each in the file's order. What a table does not
say stays as it was; of a new route it is as the service's table says.

A route below a prefix of a tenant-scoped service holds below `/api/v1/tenants/{tenant_id}/` as well, since the service
answers there too: what is demanded at one path cannot be had at the other. A table for the other has the last word.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from kernel.config import forwarding, grpc_table, idempotency, traffic, trust
from kernel.config.errors import ConfigError
from kernel.config.patterns import VARIABLE, overtaken, pattern_flaw
from kernel.config.policy import inherited, policy
from kernel.config.reading import Unreadable, text
from kernel.config.rewrite import Table, change, contradiction, narrow
from kernel.config.settings import Settings
from kernel.config.tables import ROUTE, SERVICE, SERVICE_NAME, decode, decode_channels, decode_limit, unknown
from kernel.config.urls import REPLICAS
from kernel.config.versions import Versions, version_of
from kernel.primitives.tenant_id import canonical
from kernel.routing.catalog import TIERS, V1, Limit, RouteRow, Service, service_rows, with_head
from kernel.routing.trie import RouteConflictError, Trie

_MAX_FILE = 16 * 1024 * 1024
_MOST_WARNINGS = 20
_EXAMPLE = 'pattern = "/api/v1/loyalty/**"'
_SECTIONS = ("services", "versions", "routes", "limits", "alerts")
_LIMITED = ("tiers", "tenants")
_SERVICE_FIELDS = ("health", "openapi", "tenant_scoped", "preserve_host")
_SERVICE_NAME = re.compile(SERVICE_NAME)


def apply(settings: Settings, path: Path, errors: list[ConfigError], warnings: list[ConfigError]) -> Settings:
    """`settings` with what the file at `path` adds and changes; what is wrong with it goes to `errors`, what is seldom
    meant to `warnings`."""
    try:
        document = tomllib.loads(text(path, _MAX_FILE))
    except Unreadable as why:
        errors.append(ConfigError("GATEWAY_CONFIG", f"{path} {why}", "gateway.toml"))
        return settings
    except (ValueError, RecursionError) as error:  # TOML, or nested too deep
        errors.append(ConfigError(path.name, f"is not TOML: {error}"))
        return settings
    return _Reader(settings, path, errors, warnings).read(document)


class _Reader:
    """Holds what has been read so far; each method reads one kind of table."""

    def __init__(
        self, settings: Settings, path: Path, errors: list[ConfigError], warnings: list[ConfigError]
    ) -> None:
        self._settings = settings
        self._directory = path.parent
        self._file = path.name
        self._errors = errors
        self._warnings = warnings
        self._catalog = {service.name: service for service in settings.service_catalog}
        self._urls = dict(settings.services)
        self._rows = Table(settings.routes)
        self._versions = Versions(self._urls, path.name, errors, warnings)
        # What services' tables say of their routes.
        self._of_services: dict[str | None, dict[str, Any]] = {}
        # The patterns that tables name.
        self._named: set[str] = set()
        # (pattern, methods) -> where a table has them.
        self._declared: dict[tuple[str, frozenset[str]], str] = {}
        # What the tables of a pattern say.
        self._said: dict[str, set[str]] = {}

    def read(self, document: dict[str, Any]) -> Settings:
        self._known(document, _SECTIONS, "")
        self._versions.shared(self._tables(document, "versions"))
        for name, table in self._tables(document, "services"):
            self._service(name, table)
        self._versions.finish(self._catalog)
        beside = {version for service in self._catalog.values() for version in service.served[1:]}
        routes = document.get("routes", [])
        if not isinstance(routes, list):
            self._error("routes", "is not a list of tables", "[[routes]]")
            routes = []
        patterns = [table.get("pattern") for table in routes if isinstance(table, dict)]
        self._named = {pattern for pattern in patterns if isinstance(pattern, str)}
        before: Trie[RouteRow] = Trie()
        for row in self._rows if routes else ():
            with suppress(RouteConflictError):  # told when all routes are there
                before.add(row.answered, row.pattern, row)
        later: list[tuple[str, Any]] = []
        for position, table in enumerate(routes, 1):
            where = f"[[routes]] #{position}"
            if isinstance(table, dict) and version_of(str(table.get("pattern"))) in beside:
                later.append((where, table))
            else:
                self._route(where, table)
        for row in self._versions.derive(self._catalog, self._rows, self._named):
            with suppress(RouteConflictError):
                before.add(row.answered, row.pattern, row)
        for where, table in later:
            self._route(where, table)
        self._versions.stamp(self._catalog, self._rows)
        self._narrowed(before)
        self._overtaken()
        most = self._settings.max_body_bytes
        grpc_table.transcode(self._catalog.values(), self._rows, self._named, most, self._error, self._warn)
        limits = dict(self._tables(document, "limits"))
        self._known(limits, _LIMITED, "[limits] ")
        tiers = self._limits(limits, "tiers", lambda name: "" if name in TIERS else unknown(name, TIERS))
        tenants = {
            canonical(name): limit
            for name, limit in self._limits(limits, "tenants", self._tenant_flaw()).items()
        }
        alerts = dict(self._tables(document, "alerts"))
        self._known(alerts, ("channels",), "[alerts] ")
        return replace(
            self._settings,
            alert_channels=self._channels(alerts),
            services=self._urls,
            service_catalog=tuple(self._catalog.values()),
            routes=tuple(self._rows),
            tier_limits=tiers,
            tenant_limits=tenants,
        )

    def _channels(self, alerts: dict[str, Any]) -> dict[str, tuple[str, ...]]:
        """The built-in rules with those of the file."""
        rules = dict(self._settings.alert_channels)
        severities = self._settings.alerts_severities
        for name, value in self._tables(alerts, "channels"):
            where = f"[alerts.channels] {name}"
            if name not in severities:
                self._error(where, unknown(name, severities))
                continue
            channels = decode_channels(value, f"{self._file} {where}", self._errors)
            if channels:
                rules[name] = channels
        return rules

    def _error(self, where: str, problem: str, example: str = "") -> None:
        self._errors.append(ConfigError(f"{self._file} {where}", problem, example))

    def _warn(self, where: str, problem: str) -> None:
        self._warnings.append(ConfigError(f"{self._file} {where}", problem))

    def _known(self, table: dict[str, Any], names: Collection[str], where: str) -> None:
        for name in table:
            if name not in names:
                self._error(f"{where}{name}", unknown(name, names))

    def _tables(self, parent: dict[str, Any], name: str) -> Iterable[tuple[str, Any]]:
        tables = parent.get(name, {})
        if isinstance(tables, dict):
            return tables.items()
        self._error(name, "is not a table", f"[{name}.NAME]")
        return ()

    def _service(self, name: str, table: object) -> None:
        where = f"[services.{name}]"
        values = decode(table, SERVICE, f"{self._file} {where}", self._errors)
        if not _SERVICE_NAME.fullmatch(name):
            self._error(
                where, "a service's name has lower-case letters, digits and single '-'", "[services.loyalty]"
            )
            return
        self._url(name, values.pop("url", None), where)
        known = self._catalog.get(name)
        versions = values.pop("versions", {})
        prefixes = tuple(values.pop("prefixes", () if known else (name,)))
        own = {field: values.pop(field) for field in _SERVICE_FIELDS if field in values}
        trusted = trust.read(values, lambda field, *what: self._error(f"{where} {field}", *what))
        if trusted is not None:
            own["trust"] = trusted
        own |= traffic.read(values, f"{self._file} [services.{name}", self._errors)
        spoken = grpc_table.read(
            values, self._directory, lambda field, *what: self._error(f"{where} {field}", *what)
        )
        if spoken is not None:
            own["grpc"] = spoken
        if known is None:
            env = name.upper().replace("-", "_") + "_SERVICE_URL"
            service = Service(name, env, prefixes, **own)
        else:
            service = replace(known, prefixes=tuple(dict.fromkeys((*known.prefixes, *prefixes))), **own)
        service = self._catalog[name] = replace(service, versions=self._versions.of(service, versions))
        self._claim(service, where)
        methods = values.pop("methods", None)
        changes = self._policy(values, where)
        if "limit" in changes:
            changes["limit_key"] = name
        self._of_services[name] = changes
        problems: dict[str, None] = {}
        for pattern in self._rows.patterns(name):
            rows = self._rows.at(pattern)
            if methods is not None:
                rows = narrow(rows, name, frozenset(methods))
            try:
                own = forwarding.resolved(changes, pattern)
            except ValueError as error:
                problems[str(error)] = None
                continue
            # Of its sockets, which have no answer, nothing is said of answers.
            of_sockets = {field: value for field, value in own.items() if field != "response_headers"}
            changed = [
                replace(row, **(of_sockets if row.websocket else own)) if row.service == name else row
                for row in rows
            ]
            self._rows.put(pattern, changed)
            if changes:
                problems |= dict.fromkeys(contradiction(row) for row in changed if row.service == name)
        for problem in filter(None, problems):
            self._error(where, problem)

    def _url(self, service: str, value: str | list[str] | None, where: str) -> None:
        if value is None:
            return
        try:
            self._urls[service] = REPLICAS.parse(value if isinstance(value, str) else ",".join(value))
        except ValueError as error:
            self._error(f"{where} url", str(error), f'url = "http://{service}:8000"')

    def _claim(self, service: Service, where: str) -> None:
        """Give `service` the rows its prefixes imply; a pattern that another service has is an error."""
        for row in service_rows(service):
            owner = self._rows.owner(row.pattern)
            if owner is None:
                self._rows.put(row.pattern, [*self._rows.at(row.pattern), row])
            elif owner != service.name:
                self._error(where, f"{row.pattern} belongs to the service {owner}: move it with [[routes]]")

    def _route(self, where: str, table: object) -> None:
        errors = len(self._errors)
        values = decode(table, ROUTE, f"{self._file} {where}", self._errors)
        given = table if isinstance(table, dict) else {"pattern": ""}
        if "pattern" not in given:
            self._error(f"{where} pattern", "is needed", _EXAMPLE)
        decoded = len(self._errors) == errors
        table_name = where
        pattern = values.pop("pattern", None)
        if pattern is not None:
            where = f"{where} ({pattern})"
            wrong = pattern_flaw(pattern)
            if wrong:
                self._error(where, wrong, _EXAMPLE)
        service = values.get("service")
        if service is not None and service not in self._catalog:
            self._error(f"{where} service", unknown(service, self._catalog))
        listed = values.pop("methods", None)
        methods = None if listed is None else frozenset(listed)
        if values.get("websocket") and methods is None:
            methods = frozenset(("GET",))
        if methods is not None and "HEAD" in methods and "GET" not in methods:
            self._error(f"{where} methods", "HEAD goes with GET", 'methods = ["GET"]')
        if pattern is not None and (listed is not None or "methods" not in given):
            first = self._declared.setdefault((pattern, with_head(methods)), table_name)
            if first != table_name:
                self._error(
                    where, f"conflicts with {first}, which has this pattern and these methods: make them one"
                )
        self._said.setdefault(pattern or "", set()).update(given)
        changes = self._policy(values, where)
        if pattern is None or not decoded:
            return  # what is missing would be found missing once more
        try:
            own = forwarding.resolved(changes, pattern)
            rows = {pattern: self._changed(pattern, methods, own)}
            twin, owner = self._twin(pattern)
            # SECURITY: what is open to everybody at one path is not made so at another.
            if twin and not changes.get("public"):
                shared = {"limit_key": pattern} if "limit" in changes else {}
                of_twin = {"service": owner, **forwarding.resolved(changes, twin), **shared}
                rows[twin] = self._changed(twin, methods, of_twin)
        except ValueError as error:
            self._error(where, str(error), 'service = "loyalty"')
            return
        problems = {
            contradiction(row): None
            for at, those in rows.items()
            for row in those
            if row not in self._rows.at(at)
        }
        problems[idempotency.flaw(rows[pattern], changes)] = None
        for problem in filter(None, problems):
            self._error(where, problem)
        if len(self._errors) == errors:
            for at, those in rows.items():
                self._rows.put(at, those)

    def _changed(
        self, pattern: str, methods: frozenset[str] | None, changes: dict[str, Any]
    ) -> list[RouteRow]:
        """The rows of `pattern` after `changes`. Raises ValueError."""
        of_service = self._of_services.get(changes.get("service"), {})
        more = inherited(of_service, changes, pattern)
        return change(self._rows.at(pattern), pattern, methods, changes, more)

    def _twin(self, pattern: str) -> tuple[str, str | None]:
        """The same resource's pattern below a tenant, when it has one that no table names, and the service there."""
        base = f"/api/{version_of(pattern) or V1}/"
        rest = pattern.removeprefix(base)
        segment = rest.partition("/")[0]
        scope = base + "tenants/{tenant_id}/"
        twin = scope + rest
        owner = self._rows.owner(f"{scope}{segment}/**")
        if rest in ("", pattern) or twin in self._named or "{tenant_id}" in pattern:
            return "", None
        return (twin, owner) if owner and owner == self._rows.owner(f"{base}{segment}/**") else ("", None)

    def _narrowed(self, before: Trie[RouteRow]) -> None:
        """Warn of patterns that took over a path which another answered to more methods: those are 405 now.

        A pattern is chosen before the method is looked at, so that a row which is to limit GET takes POST away.
        """
        more = 0
        tables: dict[str, str] = {}
        for (pattern, _), table in self._declared.items():
            tables.setdefault(pattern, table)
        for pattern, table in tables.items():
            rows = self._rows.at(pattern)
            if not rows or any(row.websocket for row in rows):
                continue
            routes, _ = before.match(VARIABLE.sub("x", pattern).encode())
            lost = sorted((routes or {}).keys() - frozenset().union(*(row.answered for row in rows)))
            if lost in ([], ["OPTIONS"]):  # preflights are answered whatever the rows say
                continue
            if len(self._warnings) >= _MOST_WARNINGS:
                more += 1
            else:
                other = (routes or {})[lost[0]].pattern
                problem = (
                    f"{', '.join(lost)}: answered 405 here, since this pattern is chosen before {other}, which takes "
                    "them. Leave methods out, or add a table for the other methods"
                )
                self._warnings.append(
                    ConfigError(
                        f"{self._file} {table} ({pattern}) methods",
                        problem,
                        f"methods = {lost}".replace("'", '"'),
                    )
                )

        if more:
            self._warnings.append(
                ConfigError(f"{self._file} [[routes]]", f"{more} more rows take methods away like that")
            )

    def _overtaken(self) -> None:
        """Warn of new patterns that took a path from one that demands more of it."""
        known = {row.pattern for row in self._settings.routes}
        found = ((pattern, overtaken(self._rows, pattern, said)) for pattern, said in self._said.items())
        told = [each for each in found if each[1] and each[0] not in known]
        for pattern, problem in told[:_MOST_WARNINGS]:
            self._warn(f"[[routes]] ({pattern})", problem)

    def _policy(self, values: dict[str, Any], where: str) -> dict[str, Any]:
        return policy(values, lambda field, *what: self._error(f"{where} {field}", *what))

    @staticmethod
    def _tenant_flaw() -> Callable[[str], str]:
        """What is wrong with the name of a tenant's table: it is no id, or one whose tenant has a table already."""
        seen: set[str] = set()

        def flaw(name: str) -> str:
            try:
                tenant = canonical(name)
            except ValueError as error:
                return f"{str(error)[0].lower()}{str(error)[1:]}"
            if tenant in seen:
                return "is the same tenant as another table's: a UUID is one in any case"
            seen.add(tenant)
            return ""

        return flaw

    def _limits(self, limits: dict[str, Any], kind: str, flaw: Callable[[str], str]) -> dict[str, Limit]:
        found: dict[str, Limit] = {}
        for name, table in self._tables(limits, kind):
            where = f"[limits.{kind}.{name}]"
            problem = flaw(name)
            if problem:
                self._error(where, problem)
                continue
            limit = decode_limit(table, f"{self._file} {where}", self._errors)
            if limit is not None:
                found[name] = limit
        return found
