"""Projecting: of a service's JSON exactly what was selected, in GraphQL's types.

PERF: everything below a root field is there already: no resolver, no awaitable, no dispatch by type. A selection becomes
nested functions once, which take 0.15 us a value; graphql-core's executor takes 2 (python -m bench.graphql).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from graphql import (
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLEnumType,
    GraphQLField,
    GraphQLIncludeDirective,
    GraphQLList,
    GraphQLNonNull,
    GraphQLObjectType,
    GraphQLSkipDirective,
    InlineFragmentNode,
    SelectionSetNode,
)
from graphql.execution.values import VariableValues, get_directive_values

from kernel.graphql.schema import WIRE
from kernel.http.problems import GRAPHQL_ANSWER, GRAPHQL_TOO_LARGE

# Where a value is in the answer: (the place around it, its name or number).
Place = tuple[Any, str | int] | None
Complete = Callable[[Any, Place, "Errors"], Any]
_INT = 2**31
# Errors of one operation.
_MOST_ERRORS = 20
# Values of one answer: a loop's turn is no longer than 50 ms.
MOST_VALUES = 100_000


class Null(Exception):
    """A value that cannot be had: what may be null around it is null. It has been told."""


class Errors:
    """Those of one operation, bounded; `left` are the values that it may still have."""

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        """As if nothing had happened yet."""
        self.found: list[dict[str, Any]] = []
        self.left = MOST_VALUES

    def add(self, message: str, place: Place, extensions: dict[str, Any]) -> None:
        """One more."""
        if len(self.found) < _MOST_ERRORS:
            self.found.append({"message": message, "path": path_of(place), "extensions": extensions})

    def spend(self, values: int, place: Place) -> None:
        """Raises Null: there are more values than an answer may have."""
        self.left -= values
        if self.left < 0:
            kind = GRAPHQL_TOO_LARGE
            self.add(
                f"More than {MOST_VALUES} values are selected.",
                place,
                {"code": kind.code, "status": kind.status},
            )
            raise Null


def path_of(place: Place) -> list[str | int]:
    """As errors say it."""
    path: list[str | int] = []
    while place is not None:
        path.append(place[1])
        place = place[0]
    return path[::-1]


class Selections:
    """What an operation selects, with its fragments and the values of its variables."""

    def __init__(self, fragments: Mapping[str, FragmentDefinitionNode], variables: VariableValues) -> None:
        self._fragments = fragments
        self._variables = variables
        self._leaves: dict[str, Complete] = {}

    def fields(self, *selected: SelectionSetNode) -> dict[str, list[FieldNode]]:
        """The fields by the names they get, those of fragments included, in the order in which they are written."""
        found: dict[str, list[FieldNode]] = {}
        for each in selected:
            for node in self._flat(each, set()):
                found.setdefault(node.alias.value if node.alias else node.name.value, []).append(node)
        return found

    def _flat(self, selected: SelectionSetNode, passed: set[str]) -> Iterator[FieldNode]:
        # Every type is an object: a fragment that validation let pass is for this one.
        for node in selected.selections:
            if node.directives and not self._included(node):
                continue
            if isinstance(node, FieldNode):
                yield node
            elif isinstance(node, InlineFragmentNode):
                yield from self._flat(node.selection_set, passed)
            elif isinstance(node, FragmentSpreadNode) and node.name.value not in passed:
                passed.add(node.name.value)
                yield from self._flat(self._fragments[node.name.value].selection_set, passed)

    def _included(self, node: Any) -> bool:
        skip = get_directive_values(GraphQLSkipDirective, node, self._variables)
        include = get_directive_values(GraphQLIncludeDirective, node, self._variables)
        return not (skip and skip["if"]) and not (include and not include["if"])

    def weights(self, kind: Any, nodes: list[FieldNode]) -> list[int]:
        """How many fields there are below, by how many lists they are in: [of none, of one, ...]."""
        lists = 0
        while isinstance(kind, (GraphQLNonNull, GraphQLList)):
            lists += isinstance(kind, GraphQLList)
            kind = kind.of_type
        found = [1]
        if isinstance(kind, GraphQLObjectType):
            found = [0]
            selected = self.fields(*(node.selection_set for node in nodes if node.selection_set is not None))
            for inner in selected.values():
                name = inner[0].name.value
                each = [1] if name == "__typename" else self.weights(kind.fields[name].type, inner)
                found += [0] * (len(each) - len(found))
                for power, count in enumerate(each):
                    found[power] += count
        return [0] * lists + found

    # --- completing ---

    def complete(self, kind: Any, nodes: list[FieldNode]) -> Complete:
        """What makes of a value in JSON (not null) the value of a field of type `kind`, selected by `nodes`.

        It raises Null, when nothing can be made of it.
        """
        if isinstance(kind, GraphQLNonNull):
            kind = kind.of_type
        if isinstance(kind, GraphQLList):
            return self._list(kind.of_type, nodes)
        if isinstance(kind, GraphQLObjectType):
            return self._object(kind, nodes)
        if isinstance(kind, GraphQLEnumType):
            return self._enum(kind)
        known = self._leaves.get(kind.name)
        if known is None:
            known = self._leaves[kind.name] = self._leaf(kind.name)
        return known

    def _list(self, kind: Any, nodes: list[FieldNode]) -> Complete:
        one = self.complete(kind, nodes)
        needed = isinstance(kind, GraphQLNonNull)

        def complete(value: Any, place: Place, errors: Errors) -> list[Any]:
            if not isinstance(value, list):
                raise _wrong(errors, "list", value, place)
            errors.spend(len(value), place)
            found: list[Any] = []
            for number, each in enumerate(value):
                if each is None:
                    if needed:
                        raise _missing(errors, (place, number))
                    found.append(None)
                    continue
                try:
                    found.append(one(each, (place, number), errors))
                except Null:
                    if needed:
                        raise
                    found.append(None)
            return found

        return complete

    def _object(self, kind: GraphQLObjectType, nodes: list[FieldNode]) -> Complete:
        selected = self.fields(*(node.selection_set for node in nodes if node.selection_set is not None))
        steps: list[tuple[str, str | None, bool, Complete]] = []
        for key, each in selected.items():
            name = each[0].name.value
            if name == "__typename":
                steps.append((key, None, False, _constant(kind.name)))
                continue
            field: GraphQLField = kind.fields[name]
            wire: str = field.extensions[WIRE]
            steps.append((key, wire, isinstance(field.type, GraphQLNonNull), self.complete(field.type, each)))
        size = len(steps)

        def complete(value: Any, place: Place, errors: Errors) -> dict[str, Any]:
            if not isinstance(value, dict):
                raise _wrong(errors, "object", value, place)
            errors.spend(size, place)
            found: dict[str, Any] = {}
            for key, wire, needed, one in steps:
                if not wire:  # the type's name, or all of it
                    found[key] = one(value, None, errors)
                    continue
                inner = value.get(wire)
                if inner is None:
                    if needed:
                        raise _missing(errors, (place, key))
                    found[key] = None
                    continue
                try:
                    found[key] = one(inner, (place, key), errors)
                except Null:
                    if needed:
                        raise
                    found[key] = None
            return found

        return complete

    def _enum(self, kind: GraphQLEnumType) -> Complete:
        names: dict[str, str] = {each.value: name for name, each in kind.values.items()}

        def complete(value: Any, place: Place, errors: Errors) -> str:
            name = names.get(value) if isinstance(value, str) else None
            if name is None:
                raise _wrong(errors, f"value of {kind.name}", value, place)
            return name

        return complete

    def _leaf(self, name: str) -> Complete:
        def text(value: Any, place: Place, errors: Errors) -> Any:
            if isinstance(value, str):
                return value
            if isinstance(value, bool):
                return "true" if value else "false"
            if isinstance(value, (int, float)):
                return str(value)
            raise _wrong(errors, name, value, place)

        def whole(value: Any, place: Place, errors: Errors) -> Any:
            if isinstance(value, float) and value.is_integer():
                value = int(value)
            most = _INT if name == "Int" else 2**53
            if isinstance(value, int) and not isinstance(value, bool) and -most <= value < most:
                return value
            raise _wrong(errors, name, value, place)

        def number(value: Any, place: Place, errors: Errors) -> Any:
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                return value
            raise _wrong(errors, name, value, place)

        def boolean(value: Any, place: Place, errors: Errors) -> Any:
            if isinstance(value, bool):
                return value
            raise _wrong(errors, name, value, place)

        leaves: dict[str, Complete] = {"Int": whole, "Long": whole, "Float": number, "Boolean": boolean}
        return _as_it_is if name == "JSON" else leaves.get(name, text)


_SHOWN = {
    "str": "a text",
    "int": "a number",
    "float": "a number",
    "bool": "a boolean",
    "list": "a list",
    "dict": "an object",
}


def _wrong(errors: Errors, what: str, value: Any, place: Place) -> Null:
    shown = type(value).__name__
    message = f"The service's answer has a value that is no {what}, but {_SHOWN.get(shown, shown)}."
    errors.add(message, place, {"code": GRAPHQL_ANSWER.code, "status": GRAPHQL_ANSWER.status})
    return Null()


def _missing(errors: Errors, place: Place) -> Null:
    message = "The service's answer lacks a value that its document says is always there."
    errors.add(message, place, {"code": GRAPHQL_ANSWER.code, "status": GRAPHQL_ANSWER.status})
    return Null()


def _as_it_is(value: Any, place: Place, errors: Errors) -> Any:
    return value


def _constant(name: str) -> Complete:
    return lambda value, place, errors: name
