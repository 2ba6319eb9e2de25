"""`protocol = "grpc"` of a service: its descriptors read, and the routes that their google.api.http rules make.

The service's own routes, those of its prefixes and of [[routes]], say what is demanded where; a rule makes a route of its
own for them, with the demands of whichever of them it lies below. What no rule serves is no route.

Imported only for such a service: it needs the extra `grpc`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import NamedTuple

from msgspec.structs import replace

from kernel.config.rewrite import Table
from kernel.routing.catalog import RouteRow, Service
from kernel.routing.rpc import GRPC, Rule
from kernel.transcoding.descriptors import Descriptors, DescriptorsError
from kernel.transcoding.template import ONE, Shape, Template, common, covers, meet, order, parse, shape_of

_API = ("api", "v1")
_SCOPE = (*_API, "tenants", ONE)
_TENANT = "tenant_id"
_METADATA = re.compile(r"(?!grpc-)[0-9a-z_.-]+")
_NAMED = re.compile(r"\{([^{}]*)\}")

# Of the service's table: (what is wrong, an example).
Complain = Callable[[str, str], None]


class _Ruled(NamedTuple):
    """A rule as a route: the shape of its template, and the names of the wildcards in it (of their variables)."""

    rule: Rule
    template: Template
    shape: Shape
    names: dict[int, str]
    method: str
    # It is the same rule below a tenant.
    scoped: bool


def routes(
    table: Table,
    service: Service,
    named: Collection[str],
    max_body: int,
    complain: Complain,
    doubt: Callable[[str], None],
) -> None:
    """Put the routes of a gRPC `service` into `table`, in the place of the rows it has there. `named` are the patterns of
    [[routes]]."""
    assert service.grpc is not None
    try:
        descriptors = Descriptors(service.grpc.descriptors)
    except DescriptorsError as error:
        complain(str(error), 'descriptors = "loyalty.binpb"')
        return
    ruled = list(_ruled(descriptors, service, doubt, complain))
    old = [(shape_of(pattern), pattern) for pattern in table.patterns(service.name)]
    _of_http(table, service, named, [pattern for _, pattern in old], complain)
    for each in ruled:
        if not each.scoped and not any(covers(shape, each.shape) for shape, _ in old):
            where = ", ".join(pattern for _, pattern in old)
            complain(
                f"{each.method}: {each.rule.template} is outside of what the service answers ({where}): change the rule's "
                "path, add the prefix, or a [[routes]] table with that pattern and this service",
                f'prefixes = ["{(each.shape[2:3] or ("loyalty",))[0]}"]',
            )
    _no_twins(ruled, complain)
    rows: list[RouteRow] = []
    for source, row in _rows(table, service, ruled, old, complain):
        rows.append(row if row.max_body is not None else replace(row, max_body=max_body))
        named = set(named) - {source}
    for _, pattern in old:
        if pattern in named:
            complain(
                f"{pattern} of [[routes]] has no effect: no rule lies there (gateway routes tells where they do)",
                "",
            )
    for _, pattern in old:
        table.put(pattern, [row for row in table.at(pattern) if row.service != service.name])
    for row in rows:
        there = table.at(row.pattern)
        for other in there:
            if other.service != service.name and other.answered & row.answered:
                who = f"the service {other.service}" if other.service else "the gateway itself"
                complain(
                    f"{row.rules[0].call}: {row.pattern} is answered by {who}: change the rule's path", ""
                )
        table.put(row.pattern, [*there, row])
    reached = {rule.call for row in rows for rule in row.rules}
    for method in dict.fromkeys(each.method for each in ruled if each.rule.call not in reached):
        doubt(f"{method} has a rule, but no route takes it: see its methods, and those of [[routes]]")
    if not ruled:
        methods = ", ".join(descriptors.calls()[:5]) or "it has none"
        complain(f"no method has a google.api.http rule that can be served ({methods})", "")


def _of_http(
    table: Table, service: Service, named: Collection[str], patterns: Iterable[str], complain: Complain
) -> None:
    """What its rows say that means nothing to gRPC."""
    own = [row for pattern in patterns for row in table.at(pattern) if row.service == service.name]
    for pattern in dict.fromkeys(row.pattern for row in own if row.websocket and row.pattern in named):
        complain(f"{pattern} is a WebSocket, which a gRPC service does not serve", "")
    if any(row.rewrite for row in own):
        complain("rewrite and strip_prefix are for services that speak HTTP: gRPC is sent no path", "")
    if any(row.graphql for row in own):
        complain("graphql is for services that speak HTTP: leave it out", 'protocol = "http"')
    for name in sorted({name for row in own for name, _ in row.set_headers}):
        if not _METADATA.fullmatch(name):
            complain(
                f"set_headers {name}: metadata has names of a-z, 0-9, '-', '_' and '.', not gRPC's own", ""
            )


def _ruled(
    descriptors: Descriptors, service: Service, doubt: Callable[[str], None], complain: Complain
) -> Iterator[_Ruled]:
    """Every rule, and what it is below a tenant where the service is asked there too."""
    found: list[_Ruled] = []
    for served in descriptors.served():
        if served.rule is None:
            # That a stream has no form here is the protocol's fault, not the file's.
            if "streaming" in served.problem:
                doubt(f"{served.method} {served.problem}: it has no route")
            else:
                complain(f"{served.method} {served.problem}", "")
            continue
        template = parse(served.rule.template)
        found.append(
            _Ruled(served.rule, template, template.shape, _names(template), served.method, scoped=False)
        )
    yield from found
    own = {(method, each.shape, each.template.verb) for each in found for method in each.rule.methods}
    for each in found if service.tenant_scoped else ():
        shape = each.shape
        if shape[:2] != _API or len(shape) < 3 or shape[2] not in service.prefixes:
            continue
        below = (*_SCOPE, *shape[2:])
        methods = tuple(m for m in each.rule.methods if (m, below, each.template.verb) not in own)
        if not methods:
            continue
        text = "/api/v1/tenants/*" + each.rule.template.removeprefix("/api/v1")
        template = parse(text)
        rule = replace(each.rule, template=text, methods=methods)
        yield _Ruled(rule, template, below, _names(template), each.method, scoped=True)


def _names(template: Template) -> dict[int, str]:
    names: dict[int, str] = {}
    for variable in template.variables:
        name = re.sub(r"[^a-z0-9]+", "_", variable.path.lower()).strip("_")
        for at in range(variable.start, variable.start + len(variable.segments)):
            names[at] = name if name[:1].isalpha() else f"field_{name}"
    return names


def _no_twins(ruled: Iterable[_Ruled], complain: Complain) -> None:
    """Two rules that the same requests would go to."""
    taken: dict[tuple[str, Shape, str], _Ruled] = {}
    for each in ruled:
        for method in each.rule.methods:
            first = taken.setdefault((method, each.shape, each.template.verb), each)
            if first is not each and not each.scoped:
                complain(
                    f"{first.method} and {each.method} have rules for the same requests: {method} {each.rule.template}",
                    "",
                )
                break


def _rows(
    table: Table, service: Service, ruled: list[_Ruled], old: list[tuple[Shape, str]], complain: Complain
) -> Iterator[tuple[str, RouteRow]]:
    """Each with the pattern of the row whose demands it has."""
    spell = _Speller(table, service.name, complain)
    spelled: dict[Shape, str] = {}
    for shape, pattern in old:
        if spelled.setdefault(shape, pattern) != pattern:
            complain(f"{pattern} and {spelled[shape]} of [[routes]] are one pattern: spell it in one way", "")
    for each in ruled:
        spell.learn(each)
    for shape in _shapes([shape for shape, _ in old], [each.shape for each in ruled]):
        demanded = min((each for each, _ in old if covers(each, shape)), key=order, default=None)
        if demanded is None:
            continue
        here = [
            each
            for each in ruled
            if each.shape == shape or (meet(each.shape, shape) and order(shape) < order(each.shape))
        ]
        here.sort(key=lambda each: (order(each.shape), not each.template.verb))
        for row in table.at(spelled[demanded]):
            if row.service != service.name or row.websocket:
                continue
            # Methods that have the same rules are one row.
            groups: dict[tuple[Rule, ...], set[str]] = {}
            for method in row.answered:
                rules = tuple(each.rule for each in here if method in each.rule.methods)
                if rules:
                    groups.setdefault(rules, set()).add(method)
            if here and not groups:
                # Its methods are answered, by 404: at a wider pattern less would be demanded of the others.
                groups[()] = set(row.answered)
            for rules, methods in groups.items():
                made = replace(
                    row,
                    pattern=spell(shape),
                    methods=frozenset(methods),
                    handler=GRPC,
                    rules=rules,
                    limit_key=row.limit_key or (row.pattern if row.limit else ""),
                )
                yield row.pattern, made


def _shapes(demands: list[Shape], rules: list[Shape]) -> Iterable[Shape]:
    """Those of the rules, and whatever they and demands have in common.

    SECURITY: the trie chooses one pattern for a path. With these it is one that lies wholly below the demand that the path
    had without any rule, however rules and demands overlap: no rule leads around a demand.
    """
    found = dict.fromkeys([*demands, *rules])
    new = [*found]
    while new:
        made = dict.fromkeys(common(one, each) for one in new for each in demands if meet(one, each))
        new = [shape for shape in made if shape not in found]
        found.update(dict.fromkeys(new))
    return found


class _Speller:
    """Gives the wildcards of shapes their names: a wildcard at one place has one name, whatever rules call it.

    SECURITY: `tenant_id` is the tenant whose rights are checked; it is never the name of what a rule calls otherwise.
    """

    def __init__(self, table: Table, service: str, complain: Complain) -> None:
        self._complain = complain
        self._names: dict[Shape, str] = {}
        for row in table:
            shape = shape_of(row.pattern)
            for at, segment in enumerate(row.pattern[1:].split("/")):
                named = _NAMED.fullmatch(segment)
                if named and (row.service != service or row.handler != GRPC):
                    self._names.setdefault(shape[: at + 1], named[1])

    def learn(self, each: _Ruled) -> None:
        """Take over the names in a rule where there are none yet."""
        for at, segment in enumerate(each.shape):
            if segment != ONE:
                continue
            name = each.names.get(at, "")
            known = self._names.setdefault(each.shape[: at + 1], name or "segment")
            if name and _TENANT in (name, known) and name != known:
                self._complain(
                    f"{each.method}: {each.rule.template} has {{{name}}} where other routes have {{{known}}}: one of them is "
                    "the tenant whose rights are checked, and that is always called tenant_id",
                    "",
                )

    def __call__(self, shape: Shape) -> str:
        spelled = [
            f"{{{self._names.get(shape[: at + 1], 'segment')}}}" if segment == ONE else segment
            for at, segment in enumerate(shape)
        ]
        return "/" + "/".join(spelled)
