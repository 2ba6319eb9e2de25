"""Sources put together: one name for what is the same, different names for what is not.

Components are the same when they and all they refer to are the same: those that refer to each other in a circle are compared
together, and each circle with what it refers to: the work grows as the documents do. The gateway's own keep their names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Any

import msgspec

from kernel.openapi.parts import Json, Key, OperationId, Ref, text_of
from kernel.openapi.source import Served, Source

BEARER = "bearer"
API_KEY = "apiKey"
_OWN = "gateway"
_PARAMETER = re.compile(r"\{([^{}/]*)\}")
_encoder = msgspec.json.Encoder(order="sorted", enc_hook=text_of)


def merge(head: Json, sources: Sequence[Source], schemes: Json) -> bytes:
    """The document: `head` (openapi, info, extensions), then what the sources serve. The first source is the gateway's own;
    `schemes` are its security schemes. The sources are used up."""
    _name_components(sources, set(schemes))
    _name_operations(sources)
    components: dict[str, Json] = {"securitySchemes": dict(schemes)}
    for source in sources:
        for (section, name), part in source.components.items():
            components.setdefault(section, {})[source.names[section, name]] = part.document
    paths: dict[str, Json] = {}
    spelled: dict[str, str] = {}
    tags: dict[str, Json] = {}
    for source in sources:
        descriptions = source.descriptions
        for served in source.served:
            path = spelled.setdefault(_PARAMETER.sub("{}", served.path), served.path)
            if path != served.path:
                _respell(served, path)
            operation = served.part.document
            operation["tags"] = []
            for tag in served.tags or [source.service or _OWN]:
                name = _tag(source.service, tag)
                tags.setdefault(name, {"name": name, **_described(descriptions.get(tag))})
                operation["tags"].append(name)
            operation["security"] = _security(served)
            scope = served.row.key_scope(served.method.upper())
            if scope:
                operation["x-api-key-scope"] = scope
            paths.setdefault(path, {})[served.method] = operation
    document = {
        **head,
        "tags": sorted(tags.values(), key=lambda tag: (not tag["name"].startswith(_OWN), tag["name"])),
        "paths": {path: paths[path] for path in sorted(paths)},
        "components": {
            section: {name: components[section][name] for name in sorted(components[section])}
            for section in sorted(components)
        },
    }
    return msgspec.json.encode(document, enc_hook=text_of)


def _described(text: str | None) -> Json:
    return {"description": text} if text else {}


def _tag(service: str | None, tag: str) -> str:
    plain = re.sub(r"[^a-z0-9]+", "-", tag.lower())
    if plain in {service, f"{service}-service"}:
        return str(service)
    return f"{service or _OWN}: {tag}"


def _security(served: Served) -> list[Json]:
    """The gateway's token or API key where the route takes one, and what the service demands beside it."""
    ways: list[Json] = [{}] if served.row.public else [{BEARER: []}]
    if served.row.key_scope(served.method.upper()):
        ways.append({API_KEY: []})
    alternatives = [
        {**way, **{ref.name: scopes for ref, scopes in wanted}} for wanted in served.security for way in ways
    ]
    return [] if alternatives == [{}] else alternatives


def _respell(served: Served, path: str) -> None:
    """Give the path's parameters the names that another document gave them for the same path."""
    names = dict(zip(_PARAMETER.findall(served.path), _PARAMETER.findall(path), strict=True))
    for parameter in served.part.document.get("parameters", ()):
        if parameter.get("in") == "path":
            parameter["name"] = names[parameter["name"]]


# --- names -------------------------------------------------------------------------------------------------------


def _name_components(sources: Sequence[Source], schemes: set[str]) -> None:
    """Set `names` of every source, and the name of every reference."""
    alike = _alike(sources)
    taken: set[Key] = {("securitySchemes", name) for name in schemes}
    # Component -> what is called so, in the order of the sources.
    claims: dict[Key, dict[bytes, list[int]]] = {}
    for place, source in enumerate(sources):
        source.names = {}
        for key in source.components:
            claims.setdefault(key, {}).setdefault(alike[place, key], []).append(place)
    free = _Free(taken)
    prefixed: list[tuple[Key, list[int]]] = []
    for key, kinds in claims.items():
        for places in kinds.values():
            if (len(kinds) == 1 or 0 in places) and (key[0], _sound(key[1])) not in taken:
                _give(sources, key, places, _sound(key[1]), taken)
            else:
                prefixed.append((key, places))
    for key, places in prefixed:
        prefix = "".join(part.capitalize() for part in (sources[places[0]].service or "gateway").split("-"))
        _give(sources, key, places, free(key[0], prefix + _sound(key[1])), taken)
    for source in sources:
        for ref in _refs(source):
            ref.name = source.names[ref.key]


def _give(sources: Sequence[Source], key: Key, places: list[int], name: str, taken: set[Key]) -> None:
    taken.add((key[0], name))
    for place in places:
        sources[place].names[key] = name


class _Free:
    """Finds names that are not `taken`, by a number at the end. Remembers how far it came: thousands may want one name."""

    def __init__(self, taken: set[Key], mark: str = "") -> None:
        self._taken = taken
        self._mark = mark
        self._numbers: dict[Key, int] = {}

    def __call__(self, section: str, name: str) -> str:
        free = name
        number = self._numbers.get((section, name), 2)
        while (section, free) in self._taken:
            free, number = f"{name}{self._mark}{number}", number + 1
        self._numbers[section, name] = number
        return free


def _sound(name: str) -> str:
    """`name` with the characters that components may have (3.1, section 4.8.7)."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", name) or "_"


def _refs(source: Source) -> Iterator[Ref]:
    for part in (*source.components.values(), *(served.part for served in source.served)):
        yield from part.refs


def _alike(sources: Sequence[Source]) -> dict[tuple[int, Key], bytes]:
    """A digest of each component, the same for what is the same, by one name each."""
    found: dict[tuple[int, Key], bytes] = {}
    for place, source in enumerate(sources):
        components = source.components
        own = {key: sha256(_encoder.encode(part.document)).digest() for key, part in components.items()}
        below = {key: list(dict.fromkeys(ref.key for ref in part.refs)) for key, part in components.items()}
        # All of a circle reach the same components: it is told by its members and by the circles it leads to.
        circle: dict[Key, bytes] = {}
        for members in _circles(below):
            within = set(members)
            beyond = {circle[to] for key in members for to in below[key] if to not in within}
            texts = sorted(b"%b %b" % (own[key], "/".join(key).encode()) for key in members)
            digest = sha256(b"\0".join((*texts, b"", *sorted(beyond)))).digest()
            for key in members:
                circle[key] = digest
                found[place, key] = sha256(own[key] + digest).digest()
    return found


def _circles(below: Mapping[Key, Sequence[Key]]) -> Iterator[list[Key]]:
    """The strongly connected components (Tarjan's), each after those it leads to. Not recursive: chains may be long."""
    index: dict[Key, int] = {}
    lowest: dict[Key, int] = {}
    open_: dict[Key, None] = {}  # a stack, and what is on it
    for start in below:
        if start in index:
            continue
        path = [(start, iter(below[start]))]
        index[start] = lowest[start] = len(index)
        open_[start] = None
        while path:
            key, following = path[-1]
            for to in following:
                if to not in index:
                    index[to] = lowest[to] = len(index)
                    open_[to] = None
                    path.append((to, iter(below[to])))
                    break
                if to in open_:
                    lowest[key] = min(lowest[key], index[to])
            else:
                path.pop()
                if path:
                    lowest[path[-1][0]] = min(lowest[path[-1][0]], lowest[key])
                if lowest[key] == index[key]:
                    members: list[Key] = []
                    while not members or members[-1] != key:
                        members.append(open_.popitem()[0])
                    yield members


def _name_operations(sources: Sequence[Source]) -> None:
    """Make every operation's id its own: the gateway's stay, those that several have get their service's name."""
    claims: dict[str, int] = {}
    found: list[tuple[str | None, OperationId]] = []
    for source in sources:
        for served in source.served:
            shared: Any = served.part.document.get("operationId")
            if shared is not None:
                found.append((source.service, shared))
                claims[shared.value] = claims.get(shared.value, 0) + 1
    own = {shared.value for service, shared in found if service is None}
    taken = {("", shared.value) for service, shared in found if service is None or claims[shared.value] == 1}
    free = _Free(taken, "_")
    kept: set[str] = set()
    for service, shared in found:
        plain = shared.value
        if (service is None or (claims[plain] == 1 and plain not in own)) and plain not in kept:
            kept.add(plain)
            continue
        base = plain if service is None else f"{service.replace('-', '_')}_{plain}"
        shared.value = free("", base)
        taken.add(("", shared.value))
