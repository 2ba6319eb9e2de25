"""Documents: what clients sent, parsed and validated once; the verdict is kept by the text's digest, good or bad."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from typing import Any

from graphql import (
    DocumentNode,
    FragmentDefinitionNode,
    GraphQLError,
    GraphQLSchema,
    GraphQLSyntaxError,
    NoSchemaIntrospectionCustomRule,
    OperationDefinitionNode,
    parse,
    specified_rules,
    validate,
)

from kernel.graphql.limits import Limits, TooComplex, measure, scan
from kernel.http.problems import GRAPHQL_INVALID, GRAPHQL_SYNTAX, GRAPHQL_TOO_COMPLEX, ProblemKind
from kernel.primitives.memo import keep

_MOST_ERRORS = 5
# SECURITY: a document of all the tokens that are allowed takes a MiB when it is parsed.
_MOST_KEPT = 256
_MOST_TOKENS = 40_000


# What makes of JSON what is selected, and what that costs (see projecting.py).
Plan = tuple[Callable[[Any, Any, Any], Any], list[int]]


class Refused(Exception):
    """A request that is not executed: `errors` as GraphQL formats them; `kind` has code and status."""

    def __init__(self, kind: ProblemKind, errors: list[dict[str, Any]]) -> None:
        super().__init__(kind.code)
        self.kind = kind
        self.errors = errors


def refused(kind: ProblemKind, message: str = "") -> Refused:
    """One without a place in the document."""
    return Refused(kind, [{"message": message or kind.remedy, "extensions": {"code": kind.code}}])


class Prepared:
    """A document that may be executed."""

    __slots__ = ("fragments", "key", "operations", "plans", "tokens")

    def __init__(self, document: DocumentNode, tokens: int, *, directives: bool = False) -> None:
        self.tokens = tokens
        # How answers are made what is selected, by a root field's nodes; None: directives decide each time.
        self.plans: dict[tuple[int, ...], Plan] | None = None if directives else {}
        self.fragments = {
            each.name.value: each for each in document.definitions if isinstance(each, FragmentDefinitionNode)
        }
        self.operations = {
            each.name.value if each.name else "": each
            for each in document.definitions
            if isinstance(each, OperationDefinitionNode)
        }
        # Of its operations that ask for the schema: see `Documents.answers`.
        self.key = b""

    def operation(self, name: str | None) -> OperationDefinitionNode:
        """The one that is meant. Raises Refused."""
        if name is None or (not name and "" in self.operations):
            if len(self.operations) == 1:
                return next(iter(self.operations.values()))
            if not self.operations:
                raise refused(GRAPHQL_INVALID, "The document has no operation.")
            raise refused(GRAPHQL_INVALID, "Say by `operationName` which operation is meant.")
        found = self.operations.get(name)
        if found is None or not name:
            raise refused(GRAPHQL_INVALID, "The document has no operation of that name.")
        return found


class Documents:
    """Those of one schema (None: of somebody else's, so that nothing is validated)."""

    def __init__(
        self, schema: GraphQLSchema | None, limits: Limits, *, introspection: bool, suggestions: bool
    ) -> None:
        self._schema = schema
        self._limits = limits
        self._introspection = introspection
        self._rules = (
            specified_rules if introspection else (*specified_rules, NoSchemaIntrospectionCustomRule)
        )
        self._hide = not suggestions
        self._kept: dict[bytes, Prepared | Refused] = {}
        self._tokens = 0
        # To introspection, by document and operation: the same as long as the schema is, and large.
        self.answers: dict[tuple[bytes, str], dict[str, Any]] = {}

    def prepare(self, text: str) -> Prepared:
        """The document that `text` is. Raises Refused."""
        key = sha256(text.encode("utf-8", "surrogatepass")).digest()
        found = self._kept.get(key)
        if found is None:
            found = self._judged(text)
            if isinstance(found, Prepared):
                found.key = key
                self._tokens += found.tokens
                while self._tokens > _MOST_TOKENS:
                    self._forget()
            if len(self._kept) >= _MOST_KEPT:
                self._forget()
            keep(self._kept, key, found, _MOST_KEPT)
        if isinstance(found, Refused):
            # Not itself: a traceback would keep what was in hand.
            raise Refused(found.kind, found.errors)
        return found

    def _forget(self) -> None:
        oldest = self._kept.pop(next(iter(self._kept)))
        if isinstance(oldest, Prepared):
            self._tokens -= oldest.tokens

    def _judged(self, text: str) -> Prepared | Refused:
        try:
            tokens = scan(text, self._limits)
            document = parse(text)
            measure(document, self._limits)
        except TooComplex as why:
            return refused(GRAPHQL_TOO_COMPLEX, str(why))
        except GraphQLSyntaxError as error:
            return Refused(GRAPHQL_SYNTAX, [formatted(error, GRAPHQL_SYNTAX.code)])
        if self._schema is None:
            return Prepared(document, tokens)
        errors = validate(
            self._schema, document, self._rules, max_errors=_MOST_ERRORS, hide_suggestions=self._hide
        )
        if errors:
            return Refused(GRAPHQL_INVALID, [formatted(error, GRAPHQL_INVALID.code) for error in errors])
        return Prepared(parse(text, no_location=True), tokens, directives="@" in text)


def formatted(error: GraphQLError, code: str) -> dict[str, Any]:
    """An error as GraphQL writes it, with the `code` of a problem."""
    found: dict[str, Any] = {**error.formatted, "extensions": {"code": code}}
    found["message"] = found["message"][:1000]
    return found
