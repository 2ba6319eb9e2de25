"""API versions: `[services.NAME.versions.vN]` and `[versions.vN]` of gateway.toml, and the rows they stand for.

A version has the routes of v1 at paths of its own, with all that is demanded there: what a caller has to show at one path is
not to be had for less at the other. What no version of a service answers at such a path is refused, whoever else would be
found for it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from datetime import UTC, date, datetime
from time import time
from typing import Any

from msgspec.structs import replace

from kernel.config.errors import ConfigError
from kernel.config.rewrite import Table
from kernel.config.tables import LIFE, VERSION, Field, decode, unknown
from kernel.config.urls import REPLICAS
from kernel.http.paths import flaw
from kernel.routing.catalog import V1, VERSION_UNKNOWN, Lifecycle, RouteRow, Service, Version
from kernel.routing.trie import RouteConflictError, Trie

VERSION_NAME = r"v[1-9][0-9]{0,2}"
_NAME = re.compile(VERSION_NAME)
_BELOW = re.compile(rf"/api/({VERSION_NAME})(?=/)")
_VARIABLE = re.compile(r"\{[^{}/]*\}|(?<=/)\*\*\Z")
_REFERENCE = re.compile(r"(?:https?://|/)[!#-;=?-~]*")
_MOMENTS = ("deprecated", "sunset")
_PAGES = ("deprecation_page", "sunset_page")
_A_MOMENT = "2026-12-31, or 2026-12-31T23:59:59Z"

# (where, what is wrong, an example)
Complain = Callable[[str, str, str], None]


def version_of(pattern: str) -> str:
    """The version below which `pattern` is, or an empty string."""
    found = _BELOW.match(pattern)
    return found[1] if found else ""


class Versions:
    """Reads the tables: `shared`, then `of` each service; then `finish`, `derive` and `stamp`, once each.

    `urls` gets those of versions with replicas of their own; what is wrong goes to `errors`, what is seldom meant to
    `warnings`, in `file`.
    """

    def __init__(
        self,
        urls: dict[str, tuple[str, ...]],
        file: str,
        errors: list[ConfigError],
        warnings: list[ConfigError],
    ) -> None:
        self._urls = urls
        self._file = file
        self._errors = errors
        self._warnings = warnings
        self._shared: dict[str, dict[str, Any]] = {}
        # Service -> version -> what its table says of its life.
        self._lives: dict[str, dict[str, dict[str, Any]]] = {}

    def _complain(self, where: str, problem: str, example: str = "") -> None:
        self._errors.append(ConfigError(f"{self._file} {where}", problem, example))

    def shared(self, tables: Iterable[tuple[str, Any]]) -> None:
        """`[versions.vN]`: the life of a version, whichever service has it."""
        for name, table in tables:
            where = f"[versions.{name}]"
            values = self._decode(table, LIFE, where)
            if self._named(name, where):
                self._shared[name] = values

    def of(self, service: Service, tables: Mapping[str, Any]) -> tuple[Version, ...]:
        """`[services.NAME.versions.vN]`: the versions, as yet without their lives."""
        found: list[Version] = []
        lives = self._lives.setdefault(service.name, {})
        for name, table in tables.items():
            where = f"[services.{service.name}.versions.{name}]"
            values = self._decode(table, VERSION, where)
            if not self._named(name, where):
                continue
            url, prefix = values.pop("url", None), values.pop("prefix", None)
            lives[name] = values
            if name == V1 and (url is not None or prefix is not None):
                self._complain(
                    where,
                    "v1 is the service itself: its url is that of [services]",
                    'deprecated = "2026-12-31"',
                )
                continue
            upstream = service.name
            if url is not None:
                upstream = f"{service.name}.{name}"  # no service's: names have no dots
                try:
                    self._urls[upstream] = REPLICAS.parse(url if isinstance(url, str) else ",".join(url))
                except ValueError as error:
                    self._complain(f"{where} url", str(error), f'url = "http://{service.name}-{name}:8000"')
            if prefix is not None:
                prefix = prefix.rstrip("/")
                wrong = flaw(prefix.encode() + b"/")[0]
                if wrong:
                    self._complain(f"{where} prefix", wrong, f'prefix = "/{name}"')
            found.append(Version(name, upstream, f"{service.env}_{name.upper()}", prefix))
        return tuple(found)

    def _named(self, name: str, where: str) -> bool:
        if _NAME.fullmatch(name):
            return True
        self._complain(where, "a version is v and a number: v1 to v999", where.replace(name, "v2"))
        return False

    def _decode(self, table: object, fields: Mapping[str, Field], where: str) -> dict[str, Any]:
        """The sound values of a table, moments in Unix seconds."""
        if isinstance(table, dict):
            # TOML has dates and times of its own.
            table = {
                key: value.isoformat() if isinstance(value, date) else value for key, value in table.items()
            }
        values = decode(table, fields, f"{self._file} {where}", self._errors)
        for key in _MOMENTS:
            if key in values:
                try:
                    values[key] = _moment(values[key])
                except ValueError as error:
                    self._complain(f"{where} {key}", str(error), f"{key} = {_A_MOMENT}")
                    del values[key]
        for key in (*_PAGES, "successor"):
            given = values.get(key)
            if (
                given is None
                or _REFERENCE.fullmatch(given)
                or (key == "successor" and _NAME.fullmatch(given))
            ):
                continue
            what = "a version, a URL or a path" if key == "successor" else "a URL or a path"
            self._complain(f"{where} {key}", f"is not {what}", f"{key} = {LIFE[key].example}")
            del values[key]
        return values

    def finish(self, catalog: dict[str, Service]) -> None:
        """Give each service's versions their lives; a service that is only told of in `[versions]` has v1."""
        for name, service in catalog.items():
            versions = list(service.versions)
            if self._shared.get(V1) or self._lives.get(name, {}).get(V1):
                versions = [version for version in versions if version.name != V1]
                versions.append(Version(V1, name, service.env))
            versions.sort(key=lambda version: int(version.name[1:]))
            beside = [version.name for version in versions if version.name != V1]
            if beside and service.grpc is not None:
                problem = "a gRPC service's paths are those of its descriptors: versions are told apart there"
                self._complain(f"[services.{name}.versions.{beside[0]}]", problem)
            catalog[name] = replace(
                service, versions=tuple(replace(each, life=self._life(service, each)) for each in versions)
            )
        past = {
            (version.life.sunset, version.name): service.name
            for service in catalog.values()
            for version in service.versions
            if version.life.sunset is not None and version.life.sunset < time()
        }
        for (_, version), service_name in past.items():
            problem = f"of {service_name} has passed: requests are answered as before until the version is taken out"
            self._warnings.append(ConfigError(f"{self._file} sunset of {version}", problem))
        had = {name for service in catalog.values() for name in service.served}
        for name, values in self._shared.items():
            for what in (name, values.get("successor", V1)):
                if _NAME.fullmatch(what) and what not in had:
                    self._complain(
                        f"[versions.{name}]",
                        f"no service has {what}",
                        f"[services.inventory.versions.{what}]",
                    )

    def _life(self, service: Service, version: Version) -> Lifecycle:
        own = self._lives.get(service.name, {}).get(version.name, {})
        life = Lifecycle(**{**self._shared.get(version.name, {}), **own})
        table = f"[services.{service.name}.versions.{version.name}]" if own else f"[versions.{version.name}]"
        if life.sunset is not None and life.deprecated is not None and life.sunset < life.deprecated:
            # RFC 9745 section 4.
            self._complain(
                f"{table} sunset", "is before deprecated: what ends is told of first", "sunset = 2027-12-31"
            )
        if _NAME.fullmatch(life.successor) and (
            life.successor == version.name or life.successor not in service.served
        ):
            if "successor" in own or life.successor == version.name:
                others = [each for each in service.served if each != version.name]
                self._complain(
                    f"{table} successor", unknown(life.successor, others) if others else "there is no other"
                )
            life = replace(life, successor="")  # of a version that all have, but this service
        return life

    def derive(self, catalog: Mapping[str, Service], rows: Table, named: Collection[str]) -> list[RouteRow]:
        """Add the rows of versions beside v1, and return them. `named` are patterns that have tables."""
        first = [row for row in rows if version_of(row.pattern) == V1]
        names = dict.fromkeys(each.name for service in catalog.values() for each in service.versions)
        added: list[RouteRow] = []
        for name in names:
            if name == V1:
                continue
            beside = f"/api/{name}"
            has = {service.name for service in catalog.values() if name in service.served}
            found: Trie[None] = Trie()
            left: list[RouteRow] = []
            new: dict[str, list[RouteRow]] = {}
            for row in first:
                if row.service not in has:
                    left.append(row)
                    continue
                pattern = beside + row.pattern.removeprefix(f"/api/{V1}")
                # Requests by either path are paid from one limit; where v1's paths are at the service says nothing of others.
                shared = row.limit_key or row.pattern if row.limit else ""
                new.setdefault(pattern, []).append(
                    replace(row, pattern=pattern, limit_key=shared, rewrite="")
                )
                with suppress(RouteConflictError):  # told when all routes are there
                    found.add(row.answered, pattern, None)
            for row in left:
                # SECURITY: what is another service's, or the gateway's own, at v1 must not fall to whoever has all the rest.
                pattern = beside + row.pattern.removeprefix(f"/api/{V1}")
                if (
                    pattern not in new
                    and pattern not in named
                    and found.match(_VARIABLE.sub("x", pattern).encode())[0] is not None
                ):
                    new[pattern] = [
                        RouteRow(pattern=pattern, handler=VERSION_UNKNOWN, public=True, always_writable=True)
                    ]
            for pattern, those in new.items():
                rows.put(pattern, those)
                added += those
        return added

    def stamp(self, catalog: Mapping[str, Service], rows: Table) -> None:
        """Let each row know its version, and what follows from it."""
        by_name = {
            (service.name, version.name): version
            for service in catalog.values()
            for version in service.versions
        }
        for pattern in dict.fromkeys(row.pattern for row in rows):
            name = version_of(pattern)
            if name:
                rows.put(
                    pattern,
                    [_stamped(row, name, by_name.get((row.service or "", name))) for row in rows.at(pattern)],
                )


def _stamped(row: RouteRow, name: str, version: Version | None) -> RouteRow:
    if version is None:
        return row
    rewrite = row.rewrite
    if version.prefix is not None and not rewrite:
        rewrite = version.prefix + row.pattern.removeprefix(f"/api/{name}")
    return replace(
        row,
        version=name,
        upstream=version.upstream if version.upstream != row.service else "",
        rewrite="" if rewrite == row.pattern else rewrite,
        life=version.life if version.life != Lifecycle() else None,
    )


def _moment(text: str) -> int:
    """Unix seconds of a date (its first moment, UTC) or of a time with its offset. Raises ValueError."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"is no date or time such as {_A_MOMENT}") from None
    if len(text) <= 10:
        found = found.replace(tzinfo=UTC)
    if found.tzinfo is None:
        raise ValueError("has no offset from UTC: end it with Z")
    return int(found.timestamp())
