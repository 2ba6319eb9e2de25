"""The trie against a naive model that tries every pattern."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernel.routing.trie import RouteConflictError, Trie

GET = frozenset({"GET"})


def build(*patterns: str) -> Trie[str]:
    trie: Trie[str] = Trie()
    for pattern in patterns:
        trie.add(GET, pattern, pattern)
    return trie


def found(trie: Trie[str], path: bytes) -> tuple[str | None, tuple[bytes, ...]]:
    routes, params = trie.match(path)
    return (routes["GET"] if routes else None), params


def test_literal_beats_parameter_beats_catch_all_in_any_order() -> None:
    patterns = ["/a/lit", "/a/{x}", "/a/**"]
    for order in itertools.permutations(patterns):
        trie = build(*order)
        assert found(trie, b"/a/lit") == ("/a/lit", ())
        assert found(trie, b"/a/other") == ("/a/{x}", (b"other",))
        assert found(trie, b"/a/other/deeper") == ("/a/**", ())


def test_a_prefix_matches_whole_segments_only() -> None:
    trie = build("/sales/**")
    assert found(trie, b"/salesforce")[0] is None
    assert found(trie, b"/sales")[0] == "/sales/**"
    assert found(trie, b"/sales/")[0] == "/sales/**"


def test_a_dead_end_goes_back_to_the_deepest_alternative() -> None:
    trie = build("/t/{id}/inventory/**", "/t/special/x", "/t/**")
    assert found(trie, b"/t/special/inventory/items") == ("/t/{id}/inventory/**", (b"special",))
    assert found(trie, b"/t/special/y") == ("/t/**", ())
    assert found(trie, b"/t/special/x") == ("/t/special/x", ())


def test_a_parameter_never_matches_an_empty_segment() -> None:
    assert found(build("/t/{id}"), b"/t/")[0] is None


def test_a_trailing_slash_is_a_path_of_its_own() -> None:
    trie = build("/t/{id}", "/t/{id}/", "/t/{id}/**", "/")
    assert found(trie, b"/t/1") == ("/t/{id}", (b"1",))
    assert found(trie, b"/t/1/") == ("/t/{id}/", (b"1",))
    assert found(trie, b"/t/1/x") == ("/t/{id}/**", (b"1",))
    assert found(trie, b"/") == ("/", ())


def test_percent_encoding_is_not_decoded() -> None:
    assert found(build("/admin"), b"/%61dmin")[0] is None


@pytest.mark.parametrize("pattern", ["a", "/a//b", "/{Bad}", "/a/**/b", "/a b", "/{x"])
def test_malformed_patterns_are_refused(pattern: str) -> None:
    with pytest.raises(RouteConflictError):
        build(pattern)


def test_conflicts_name_both_patterns() -> None:
    with pytest.raises(RouteConflictError, match="GET /a/b conflicts with GET /a/b"):
        build("/a/b", "/a/b")
    with pytest.raises(RouteConflictError, match="called {x} in another pattern"):
        build("/a/{x}", "/a/{y}/c")


def model(patterns: list[str], path: bytes) -> str | None:
    """Best pattern by comparing, segment by segment, literal (0) < parameter (1) < catch-all (2)."""
    segments = path.decode().split("/")[1:]
    best: tuple[list[int], str] | None = None
    for pattern in patterns:
        rank: list[int] = []
        parts = pattern.split("/")[1:]
        for index, part in enumerate(parts):
            if part == "**":
                rank.append(2)
                break
            if index >= len(segments):
                break
            if part == "{x}" and segments[index]:
                rank.append(1)
            elif part == segments[index]:
                rank.append(0)
            else:
                break
        complete = len(rank) == len(parts) and (parts[-1] == "**" or len(parts) == len(segments))
        if complete and (best is None or rank < best[0]):
            best = (rank, pattern)
    return best[1] if best else None


_part = st.sampled_from(["a", "b", "c", "{x}"])
_pattern = st.builds(
    lambda parts, rest: "/" + "/".join([*parts, *(["**"] if rest else [])]),
    st.lists(_part, min_size=1, max_size=4),
    st.booleans(),
)


@settings(max_examples=300, deadline=None)
@given(
    patterns=st.lists(_pattern, unique=True, max_size=12),
    paths=st.lists(st.lists(st.sampled_from(["a", "b", "c", "d", ""]), min_size=1, max_size=5), max_size=8),
    seed=st.integers(),
)
def test_matches_the_model_whatever_the_insertion_order(
    patterns: list[str], paths: list[list[str]], seed: int
) -> None:
    random.Random(seed).shuffle(patterns)
    trie = build(*patterns)
    for parts in paths:
        path = b"/" + "/".join(parts).encode()
        assert found(trie, path)[0] == model(patterns, path)
