"""The model as graphql-core's schema. What execution needs of a type hangs on it: `extensions` of fields."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from datetime import date, datetime, time
from functools import partial
from typing import Any, NamedTuple

from graphql import (
    GraphQLArgument,
    GraphQLBoolean,
    GraphQLDefaultInput,
    GraphQLEnumType,
    GraphQLEnumValue,
    GraphQLError,
    GraphQLField,
    GraphQLFloat,
    GraphQLID,
    GraphQLInputField,
    GraphQLInputObjectType,
    GraphQLInt,
    GraphQLList,
    GraphQLNamedType,
    GraphQLNonNull,
    GraphQLObjectType,
    GraphQLScalarType,
    GraphQLSchema,
    GraphQLString,
    lexicographic_sort_schema,
    print_schema,
    validate_schema,
)

from kernel import __version__
from kernel.graphql.model import ENUM, OBJECT, Argument, Field, Model, Operation, Type

# Keys of a field's `extensions`: its name in JSON; of a root field, what is asked for it, or what is known.
WIRE, OPERATION, LOCAL = "wire", "operation", "local"
ALERTS = "alerts"
_BUILT_IN = ("String", "Int", "Float", "Boolean", "ID")
_LONG = 2**53
_DEPRECATED = "The service says so."
_TYPE = re.compile(r"(\[*)([A-Za-z0-9_]+)([]!]*)")
_SPELLED: dict[str, tuple[Callable[[str], object], str]] = {
    "DateTime": (
        lambda text: datetime.fromisoformat(_moment(text)),
        "A moment, as in RFC 3339: `2026-12-01T05:30:00Z`.",
    ),
    "Date": (date.fromisoformat, "A day, as in RFC 3339: `2026-12-01`."),
    "Time": (time.fromisoformat, "A time of the day: `05:30:00`."),
}


def _moment(text: str) -> str:
    if len(text) < 16:
        raise ValueError("no moment")
    return text


class Built(NamedTuple):
    """A schema, and what became of each service's document."""

    schema: GraphQLSchema
    services: list[dict[str, Any]]


class _Builder:
    def __init__(self, types: Iterable[Type]) -> None:
        self._named: dict[str, GraphQLNamedType] = {
            "String": GraphQLString,
            "Int": GraphQLInt,
            "Float": GraphQLFloat,
            "Boolean": GraphQLBoolean,
            "ID": GraphQLID,
            **{scalar.name: scalar for scalar in scalars()},
        }
        for made in types:
            self._named[made.name] = self._type(made)

    def _type(self, made: Type) -> GraphQLNamedType:
        about = made.description or None
        if made.kind == ENUM:
            values = {name: GraphQLEnumValue(value) for name, value in made.values.items()}
            return GraphQLEnumType(made.name, values, description=about)
        if made.kind == OBJECT:
            return GraphQLObjectType(made.name, partial(self._fields, made.fields), description=about)
        return GraphQLInputObjectType(made.name, partial(self._inputs, made.fields), description=about)

    def _fields(self, fields: list[Field]) -> dict[str, GraphQLField]:
        return {
            each.name: GraphQLField(
                self.of(each.type),
                description=each.description or None,
                deprecation_reason=_DEPRECATED if each.deprecated else None,
                extensions={WIRE: each.wire},
            )
            for each in fields
        }

    def _inputs(self, fields: list[Field]) -> dict[str, GraphQLInputField]:
        return {
            each.name: GraphQLInputField(
                self.of(each.type),
                description=each.description or None,
                deprecation_reason=_DEPRECATED if each.deprecated else None,
                out_name=each.wire,
            )
            for each in fields
        }

    def of(self, text: str) -> Any:
        """The type that `text` writes."""
        found = _TYPE.fullmatch(text)
        assert found is not None
        kind: Any = self._named[found[2]]
        for mark in found[3]:
            kind = GraphQLNonNull(kind) if mark == "!" else GraphQLList(kind)
        return kind

    def root(self, operation: Operation) -> GraphQLField:
        """A field of Query or Mutation: always nullable, so that one that fails takes nothing from the others."""
        return GraphQLField(
            self.of(operation.type),
            args={each.name: self._argument(each) for each in operation.arguments},
            description=operation.description or None,
            deprecation_reason=_DEPRECATED if operation.deprecated else None,
            extensions={OPERATION: operation},
        )

    def _argument(self, each: Argument) -> GraphQLArgument:
        return GraphQLArgument(
            self.of(each.type),
            default=None if each.default is None else GraphQLDefaultInput(each.default),
            description=each.description or None,
            deprecation_reason=_DEPRECATED if each.deprecated else None,
        )


def built(model: Model, *, tell: bool = True) -> Built:
    """The schema of `model`. `tell`: whoever asks learns why something is left out."""
    types = [each for service in model.services for each in service.types]
    builder = _Builder(types)
    operations = [each for service in model.services for each in service.operations]
    queries = {each.name: builder.root(each) for each in operations if not each.writes}
    mutations = {each.name: builder.root(each) for each in operations if each.writes}
    services = [
        {
            "name": each.name,
            "included": bool(each.operations) or not each.reason,
            "reason": (tell and each.reason) or None,
            "title": each.title or None,
            "version": each.version or None,
            "operations": len(each.operations),
            "leftOut": each.left_out if tell else [],
        }
        for each in model.services
    ]
    queries["gateway"] = _about(services)
    schema = GraphQLSchema(
        GraphQLObjectType("Query", dict(sorted(queries.items()))),
        GraphQLObjectType("Mutation", dict(sorted(mutations.items()))) if mutations else None,
        GraphQLObjectType("Subscription", {ALERTS: _alerts(builder)}),
    )
    return Built(schema, services)


def reserved() -> tuple[str, ...]:
    """Names that are not the services': of types, and of fields of Query."""
    own = ("Query", "Mutation", "Subscription", "Gateway", "GatewayService", "Alert", "gateway", ALERTS)
    return (*own, *_BUILT_IN, *(scalar.name for scalar in scalars()))


def flaws(schema: GraphQLSchema) -> str:
    """What is wrong with `schema` by the specification; "" when nothing is."""
    return "; ".join(error.message for error in validate_schema(schema))[:500]


def text(schema: GraphQLSchema) -> str:
    """The schema in GraphQL's own language, always in the same order."""
    return print_schema(lexicographic_sort_schema(schema)) + "\n"


def _about(services: list[dict[str, Any]]) -> GraphQLField:
    def plain(kind: Any, name: str, about: str) -> GraphQLField:
        return GraphQLField(kind, description=about, extensions={WIRE: name})

    strings = GraphQLNonNull(GraphQLList(GraphQLNonNull(GraphQLString)))
    service = GraphQLObjectType(
        "GatewayService",
        {
            "name": plain(GraphQLNonNull(GraphQLString), "name", "As in its routes."),
            "included": plain(
                GraphQLNonNull(GraphQLBoolean), "included", "Whether its operations are in this schema."
            ),
            "reason": plain(GraphQLString, "reason", "Why they are not."),
            "title": plain(GraphQLString, "title", "Of its OpenAPI document."),
            "version": plain(GraphQLString, "version", "Of its OpenAPI document."),
            "operations": plain(GraphQLNonNull(GraphQLInt), "operations", "How many are in this schema."),
            "leftOut": plain(strings, "leftOut", "Operations that cannot be in it, and why."),
        },
        description="A service behind the gateway, and what became of its OpenAPI document.",
    )
    gateway = GraphQLObjectType(
        "Gateway",
        {
            "version": plain(GraphQLNonNull(GraphQLString), "version", "Its release."),
            "services": plain(
                GraphQLNonNull(GraphQLList(GraphQLNonNull(service))), "services", "All there are, in order."
            ),
        },
        description="What this schema is made of.",
    )
    known = {"version": __version__, "services": services}
    return GraphQLField(
        GraphQLNonNull(gateway), description="What this schema is made of.", extensions={LOCAL: known}
    )


def _alerts(builder: _Builder) -> GraphQLField:
    fields = [
        Field("alertId", "alert_id", "ID", "The publisher's own."),
        Field("severity", "severity", "String", "Lower case."),
        Field("type", "type", "String", "What kind of alert it is, where its publisher says so."),
        Field("message", "message", "String", "For people."),
        Field("timestamp", "timestamp", "DateTime", "When it happened."),
        Field("data", "", "JSON", "The alert as it was published."),
    ]
    alert = GraphQLObjectType("Alert", builder._fields(fields), description="An alert of the tenant's.")
    strings = builder.of("[String!]")
    return GraphQLField(
        GraphQLNonNull(alert),
        args={
            "severity": GraphQLArgument(strings, description="Only alerts of these severities."),
            "types": GraphQLArgument(strings, description="Only alerts of these types."),
        },
        description="The tenant's alerts from now on, as they come. Over server-sent events: `accept: text/event-stream`.",
    )


# --- scalars -------------------------------------------------------------------------------------------------------


def scalars() -> list[GraphQLScalarType]:
    """Those beside GraphQL's own."""
    found = [
        GraphQLScalarType(
            "JSON",
            description="Any JSON, as the service has it.",
            coerce_output_value=lambda value: value,
            coerce_input_value=lambda value: value,
        ),
        GraphQLScalarType(
            "Long",
            description="A whole number of up to 53 bits: what a JSON number holds exactly.",
            coerce_output_value=_whole,
            coerce_input_value=_whole,
        ),
    ]
    for name, (parse, about) in _SPELLED.items():
        spelled = partial(_spelled, name, parse)
        found.append(
            GraphQLScalarType(
                name, description=about, coerce_output_value=lambda value: value, coerce_input_value=spelled
            )
        )
    return found


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) >= _LONG:
        raise GraphQLError("A Long is a whole number of up to 53 bits.")
    return value


def _spelled(name: str, parse: Callable[[str], object], value: Any) -> str:
    if isinstance(value, str) and len(value) <= 64:
        try:
            parse(value)
        except ValueError:
            pass
        else:
            return value
    raise GraphQLError(f"That is no {name}: {_SPELLED[name][1]}")
