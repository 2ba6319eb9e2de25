"""One document: what of it the gateway serves, cleaned, in OpenAPI 3.1.

Only operations that the route table leads to this service are taken, under the path by which the gateway serves them: the
service's own below the path of its `servers`, or as it stands. What an operation needs and cannot be had (a reference to
another file, a component that is not there or malformed) leaves that operation out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from time import time
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec

from kernel.openapi import keyed
from kernel.openapi.components import Components, key_scheme
from kernel.openapi.parts import (
    MAX_MADE,
    METHODS,
    Json,
    Key,
    OperationId,
    Part,
    Ref,
    Unusable,
    escaped,
    pointer,
    shown,
    weight,
)
from kernel.openapi.routed import Routed
from kernel.routing.catalog import RouteRow

_PARAMETER = re.compile(r"\{([^{}/]*)\}")
_TEMPLATE = re.compile(r"/(?:[^{}?#\s]|\{[^{}/]+\})*")
_VARIABLE = re.compile(r"\{([^{}]*)\}")
_MAX_TOLD = 20
# Each path is looked for below each of these, and each path is looked up: more of either is nobody's real document.
_MAX_SERVERS = 4
_MAX_BASE = 256
_MAX_PATHS = 10_000
# Of a path item, what is read here.
_ITEM_MEMBERS = frozenset({*METHODS, "parameters", "summary", "description", "servers"})

# 3.1, section 4.8.12.2: headers that are no parameters.
_NOT_TOLD = frozenset({"accept", "content-type", "authorization"})


class _TooMuch(Unusable):
    """All of the document is left out."""


class Served(NamedTuple):
    """An operation. `security` are the alternatives that the service demands beside the gateway's own."""

    path: str
    method: str
    part: Part
    row: RouteRow
    tags: list[str]
    security: list[list[tuple[Ref, list[str]]]]


class Source:
    """A document read for `service` (None: the gateway's own). `routed(path)` are the paths and rows by which requests
    get to it. Raises Unusable when nothing can be made of it."""

    def __init__(self, service: str | None, body: bytes, routed: Routed) -> None:
        self.service = service
        self.served: list[Served] = []
        self.components: dict[Key, Part] = {}
        # Of the components, in the merged document.
        self.names: dict[Key, str] = {}
        self.left_out: list[str] = []
        self.not_told = 0
        self._routed = routed
        # Bytes that what has been read so far would make.
        self._made = 0
        try:
            document = _parsed(body)
            self.title = _title(document)
            # What it says of its tags.
            self.descriptions = _descriptions(document)
            self._read(document)
            self.size = self._size()
        except RecursionError:
            raise Unusable("it is nested too deeply") from None
        finally:
            # What is taken over lives on; the rest of the document need not.
            self._document: Json = {}
            self._components = Components({}, legacy=False)
        self._spend(self.size - self._made)

    def _size(self) -> int:
        """The bytes of all that is served, with the names it gets at the longest."""
        parts = (*self.components.values(), *(served.part for served in self.served))
        longer = len(self.service or "") + 8
        named = sum(len(part.refs) for part in parts) + sum(len(served.tags) for served in self.served)
        tags = weight(self.descriptions)
        return sum(weight(part.document) for part in parts) + longer * (named + len(self.components)) + tags

    def _spend(self, size: int) -> None:
        """Count what is made. Raises Unusable when it comes to too much."""
        self._made += size
        if self._made > MAX_MADE:
            raise _TooMuch(f"it makes more than {MAX_MADE >> 20} MiB")

    # --- reading -----------------------------------------------------------------------------------------------

    def _read(self, document: Json) -> None:
        self._document = document
        self._bases = tuple(_bases(document))
        legacy = str(document["openapi"]).startswith("3.0")
        self._components = Components(document.get("components"), legacy)
        self._demanded = self._security(document.get("security"))
        operations = self._components.operations
        chosen = list(self._chosen())
        # Links may lead to an operation further down.
        for at, (_, path, method, item, _) in enumerate(chosen):
            operation = item[method]
            given_id = operation.get("operationId") if isinstance(operation, dict) else None
            if not isinstance(given_id, str) or not given_id:
                continue
            shared = OperationId(given_id)
            operations[f"#{at}"] = shared
            operations.setdefault(given_id, shared)
            operations.setdefault(f"#/paths/{escaped(path)}/{method}", shared)
        cleaned: list[Served] = []
        for at, (full, _, method, item, row) in enumerate(chosen):
            try:
                cleaned.append(self._serve(at, full, method, item, row))
            except _TooMuch:
                raise
            except Unusable as why:
                self._leave_out(f"{method.upper()} {full}: {why}")
        components = self._components
        components.collect([served.part for served in cleaned])
        for served in cleaned:
            trouble = components.trouble(served.part)
            if trouble:
                self._leave_out(f"{served.method.upper()} {served.path}: {trouble}")
            else:
                self.served.append(served)
        components.prune([served.part for served in self.served])
        self.components = components.clean

    def _chosen(self) -> Iterator[tuple[str, str, str, Json, RouteRow]]:
        """(path here, path there, method, path item, row) of every operation that is served."""
        paths = self._document.get("paths")
        if not isinstance(paths, dict):
            raise Unusable("it has no paths")
        if len(paths) > _MAX_PATHS:
            raise Unusable(f"it has more than {_MAX_PATHS} paths")
        spelled: dict[str, str] = {}
        for path, given in paths.items():
            if path.startswith("x-"):
                continue
            try:
                item = self._item(given)
            except Unusable as why:
                self._leave_out(f"{path[:200]}: {why}")
                continue
            for base in dict.fromkeys((*_bases(item), *self._bases, "")):
                full = base + path
                if not _TEMPLATE.fullmatch(full):
                    continue
                found = [
                    (here, path, method, item, row)
                    for here, rows in self._routed(full)
                    for method in METHODS
                    if method in item and (row := rows.get(method.upper())) is not None
                ]
                if not found:
                    continue
                for each in found:
                    here = each[0]
                    if spelled.setdefault(_PARAMETER.sub("{}", here), here) == here:
                        yield each
                    else:
                        self._leave_out(f"{here}: it is there twice, with other names of parameters")
                break

    def _item(self, given: Any, depth: int = 0) -> Json:
        """A path item; one that is a reference stands for what it refers to."""
        if not isinstance(given, dict):
            raise Unusable(f"the path item is {shown(given)}")
        own = {key: given[key] for key in given if key in _ITEM_MEMBERS}
        if "$ref" not in given:
            return own
        text = given["$ref"]
        parts = pointer(text) if isinstance(text, str) and text.startswith("#/") else []
        if len(parts) != 3 or parts[:2] != ["components", "pathItems"] or depth > 8:
            raise Unusable(f"it refers to {shown(text)}")
        return {**self._item(self._components.raw["pathItems"].get(parts[2]), depth + 1), **own}

    def _serve(self, at: int, full: str, method: str, item: Json, row: RouteRow) -> Served:
        raw = item[method]
        # Before it is made: what is too much is not made at all.
        self._spend(weight(raw))
        refs: list[Ref] = []
        self._components.refs = refs
        operation: Json = self._components.objects.clean("operation", raw)
        takes_key = keyed.heeded(row, method)
        ours = _NOT_TOLD | {keyed.PARAMETER} if takes_key else _NOT_TOLD
        parameters = self._parameters(full, item.get("parameters", []), raw.get("parameters", []), ours)
        if parameters:
            operation["parameters"] = parameters
        if takes_key:
            before = weight(operation)
            keyed.declare(operation, row)
            self._spend(weight(operation) - before)
        if row.life is not None and row.life.deprecated is not None and row.life.deprecated <= time():
            operation["deprecated"] = True
        operation.pop("operationId", None)
        shared = self._components.operations.get(f"#{at}")
        if shared is not None:
            operation["operationId"] = shared
        for key in ("summary", "description"):
            if key not in operation and isinstance(item.get(key), str):
                operation[key] = item[key]
                self._spend(len(item[key]))
        tags = raw.get("tags")
        named = [tag for tag in tags if isinstance(tag, str)] if isinstance(tags, list) else []
        security = self._security(raw["security"]) if "security" in raw else self._demanded
        self._spend(sum(len(ref.key[1]) + 8 for alternative in security for ref, _ in alternative))
        refs += [ref for alternative in security for ref, _ in alternative]
        return Served(full, method, Part(operation, refs), row, named, security)

    def _parameters(self, full: str, shared: Any, own: Any, ours: frozenset[str]) -> list[Json]:
        """The path's parameters and the operation's, which win, less the headers that are `ours`. Those in the path are
        written out, all there are."""
        found: dict[tuple[str, str], Json] = {}
        for listed in (shared, own):
            if not isinstance(listed, list):
                raise Unusable("parameters are no list")
            for given in listed:
                raw = self._parameter(given)
                self._spend(weight(raw))
                place, name = str(raw.get("in")), str(raw.get("name"))
                if place == "header" and name.lower() in ours:
                    continue
                found[place, name] = self._components.objects.clean(
                    "parameter", raw if place == "path" else given
                )
        names = dict.fromkeys(_PARAMETER.findall(full))
        kept = [each for (place, name), each in found.items() if place != "path" or name in names]
        kept += [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in names
            if ("path", name) not in found
        ]
        return kept

    def _parameter(self, given: Any, depth: int = 0) -> Json:
        if not isinstance(given, dict):
            raise Unusable(f"a parameter is {shown(given)}")
        if "$ref" not in given:
            return given
        ref = self._components.resolve("parameters", given["$ref"], keep=False)
        if depth > 8:
            raise Unusable("a parameter refers to itself")
        return self._parameter(self._components.raw["parameters"][ref.key[1]], depth + 1)

    def _security(self, listed: Any) -> list[list[tuple[Ref, list[str]]]]:
        """What is demanded beside a token: the gateway checks tokens, and passes keys on."""
        alternatives: dict[tuple[str, ...], None] = {}
        for requirement in listed if isinstance(listed, list) else ():
            if not isinstance(requirement, dict):
                continue
            names = (
                name
                for name in sorted(requirement)
                if key_scheme(self._components.raw["securitySchemes"].get(name)) is not None
            )
            alternatives[tuple(names)] = None
        return [
            [(Ref(("securitySchemes", name)), []) for name in names] for names in alternatives or {(): None}
        ]

    def _leave_out(self, what: str) -> None:
        if len(self.left_out) < _MAX_TOLD:
            self.left_out.append(what[:500])
        else:
            self.not_told += 1


def _parsed(body: bytes) -> Json:
    try:
        document = msgspec.json.decode(body)
    except (ValueError, RecursionError):
        raise Unusable("it is no JSON") from None
    if not isinstance(document, dict) or "openapi" not in document:
        raise Unusable("it is no OpenAPI 3 document")
    version = document["openapi"]
    if not isinstance(version, str) or not re.fullmatch(r"3\.[01](\..*)?", version):
        raise Unusable(f"it is OpenAPI {shown(version)}, not 3.0 or 3.1")
    return document


def _bases(holder: Json) -> Iterator[str]:
    """The paths of the servers that `holder` names, their variables at their defaults."""
    servers = holder.get("servers")
    for server in servers[:_MAX_SERVERS] if isinstance(servers, list) else ():
        if not isinstance(server, dict) or not isinstance(server.get("url"), str):
            continue
        given = server.get("variables")
        variables: Json = given if isinstance(given, dict) else {}

        def default(found: re.Match[str], variables: Json = variables) -> str:
            variable = variables.get(found[1])
            return str(variable.get("default", ""))[:_MAX_BASE] if isinstance(variable, dict) else found[0]

        try:
            base = urlsplit(_VARIABLE.sub(default, server["url"][:_MAX_BASE])).path.rstrip("/")
        except ValueError:
            continue
        if len(base) <= _MAX_BASE:
            yield base


def _title(document: Json) -> tuple[str, str]:
    """Title and version that the document gives itself."""
    info = document.get("info")
    info = info if isinstance(info, dict) else {}
    return str(info.get("title", ""))[:200], str(info.get("version", ""))[:100]


def _descriptions(document: Json) -> dict[str, str]:
    tags = document.get("tags")
    return {
        each["name"]: each["description"]
        for each in (tags if isinstance(tags, list) else ())
        if isinstance(each, dict)
        and isinstance(each.get("name"), str)
        and isinstance(each.get("description"), str)
    }
