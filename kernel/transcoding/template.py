"""Path templates of google.api.http, and how they lie among the patterns of the trie.

    Template = "/" Segments [ ":" Verb ] ;   Segments = Segment { "/" Segment } ;
    Segment  = "*" | "**" | LITERAL | Variable ;   Variable = "{" FieldPath [ "=" Segments ] "}" ;

`*` is one segment, `**` any number of them, none too, and stands last. A shape is a template as the trie sees it: literals,
`*` and a last `**`. A verb behind a wildcard is no part of it: `/members/{id}` and `/members/{id}:redeem` are one pattern,
and the handler tells them apart.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import zip_longest
from urllib.parse import unquote_to_bytes

from msgspec import Struct

ONE, REST = "*", "**"
Shape = tuple[str, ...]

_LITERAL = re.compile(r"(?:[A-Za-z0-9\-._~!$&'()+,;=@]|%[0-9A-Fa-f]{2})+")
_FIELDS = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*")
_TOKENS = re.compile(r"\{[^{}]*\}|[^/{}]+|[/{}]")
_ENCODED_SLASH = re.compile(r"(%2[Ff])")
_WILD = {ONE: "[^/]+", REST: "[^/]+(?:/[^/]+)*"}


class TemplateError(ValueError):
    """The message says what is malformed."""


class Variable(Struct, frozen=True):
    """`path` is the field's, `segments` what it stands for, from the template's `start` on."""

    path: str
    start: int
    segments: tuple[str, ...]

    def decode(self, raw: bytes) -> str:
        """The value of what was matched. Of several segments an encoded slash stays encoded: it parts none of them."""
        text = raw.decode("latin-1")
        if self.segments == (ONE,):
            return unquote_to_bytes(text).decode()
        parts = _ENCODED_SLASH.split(text)
        return "".join(part if at % 2 else unquote_to_bytes(part).decode() for at, part in enumerate(parts))


class Template(Struct, frozen=True):
    """A template that was read."""

    segments: tuple[str, ...]
    variables: tuple[Variable, ...]
    verb: str = ""

    @property
    def shape(self) -> Shape:
        last = self.segments[-1]
        if self.verb and last not in (ONE, REST):
            return (*self.segments[:-1], f"{last}:{self.verb}")
        return self.segments

    def pattern(self) -> re.Pattern[bytes]:
        """Matches raw paths; a group for each variable, None where it stands for no segment."""
        text = ""
        at = 0
        ends = {variable.start: variable for variable in self.variables}
        while at < len(self.segments):
            variable = ends.get(at)
            segments = variable.segments if variable else (self.segments[at],)
            text += _piece(segments, captured=variable is not None)
            at += len(segments)
        verb = ":" + re.escape(self.verb) if self.verb else ""
        return re.compile((text + verb).encode())


def _piece(segments: tuple[str, ...], *, captured: bool) -> str:
    """The expression of `segments`, each with the slash before it."""
    opening = "(" if captured else "(?:"
    if segments == (REST,):
        return f"(?:/{opening}{_WILD[REST]}))?"
    if segments[-1] == REST:
        head = "/".join(_WILD.get(each) or re.escape(each) for each in segments[:-1])
        return f"/{opening}{head}(?:/[^/]+)*)"
    return f"/{opening}{'/'.join(_WILD.get(each) or re.escape(each) for each in segments)})"


def parse(text: str) -> Template:
    """Read a template. Raises `TemplateError`."""
    if not text.startswith("/"):
        raise TemplateError("it must start with '/'")
    body, verb = _verb_of(text[1:])
    segments: list[str] = []
    variables: list[Variable] = []
    for piece in _separated(body):
        if piece.startswith("{"):
            path, equals, inner = piece[1:-1].partition("=")
            if not _FIELDS.fullmatch(path):
                raise TemplateError(f"{piece} names no field")
            covered = tuple(_segment(each) for each in inner.split("/")) if equals else (ONE,)
            variables.append(Variable(path, len(segments), covered))
            segments += covered
        else:
            segments.append(_segment(piece))
    if REST in segments[:-1]:
        raise TemplateError("'**' stands last, but for a verb")
    named = [variable.path for variable in variables]
    if len(set(named)) < len(named):
        raise TemplateError("two variables are one field")
    return Template(tuple(segments), tuple(variables), verb)


def _verb_of(text: str) -> tuple[str, str]:
    """What is before the verb, and the verb. A colon elsewhere is found malformed where it stands."""
    after = text.rfind("}") + 1
    slash = text.rfind("/", after)
    colon = text.find(":", max(after, slash + 1))
    if colon < 0:
        return text, ""
    verb = text[colon + 1 :]
    if not _LITERAL.fullmatch(verb):
        raise TemplateError(f"{verb!r} is no verb")
    return text[:colon], verb


def _separated(text: str) -> Iterable[str]:
    """The segments of `text`; a variable is one, with the slashes in it."""
    pieces = _TOKENS.findall(text)
    if "".join(pieces) != text or len(pieces) % 2 == 0:
        raise TemplateError("it has an empty segment, or braces that are not around one")
    for at, piece in enumerate(pieces):
        if (piece == "/") != (at % 2 == 1):
            raise TemplateError("it has an empty segment, or braces that are not around one")
        if at % 2 == 0:
            yield piece


def _segment(text: str) -> str:
    if text in (ONE, REST):
        return text
    if not _LITERAL.fullmatch(text) or text in (".", ".."):
        raise TemplateError(f"{text!r} is no segment")
    return text


# --- shapes ----------------------------------------------------------------------------------------------------------

_END = ""


def shape_of(pattern: str) -> Shape:
    """The shape of a route's pattern. That of `/a/` ends with an empty segment, which no wildcard takes."""
    return tuple(ONE if each.startswith("{") else each for each in pattern[1:].split("/"))


def covers(wide: Shape, narrow: Shape) -> bool:
    """Whether each path of `narrow` is one of `wide`."""
    for one, other in zip_longest(wide, narrow):
        if one == REST:
            return True
        if other in (REST, None) or one is None or (one == ONE and other == _END):
            return False
        if one not in (ONE, other):
            return False
    return True


def meet(one: Shape, other: Shape) -> bool:
    """Whether a path can be of both."""
    for mine, theirs in zip_longest(one, other):
        if REST in (mine, theirs):
            return True
        if None in (mine, theirs) or (
            mine != theirs and (ONE not in (mine, theirs) or _END in (mine, theirs))
        ):
            return False
    return True


def common(one: Shape, other: Shape) -> Shape:
    """The shape of all paths that are of both, which meet."""
    made: list[str] = []
    for at, (mine, theirs) in enumerate(zip(one, other, strict=False)):
        if REST in (mine, theirs):
            return (*made, *(other[at:] if mine == REST else one[at:]))
        made.append(theirs if mine == ONE else mine)
    return tuple(made)


def order(shape: Shape) -> tuple[int, ...]:
    """Sorts shapes that meet as the trie prefers them: at their first difference a literal or the end, then one segment."""
    return tuple(2 if each == REST else 1 if each == ONE else 0 for each in shape)
