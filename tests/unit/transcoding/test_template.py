"""Path templates: the table of google/api/http.proto, the grammar, and how shapes lie among the trie's patterns."""

from __future__ import annotations

import itertools
import re
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel.routing.trie import Trie
from kernel.transcoding.template import TemplateError, Variable, covers, meet, order, parse, shape_of


def bound(template: str, path: str) -> dict[str, str] | None:
    """The variables of `path` by `template`, as they are read; None when it is none of its paths."""
    read = parse(template)
    found = read.pattern().fullmatch(path.encode())
    if found is None:
        return None
    return {v.path: v.decode(raw or b"") for v, raw in zip(read.variables, found.groups(), strict=True)}


@pytest.mark.parametrize(
    ("template", "path", "variables"),
    [
        # Of the comments in google/api/http.proto.
        ("/v1/{name=messages/*}", "/v1/messages/123456", {"name": "messages/123456"}),
        ("/v1/messages/{message_id}", "/v1/messages/123456", {"message_id": "123456"}),
        ("/v1/users/{user_id}/messages/{message_id}", "/v1/users/me/messages/123456",
         {"user_id": "me", "message_id": "123456"}),
        ("/v1/{name=shelves/*/books/*}", "/v1/shelves/s1/books/b1", {"name": "shelves/s1/books/b1"}),
        ("/v1/{parent=shelves/*}/books", "/v1/shelves/s1/books", {"parent": "shelves/s1"}),
        ("/v1/{name=shelves/*}:merge", "/v1/shelves/s1:merge", {"name": "shelves/s1"}),
        ("/v1/{book.name=shelves/*/books/*}", "/v1/shelves/s1/books/b1", {"book.name": "shelves/s1/books/b1"}),
        # `*` is one segment, `**` any number, none too.
        ("/v1/{name=*}", "/v1/a", {"name": "a"}),
        ("/v1/{name=*}", "/v1/a/b", None),
        ("/v1/{name=*}", "/v1/", None),
        ("/v1/{name=**}", "/v1/a/b/c", {"name": "a/b/c"}),
        ("/v1/{name=**}", "/v1", {"name": ""}),
        ("/v1/{name=**}", "/v1/", None),
        ("/v1/{name=a/**}", "/v1/a", {"name": "a"}),
        ("/v1/{name=a/**}", "/v1/a/b/c", {"name": "a/b/c"}),
        ("/v1/{name=a/**}", "/v1/b", None),
        ("/v1/*/x", "/v1/anything/x", {}),
        ("/v1/**", "/v1/a/b", {}),
        ("/v1/**", "/v1", {}),
        ("/v1/{name=a/**}:undo", "/v1/a/b/c:undo", {"name": "a/b/c"}),
        ("/v1/{name=a/**}:undo", "/v1/a/b/c", None),
        ("/v1/{name=a/**}:undo", "/v1/a:undo", {"name": "a"}),
        # The verb is behind the last colon.
        ("/v1/{id}:merge", "/v1/a:b:merge", {"id": "a:b"}),
        ("/v1/{id}:merge", "/v1/:merge", None),
        ("/v1/{id}", "/v1/a:merge", {"id": "a:merge"}),
        ("/v1/books:import", "/v1/books:import", {}),
        # One segment is decoded wholly; of several an encoded slash stays as it is.
        ("/v1/{name}", "/v1/a%2Fb%20c%C3%A9", {"name": "a/b cé"}),
        ("/v1/{name=a/*}", "/v1/a/b%2Fc%20d", {"name": "a/b%2Fc d"}),
        ("/v1/{name=**}", "/v1/a%2fb/c%25", {"name": "a%2fb/c%"}),
    ],
)  # fmt: skip
def test_the_table(template: str, path: str, variables: dict[str, str] | None) -> None:
    assert bound(template, path) == variables


@pytest.mark.parametrize(
    "template",
    [
        "", "v1/a", "/", "/v1//a", "/v1/", "/v1/{", "/v1/}", "/v1/{}", "/v1/{a", "/v1/a}", "/v1/{a}{b}", "/v1/x{a}",
        "/v1/{a}x", "/v1/{a={b}}", "/v1/{a=b/{c}}", "/v1/**/a", "/v1/{a=**}/b", "/v1/{a=**/b}", "/v1/{a.}", "/v1/{.a}",
        "/v1/{1a}", "/v1/{a-b}", "/v1/{a=}", "/v1/{a=b//c}", "/v1/a:", "/v1/a:b:c", "/v1/a:b/c", "/v1/{a}/{a}", "/v1/***",
        "/v1/a?b", "/v1/a b", "/v1/a%2", "/v1/é", "/v1/{a}:b/c", "/v1/{a=*}:",
    ],
)  # fmt: skip
def test_what_is_no_template(template: str) -> None:
    with pytest.raises(TemplateError):
        parse(template)


_LITERALS = st.sampled_from(["a", "b", "cc", "x-1", "%20"])
_INNER = st.lists(st.one_of(_LITERALS, st.just("*")), min_size=1, max_size=3)


@st.composite
def templates(draw: st.DrawFn) -> tuple[str, list[tuple[str, list[str]]], str]:
    """The text of a template, the parts that it is made of ("" for no variable), and its verb."""
    parts: list[tuple[str, list[str]]] = [("", ["v1"])]
    for at in range(draw(st.integers(1, 3))):
        named = draw(st.booleans())
        segments = draw(_INNER) if named else [draw(st.one_of(_LITERALS, st.just("*")))]
        parts.append((f"f{at}.g" if named else "", segments))
    if draw(st.booleans()):
        parts.append(draw(st.sampled_from([("", ["**"]), ("rest", ["**"]), ("rest", ["a", "**"])])))
    verb = draw(st.sampled_from(["", "go"]))
    text = "".join("/" + (f"{{{n}={'/'.join(s)}}}" if n else s[0]) for n, s in parts)
    return text + (f":{verb}" if verb else ""), parts, verb


_VALUES = st.text(st.sampled_from("ab:é%/ ~"), min_size=1, max_size=4)


@given(templates(), st.data())
def test_what_a_template_makes_it_reads_again(
    made: tuple[str, list[tuple[str, list[str]]], str], data: st.DataObject
) -> None:
    text, parts, verb = made
    template = parse(text)
    path = ""
    expected: dict[str, str] = {}
    for name, segments in parts:
        raw: list[str] = []
        for segment in segments:
            if segment == "*":
                raw.append(quote(data.draw(_VALUES), safe="" if segments == ["*"] and name else ":"))
            elif segment == "**":
                raw += [quote(each, safe=":") for each in data.draw(st.lists(_VALUES, max_size=3))]
            else:
                raw.append(segment)
        path += "".join(f"/{each}" for each in raw)
        if name:
            expected[name] = Variable(name, 0, tuple(segments)).decode("/".join(raw).encode())
    path += f":{verb}" if verb else ""
    if path.startswith("/v1:"):
        return  # nothing but the verb is left of the path
    assert bound(text, path) == expected
    assert template.segments[0] == "v1"


_SHAPES = [
    shape_of("/" + "/".join(segments))
    for count in (1, 2, 3)
    for segments in itertools.product(("a", "b", "{x}", "**"), repeat=count)
    if "**" not in segments[:-1]
]
_PATHS = [
    "/" + "/".join(each) for count in (1, 2, 3, 4) for each in itertools.product("abz", repeat=count)
] + ["/"]


def _takes(shape: tuple[str, ...], path: str) -> bool:
    trie: Trie[None] = Trie()
    trie.add(frozenset({"GET"}), "/" + "/".join("{x}" if each == "*" else each for each in shape), None)
    return trie.match(path.encode())[0] is not None


def test_shapes_are_compared_as_the_trie_matches() -> None:
    taken = {shape: {path for path in _PATHS if _takes(shape, path)} for shape in _SHAPES}
    for one, other in itertools.product(_SHAPES, repeat=2):
        both = taken[one] & taken[other]
        assert meet(one, other) == bool(both), (one, other)
        assert covers(one, other) == (taken[other] <= taken[one] and _deep(one, other)), (one, other)
        if both and one != other:
            trie: Trie[str] = Trie()
            for shape in (one, other):
                pattern = "/" + "/".join("{x}" if each == "*" else each for each in shape)
                trie.add(frozenset({"GET"}), pattern, "/".join(shape))
            for path in both:
                routes, _ = trie.match(path.encode())
                assert routes is not None
                assert routes["GET"] == "/".join(sorted((one, other), key=order)[0]), (one, other, path)


def _deep(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """Paths of `other` may be longer than those tried: then `one` has to be as open."""
    return "**" not in other or "**" in one


@given(st.text(st.sampled_from("a/*{}=.:% b"), max_size=12))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        template = parse(text)
    except TemplateError:
        return
    assert re.compile(template.pattern().pattern)
    assert all(template.segments)
