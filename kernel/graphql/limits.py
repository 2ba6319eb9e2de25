"""Limits: what a document may be, judged before anything is done with it.

1. `scan` reads its tokens, without parsing: how many, how deep, how many aliases and directives.
2. `measure` walks what was parsed with every fragment in its place: depth, aliases, root fields, selections; a circle of
   fragments is refused, and fragments that multiply stop at the first selection too many.

PERF: 0.25 us a token; graphql-core's parser takes 4, and its validation 11.

SECURITY: validation compares each two fields of one name at one place of the answer: 300 of them take a second. How many
there are is limited, too.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    InlineFragmentNode,
    OperationDefinitionNode,
    SelectionSetNode,
)

_TOKEN = re.compile(
    r"[\s,\ufeff]++"
    r"|#[^\n\r]*+"
    # SECURITY: one that does not end is one token, too, or each quotation mark in it would be tried as a beginning.
    r'|"""(?:[^"\\]++|\\"""|\\(?!""")|"(?!""))*+(?:""")?'
    r'|"(?:[^"\\\n\r]++|\\.)*+"?'
    r"|\.\.\."
    r"|[A-Za-z_][A-Za-z0-9_]*+"
    r"|-?[0-9][0-9.eE+-]*+"
    r"|[!$&():=@\[\]{}|]"
)
_BLANK = frozenset(" \t\n\r,\ufeff")
# Brackets in brackets, where literals are meant.
_MOST_NESTED = 24
# Definitions in one document.
_MOST_DEFINITIONS = 60
# Characters of all texts and comments in one: the parser takes up to 0.5 us for each.
_MOST_TEXT = 8192
# Pairs of fields with one name at one place.
_MOST_PAIRS = 400


class Limits(NamedTuple):
    """Of one document. `depth` counts fields from a root field on; introspection has its own limit (see documents.py)."""

    tokens: int = 1000
    depth: int = 12
    aliases: int = 30
    root_fields: int = 30
    directives: int = 50
    selections: int = 1000


class TooComplex(Exception):
    """More of something than is allowed; the message says of what, and how much is."""


def scan(text: str, limits: Limits) -> int:
    """The number of tokens of a document. Raises TooComplex."""
    texts = tokens = aliases = directives = nested = braces = round_ = definitions = 0
    # A colon outside of parentheses comes after an alias.
    for found in _TOKEN.finditer(text):
        token = found.group()
        first = token[0]
        if first in _BLANK:
            continue
        tokens += 1
        if tokens > limits.tokens:
            raise TooComplex(f"A document may have at most {limits.tokens} tokens.")
        if first in '"#':
            texts += len(token)
            if texts > _MOST_TEXT:
                raise TooComplex(
                    f"Texts in a document may have {_MOST_TEXT} characters together: longer ones are for variables."
                )
        elif first == "{":
            braces += 1
            nested += 1
            if braces == 1 and not round_:
                definitions += 1
            if not round_ and braces > limits.depth + _MOST_NESTED:
                raise TooComplex(f"Fields may be at most {limits.depth} deep.")
        elif first == "}":
            braces -= 1
            nested -= 1
        elif first in "([":
            round_ += first == "("
            nested += 1
        elif first in ")]":
            round_ -= first == ")"
            nested -= 1
        elif first == ":":
            aliases += not round_
            if aliases > limits.aliases:
                raise TooComplex(f"A document may have at most {limits.aliases} aliases.")
        elif first == "@":
            directives += 1
            if directives > limits.directives:
                raise TooComplex(f"A document may have at most {limits.directives} directives.")
        if nested > limits.depth + _MOST_NESTED:
            raise TooComplex("The document is nested too deeply.")
    if definitions > _MOST_DEFINITIONS:
        raise TooComplex(f"A document may have at most {_MOST_DEFINITIONS} definitions.")
    return tokens


class _Place:
    """Of the answer: how many selections are for it, and the places in it."""

    __slots__ = ("count", "inner")

    def __init__(self) -> None:
        self.count = 0
        self.inner: dict[str, _Place] = {}


class _Measure:
    def __init__(self, document: DocumentNode, limits: Limits) -> None:
        self._limits = limits
        self._fragments = {
            each.name.value: each for each in document.definitions if isinstance(each, FragmentDefinitionNode)
        }
        self._open: set[str] = set()
        self._spread_once: set[str] = set()
        # SECURITY: of all its operations together: sixty that spread the same fragments are sixty times as much.
        self._selections = self._aliases = self._pairs = self._directives = 0

    def operation(self, node: OperationDefinitionNode) -> None:
        root = _Place()
        self._walk(node.selection_set, root, 1, False)
        if len(root.inner) > self._limits.root_fields:
            raise TooComplex(f"An operation may have at most {self._limits.root_fields} root fields.")

    def unused(self) -> None:
        """Fragments that no operation spreads are validated all the same."""
        for name in self._fragments.keys() - self._spread_once:
            self._spread(name, _Place(), 1, False)

    def _walk(self, selected: SelectionSetNode, place: _Place, depth: int, introspecting: bool) -> None:
        limits = self._limits
        for node in selected.selections:
            self._selections += 1
            if self._selections > limits.selections:
                raise TooComplex(
                    f"A document may select at most {limits.selections} fields, those of its fragments included."
                )
            self._directives += len(node.directives or ())
            if self._directives > limits.directives:
                raise TooComplex(f"A document may have at most {limits.directives} directives.")
            if isinstance(node, FieldNode):
                self._field(node, place, depth, introspecting)
            elif isinstance(node, InlineFragmentNode):
                self._walk(node.selection_set, place, depth, introspecting)
            elif isinstance(node, FragmentSpreadNode):
                self._spread(node.name.value, place, depth, introspecting)

    def _field(self, node: FieldNode, place: _Place, depth: int, introspecting: bool) -> None:
        limits = self._limits
        name = node.name.value
        introspecting = introspecting or name in {"__schema", "__type"}
        if depth > limits.depth and not introspecting:
            raise TooComplex(f"Fields may be at most {limits.depth} deep.")
        key = name
        if node.alias is not None:
            key = node.alias.value
            self._aliases += 1
            if self._aliases > limits.aliases:
                raise TooComplex(
                    f"A document may have at most {limits.aliases} aliases, those of its fragments included."
                )
        inner = place.inner.get(key)
        if inner is None:
            inner = place.inner[key] = _Place()
        self._pairs += inner.count
        inner.count += 1
        if self._pairs > _MOST_PAIRS:
            raise TooComplex(f"{key!r} is selected too often at one place.")
        if node.selection_set is not None:
            self._walk(node.selection_set, inner, depth + 1, introspecting)

    def _spread(self, name: str, place: _Place, depth: int, introspecting: bool) -> None:
        fragment = self._fragments.get(name)
        if fragment is None:
            return  # validation will say so
        if name in self._open:
            raise TooComplex(f"The fragment {name!r} contains itself.")
        self._open.add(name)
        self._spread_once.add(name)
        self._walk(fragment.selection_set, place, depth, introspecting)
        self._open.discard(name)


def measure(document: DocumentNode, limits: Limits) -> None:
    """Raises TooComplex."""
    measuring = _Measure(document, limits)
    for node in document.definitions:
        if isinstance(node, OperationDefinitionNode):
            measuring.operation(node)
    measuring.unused()
