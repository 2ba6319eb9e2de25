"""Names: those of the documents as somebody who writes GraphQL would have them.

What a thing is called depends on its own service's document alone: everything begins with the name of its service, after its
verb. So a service that is down when the schema is made, or comes later, changes no other's names.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
_CAMEL = re.compile(r"[a-z][A-Za-z0-9]*")
_PASCAL = re.compile(r"[A-Z][A-Za-z0-9]*")
_VERSION = re.compile(r"v[0-9]+")
_ID = re.compile(r"(?:^|_)(?:id|uuid)$|[a-z](?:Id|UUID|Uuid)$")
# What a field of Query says by being there.
_READS = frozenset({"get", "list", "read", "fetch", "retrieve"})
_WRITES = {"POST": "create", "PUT": "replace", "PATCH": "update", "DELETE": "delete"}
# What an operation may begin with. Any other first word is what it is about.
_VERB = re.compile(
    "accept|activate|add|adjust|allocate|apply|approve|archive|assign|attach|begin|calculate|cancel|"
    "change|check|clear|clone|close|complete|confirm|consume|copy|create|deactivate|decline|delete|"
    "deliver|detach|disable|dismiss|dispatch|do|edit|enable|end|execute|export|finalize|finish|"
    "generate|import|initialize|invite|issue|link|load|log|login|logout|make|mark|merge|modify|move|"
    "notify|open|order|pause|pay|post|predict|preview|process|publish|put|patch|read|receive|record|"
    "refund|register|reject|release|remove|rename|reopen|reorder|replace|request|rerun|resend|reserve|"
    "reset|resolve|restore|resume|retry|return|revoke|rotate|run|save|schedule|select|sell|send|set|"
    "ship|split|start|stop|submit|subscribe|suspend|sync|test|toggle|track|train|transfer|trigger|"
    "unassign|undo|unlink|unregister|unsubscribe|update|upload|upsert|validate|verify|void|write"
)


def words(text: str) -> list[str]:
    """The words of any kind of identifier, in lower case and ASCII."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return [word.lower() for word in _WORD.findall(plain)]


def camel(parts: Sequence[str]) -> str:
    """lowerCamelCase; "" for nothing."""
    return _named("".join((*parts[:1], *(part.capitalize() for part in parts[1:]))))


def pascal(parts: Iterable[str]) -> str:
    """UpperCamelCase; "" for nothing."""
    return _named("".join(part.capitalize() for part in parts))


def _named(text: str) -> str:
    return f"_{text}" if text[:1].isdigit() else text


def field_name(text: str) -> str:
    """Of a property or a parameter."""
    return text if _CAMEL.fullmatch(text) else camel(words(text))


def enum_value(text: str) -> str:
    """UPPER_SNAKE_CASE; "" where nothing is left that names can have."""
    name = _named("_".join(word.upper() for word in words(text)))
    return name if name not in {"TRUE", "FALSE", "NULL"} else f"{name}_"


def is_identifier(text: str) -> bool:
    """Whether a property of this name holds the id of something."""
    return _ID.search(text) is not None


class Unique:
    """Gives each name once, with a number after it from the second time on."""

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self._taken = set(taken)

    def __call__(self, name: str) -> str:
        free, number = name, 2
        while free in self._taken:
            free, number = f"{name}{number}", number + 1
        self._taken.add(free)
        return free


class ServiceNames:
    """How the things of one service are called."""

    def __init__(self, service: str) -> None:
        self._words = service.split("-")
        last = self._words[-1]
        # "orders" is in the name of `OrderItem`, too.
        self._single = [*self._words[:-1], last[:-1] if last.endswith("s") and len(last) > 4 else last]

    def _begins(self, parts: Sequence[str]) -> bool:
        count = len(self._words)
        return list(parts[:count]) in (self._words, self._single)

    def type(self, name: str) -> str:
        """Of a component or of what is inside one."""
        parts = words(name)
        own = name if _PASCAL.fullmatch(name) else pascal(parts)
        return own if self._begins(parts) else pascal(self._words) + own.lstrip("_")

    def operation(self, method: str, path: str, operation_id: str) -> tuple[str, str]:
        """Of a field of Query or Mutation; and the same as its document says it, for when two would be called alike."""
        given = words(_without_path(operation_id, method, path))
        by_path = not given or given == [method.lower(), *_path_words(path)]
        parts = _of_path(method, path) if by_path else _without_tenant(given)
        if method == "GET":
            verb = parts[0] if parts[0] in _READS else ""
            rest = parts[1:] if verb and len(parts) > 1 else parts
            return camel(self._prefixed(rest)), camel([verb or "get", *self._prefixed(rest)])
        verb = parts[0] if _VERB.fullmatch(parts[0]) else ""
        rest = parts[1:] if verb else parts
        if not verb or not rest:
            name = camel(self._prefixed(parts))
            return name, camel([method.lower(), *self._prefixed(parts)])
        plain = _WRITES.get(verb.upper(), verb)
        return camel([plain, *self._prefixed(rest)]), camel([method.lower(), verb, *self._prefixed(rest)])

    def _prefixed(self, parts: list[str]) -> list[str]:
        return parts if self._begins(parts) else [*self._words, *parts]


def _without_path(operation_id: str, method: str, path: str) -> str:
    """FastAPI writes path and method behind the function's name: `list_items_api_v1_inventory_items_get`."""
    segments = path.split("/")
    for start in range(1, len(segments)):
        end = re.sub(r"\W", "_", "/" + "/".join(segments[start:])) + "_" + method.lower()
        if operation_id.endswith(end) and operation_id != end:
            return operation_id.removesuffix(end)
    return operation_id


def _without_tenant(parts: list[str]) -> list[str]:
    """An id made of a path below a tenant says so, which says nothing."""
    for at in range(1, len(parts) - 2):
        if parts[at : at + 3] == ["tenants", "tenant", "id"]:
            return parts[:at] + parts[at + 3 :]
    return parts


def _path_words(path: str) -> list[str]:
    return [word for part in _segments(path) for word in words(part)]


def _segments(path: str) -> list[str]:
    return [part for part in path.split("/") if part and part != "api" and not _VERSION.fullmatch(part)]


def _of_path(method: str, path: str) -> list[str]:
    """For an operation that has no id, or one made of its path: `/inventory/items/{id}` is about an item."""
    segments = _segments(path)
    if segments[:1] == ["tenants"] and len(segments) > 2 and segments[1].startswith("{"):
        segments = segments[2:]
    verb = _WRITES.get(method, "")
    found: list[str] = []
    for at, segment in enumerate(segments):
        one = segments[at + 1 : at + 2] if at + 1 < len(segments) else ["{}"] * (method == "POST")
        if not segment.startswith("{"):
            parts = words(segment)
            if verb and at == len(segments) - 1 and len(parts) == 1 and _VERB.fullmatch(parts[0]) and found:
                verb = parts[0]
            else:
                found += [*parts[:-1], *map(_singular, parts[-1:])] if "".join(one).startswith("{") else parts
    return [*([verb] if verb else []), *found] or ["root"]


def _singular(word: str) -> str:
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("sses", "xes", "ches", "shes")):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith("ss") and len(word) > 3 else word
