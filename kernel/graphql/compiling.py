"""A service's document -> its part of the model.

Reads (GET) become fields of Query, writes fields of Mutation. An operation whose answer or body is no JSON, or that needs
what cannot be sent here, is left out, and that is said. The same operation with and without a tenant in its path is one
field, with an argument `tenantId` that chooses another tenant than the request's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from kernel.graphql.model import BODY, HEADER, PATH, QUERY, Argument, Operation, ServicePart
from kernel.graphql.naming import ServiceNames, Unique, camel, field_name, is_identifier, words
from kernel.graphql.types import JSON, Types, described
from kernel.http.headers import FORWARD, HeaderKinds
from kernel.openapi.parts import Json, Part, Ref, Unusable
from kernel.openapi.routed import Routed
from kernel.openapi.source import Served, Source

_METHODS = frozenset({"get", "post", "put", "patch", "delete"})
_SCOPE = re.compile(r"/api/v1/tenants/\{([^{}/]*)\}/(?=.)")
_PARAMETER = re.compile(r"\{([^{}/]*)\}")
_JSON_MEDIA = re.compile(r"application/(?:[a-z0-9.+-]+\+)?json|\*/\*|application/\*")
_SCALAR_DEFAULTS: dict[str, tuple[type, ...]] = {
    "Int": (int,),
    "Float": (int, float),
    "Boolean": (bool,),
    "String": (str,),
}
# What a sub-request says of itself, or what the client says for all of them.
_NOT_ASKED = frozenset(
    {b"accept-language", b"user-agent", b"origin", b"referer", b"x-api-key", b"idempotency-key"}
)
_UNASKED_PREFIXES = (b"if-", b"accept", b"content-", b"range", b"sec-")
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")  # RFC 9110 section 5.6.2
_MOST_TOLD = 20
TENANT = "tenantId"
_TENANT_ABOUT = "Another tenant than the request's own."


class _LeftOut(Exception):
    """This operation is not offered; the message says why."""


def compiled(service: str, body: bytes | str, routed: Routed, unique: Unique) -> ServicePart:
    """What `service` offers by its document `body` (or why it has none). `unique` names types and fields of all services."""
    try:
        if isinstance(body, str):
            raise Unusable(body)
        return _Compiler(service, Source(service, body, routed), unique).part()
    except Unusable as why:
        return ServicePart(service, str(why))
    except RecursionError:
        return ServicePart(service, "it is nested too deeply")


class _Compiler:
    def __init__(self, service: str, source: Source, unique: Unique) -> None:
        self._service = service
        self._source = source
        self._names = ServiceNames(service)
        self._unique = unique
        self._types = Types(source.components, self._names, unique)
        self._kinds = HeaderKinds()

    def part(self) -> ServicePart:
        found = list(self._found())
        title, version = self._source.title
        part = ServicePart(
            self._service, "", title, version, [], self._types.made, self._source.left_out[:_MOST_TOLD]
        )
        calls: dict[tuple[bool, str], int] = {}
        for served, _ in found:
            name = self._name(served)[0]
            key = served.method == "get", name
            calls[key] = calls.get(key, 0) + 1
        for served, scoped in found:
            short, long = self._name(served)
            name = short if calls[served.method == "get", short] == 1 else long
            try:
                part.operations.append(self._operation(name, served, scoped))
            except _LeftOut as why:
                if len(part.left_out) < _MOST_TOLD:
                    part.left_out.append(f"{served.method.upper()} {served.path}: {why}")
        part.operations.sort(key=lambda each: each.name)
        return part

    def _found(self) -> Iterator[tuple[Served, Served | None]]:
        """Each operation, and the same below a tenant; in an order that does not depend on the document's."""
        listed = sorted(
            (each for each in self._source.served if each.method in _METHODS),
            key=lambda each: (_PARAMETER.sub("{}", each.path), each.method),
        )
        plain = {(_PARAMETER.sub("{}", each.path), each.method): each for each in listed}
        twins: dict[int, Served] = {}
        left: list[Served] = []
        for each in listed:
            beneath, count = _SCOPE.subn("/api/v1/", each.path, count=1)
            twin = plain.get((_PARAMETER.sub("{}", beneath), each.method)) if count else None
            if twin is None:
                left.append(each)
            elif id(twin) not in twins:
                twins[id(twin)] = each
        for each in left:
            yield each, twins.get(id(each))

    def _name(self, served: Served) -> tuple[str, str]:
        shared = served.part.document.get("operationId")
        given = shared.value if shared is not None else ""
        return self._names.operation(served.method.upper(), served.path, given)

    def _operation(self, name: str, served: Served, scoped: Served | None) -> Operation:
        document = served.part.document
        kind, empty = self._answer(name, document)
        taken = Unique()
        arguments = [each for each in self._parameters(served, name, taken) if each is not None]
        if scoped is not None:
            scope = _SCOPE.match(scoped.path)
            assert scope is not None
            arguments.append(Argument(taken(TENANT), scope[1], PATH, "ID", _TENANT_ABOUT))
        body = self._body(name, document, taken)
        if body is not None:
            arguments.append(body)
        return Operation(
            self._unique(name),
            self._service,
            served.method.upper(),
            served.path,
            kind,
            arguments,
            _described(document),
            document.get("deprecated") is True,
            empty,
            "" if scoped is None else _respelled(served.path, scoped.path),
        )

    # --- what comes back ---

    def _answer(self, name: str, document: Json) -> tuple[str, bool]:
        """The type of a success, and whether there is nothing in it."""
        responses = document.get("responses", {})
        good = sorted(status for status in responses if status.startswith("2"))
        for status in good or ["default"]:
            response = self._resolved(responses.get(status, {}), "responses")
            content = response.get("content")
            if not content:
                continue
            media = next((each for each in content if _JSON_MEDIA.fullmatch(_essence(each))), None)
            if media is None:
                raise _LeftOut(f"it answers with {', '.join(content)[:80]}, not JSON")
            kind, _ = self._types.output(content[media].get("schema", {}), camel(["", *words(name)]) or name)
            return kind, False
        return ("Boolean", True) if good else (JSON, False)

    # --- what is sent ---

    def _parameters(self, served: Served, name: str, taken: Unique) -> Iterator[Argument | None]:
        for given in served.part.document.get("parameters", ()):
            document = self._resolved(given, "parameters")
            place, wire = document.get("in"), str(document.get("name"))
            needed = document.get("required") is True
            if place == "cookie" or (place == "header" and not self._may_be_sent(wire)):
                continue  # the client's own go along, or the gateway says it
            if place not in (PATH, QUERY, HEADER):
                raise _LeftOut(f"a parameter is in {place}")
            content = document.get("content")
            holder: Json = next(iter(content.values()), {}) if content else document
            schema = holder.get("schema", {})
            kind, may = self._types.input(schema, f"{name}/{wire}")
            if kind == "String" and is_identifier(wire):
                kind = "ID"
            label = field_name(wire)
            if not label or label.startswith("__"):
                if needed:
                    raise _LeftOut(f"its parameter {wire[:40]!r} has no name that GraphQL can write")
                continue
            default = _default(kind, schema)
            about = _described(document) or (described(schema) if isinstance(schema, dict) else "")
            style = "json" if content else str(document.get("style", "simple" if place != QUERY else "form"))
            explode = document.get("explode", style == "form") is True
            # The tenant in a path is the request's, unless another one is named.
            own = place == PATH and _scope_of(served.path) == wire
            if own:
                kind, label, about = "ID", TENANT, about or _TENANT_ABOUT
            strict = needed and (not may or kind == JSON) and not own and default is None
            yield Argument(
                taken(label),
                wire,
                place,
                kind + "!" if strict else kind,
                about,
                style,
                explode,
                document.get("deprecated") is True and not strict,
                default,
            )

    def _may_be_sent(self, name: str) -> bool:
        # SECURITY: a name with a line end in it would begin another header.
        if not _TOKEN.fullmatch(name):
            return False
        lower = name.lower().encode()
        if lower in _NOT_ASKED or lower.startswith(_UNASKED_PREFIXES):
            return False
        return self._kinds[lower] == FORWARD

    def _body(self, name: str, document: Json, taken: Unique) -> Argument | None:
        if "requestBody" not in document:
            return None
        body = self._resolved(document["requestBody"], "requestBodies")
        content = body.get("content", {})
        media = next((each for each in content if _JSON_MEDIA.fullmatch(_essence(each))), None)
        needed = body.get("required") is True
        if media is None:
            if needed or content:
                raise _LeftOut(f"it takes {', '.join(content)[:80] or 'nothing that is said'}, not JSON")
            return None
        kind, may = self._types.input(content[media].get("schema", {}), name[:1].upper() + name[1:])
        return Argument(
            taken("input"),
            "",
            BODY,
            kind + "!" if needed and (not may or kind == JSON) else kind,
            _described(body),
            explode=False,
        )

    def _resolved(self, node: Any, section: str, depth: int = 0) -> Json:
        """A parameter, response or body; one that is a reference stands for what it refers to."""
        if not isinstance(node, dict):
            return {}
        ref = node.get("$ref")
        if not isinstance(ref, Ref):
            return node
        part: Part | None = self._source.components.get((section, ref.key[1]))
        if part is None or ref.rest or depth > 8:
            raise _LeftOut("it refers to a part of something else")
        return self._resolved(part.document, section, depth + 1)


def _essence(media: str) -> str:
    return media.partition(";")[0].strip().lower()


def _described(document: Json) -> str:
    """Summary and description, once if they are the same."""
    texts = (document.get("summary"), document.get("description"))
    return "\n\n".join(
        dict.fromkeys(text.strip()[:2000] for text in texts if isinstance(text, str) and text.strip())
    )


def _scope_of(path: str) -> str | None:
    found = _SCOPE.match(path)
    return found[1] if found else None


def _respelled(path: str, scoped: str) -> str:
    """`scoped` with the parameters of `path` under their names there."""
    names = iter(_PARAMETER.findall(path))
    start = _SCOPE.match(scoped)
    assert start is not None
    return start[0] + _PARAMETER.sub(lambda _: "{" + next(names) + "}", scoped[start.end() :])


def _default(kind: str, schema: Any) -> Any:
    """A default that GraphQL can show."""
    value = schema.get("default") if isinstance(schema, dict) else None
    wanted = _SCALAR_DEFAULTS.get(kind, ())
    if not isinstance(value, wanted) or (isinstance(value, bool) and kind != "Boolean"):
        return None
    return None if isinstance(value, int) and abs(value) >= 2**31 else value
