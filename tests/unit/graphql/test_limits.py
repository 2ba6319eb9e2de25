"""Hostile documents are refused before they cost anything; real ones are not."""

from __future__ import annotations

from contextlib import suppress
from time import process_time

import pytest
from graphql import GraphQLSchema, build_schema, get_introspection_query
from hypothesis import given, settings
from hypothesis import strategies as st

from kernel.graphql.documents import Documents, Prepared, Refused
from kernel.graphql.limits import Limits, TooComplex, scan

# The promise is 10 ms on a quiet machine; others' work beside it, and a collector's pause, are not the document's.
BOUND = 0.1
LIMITS = Limits()


@pytest.fixture(scope="module")
def schema() -> GraphQLSchema:
    return build_schema("type Query { a(n: Int, l: [[[Int]]]): Query b: Query c: Int d: String }")


def documents(schema: GraphQLSchema, *, introspection: bool = True) -> Documents:
    return Documents(schema, LIMITS, introspection=introspection, suggestions=introspection)


def fragments(count: int, each: str) -> str:
    return " ".join(f"fragment f{n} on Query {{ {each.format(n + 1, n + 1)} }}" for n in range(count))


HOSTILE = {
    "10,000 aliases": "{ " + " ".join(f"a{n}: c" for n in range(10_000)) + " }",
    "31 aliases": "{ " + " ".join(f"a{n}: c" for n in range(31)) + " }",
    "aliases by a fragment": "{ " + "a { ...f } " * 1 + "b { ...f x: a { ...f } } } fragment f on Query { "
    + " ".join(f"a{n}: c" for n in range(12))
    + " }",
    "a circle of one": "{ ...f } fragment f on Query { a { ...f } }",
    "a circle without a field": "{ ...f } fragment f on Query { ...g } fragment g on Query { ...f }",
    "a circle of two": "{ ...f } fragment f on Query { a { ...g } } fragment g on Query { b { ...f } }",
    "a circle nobody spreads": "{ c } fragment f on Query { a { ...f } }",
    "fragments that multiply": "{ ...f0 } " + fragments(40, "a {{ ...f{} }} b {{ ...f{} }}") + " fragment f40 on Query { c }",
    "operations that share": " ".join(f"query q{n} {{ ...f }}" for n in range(55))
    + " fragment f on Query { "
    + "c d " * 200
    + "}",
    "deep fields": "{ a " * 13 + "{ c }" + " }" * 13,
    "very deep fields": "{ a " * 5000 + " }" * 5000,
    "deep by fragments": "{ ...f0 } " + fragments(14, "a {{ ...f{} }}") + " fragment f14 on Query { c }",
    "deep lists": "{ a(l: " + "[" * 5000 + "]" * 5000 + ") { c } }",
    "deep objects": "{ a(l: " + "{x:" * 5000 + "1" + "}" * 5000 + ") { c } }",
    "unclosed": "{" * 100_000,
    "1 MB of names": "{ " + "c " * 500_000 + "}",
    "1 MB of commas": "{ c " + "," * 1_000_000 + "x" * 3000 + " d" * 3000 + " }",
    "1 MB of comments": "#\n" * 500_000 + "{ c }",
    "one name, often": "{ " + "a { c } " * 60 + "}",
    "one name, often, deep": "{ " + ("a { " + "b { c } " * 8 + "} ") * 8 + "}",
    "one name by fragments": "{ " + "...f ...g ...h " * 20 + "} "
    + " ".join(f"fragment {f} on Query {{ a {{ c }} }}" for f in "fgh"),
    "root fields": "{ " + " ".join(f"... {{ f{n} }}" for n in range(31)) + " }",
    "directives": "{ c " + "@skip(if: false) " * 51 + "}",
    "definitions": " ".join(f"query q{n} {{ c }}" for n in range(61)),
    "quotes": '{ a(n: "' + '\\"' * 3000 + " }",
    "long text": '{ d(x: "' + '\\"\\u00e9' * 12_000 + '") }',
    "block quotes": '{ d(x: """' + '\\"""' * 3000 + " }",
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_documents_are_refused_at_once(schema: GraphQLSchema, name: str) -> None:
    text = HOSTILE[name]
    spent = []
    for _ in range(3):
        kept = documents(schema)
        begin = process_time()
        with pytest.raises(Refused) as caught:
            kept.prepare(text)
        spent.append(process_time() - begin)
        assert caught.value.kind.code in {"graphql-too-complex", "graphql-syntax"}
    assert min(spent) < BOUND, spent


def test_a_verdict_is_kept_and_a_flood_of_documents_is_not(schema: GraphQLSchema) -> None:
    kept = documents(schema)
    first = kept.prepare("{ c }")
    assert kept.prepare("{ c }") is first
    for n in range(600):
        kept.prepare(f"query q{n} {{ c }}")
        with pytest.raises(Refused):
            kept.prepare(f"{{ unknown{n} }}")
    assert len(kept._kept) <= 256
    assert kept.prepare("{ c }") is not first
    long = "a(l: [[[" + "1 " * 300 + "]]]) { c }"
    for n in range(200):
        kept.prepare(f"query q{n} {{ {long} }}")
    assert kept._tokens <= 40_000
    assert kept._tokens == sum(each.tokens for each in kept._kept.values() if isinstance(each, Prepared))


def test_real_documents_pass(schema: GraphQLSchema) -> None:
    kept = documents(schema)
    kept.prepare(get_introspection_query(descriptions=True, input_value_deprecation=True))
    kept.prepare("{ " + "a { " * 11 + "c" + " }" * 12)
    kept.prepare("{ " + " ".join(f"a{n}: c" for n in range(30)) + " }")
    kept.prepare(
        "query A($n: Int = 3) { a(n: $n) { ...f } b { ...f } } fragment f on Query { c d __typename }"
    )


def test_introspection_by_setting(schema: GraphQLSchema) -> None:
    closed = documents(schema, introspection=False)
    for query in ("{ __schema { types { name } } }", '{ __type(name: "Query") { name } }'):
        with pytest.raises(Refused) as caught:
            closed.prepare(query)
        assert "introspection" in str(caught.value.errors)
    closed.prepare("{ __typename }")
    with pytest.raises(Refused) as caught:
        closed.prepare("{ aa }")
    assert "Did you mean" not in str(caught.value.errors)
    with pytest.raises(Refused) as caught:
        documents(schema).prepare("{ aa }")
    assert "Did you mean" in str(caught.value.errors)


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet='{}()[]:@$!|&"\\#.,\n aé0-_', max_size=200))
def test_scanning_takes_any_text(text: str) -> None:
    with suppress(TooComplex):
        assert 0 <= scan(text, LIMITS) <= len(text)


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet='{}()[]:@$!|"\\ ac.', max_size=100))
def test_any_text_is_prepared_or_refused(text: str) -> None:
    kept = documents(build_schema("type Query { a: Query c: Int }"))
    with suppress(Refused):
        assert kept.prepare(text).operations is not None
