"""Rewriting: whatever comes, what is sent has exactly the template's segments, and a variable stays in its own."""

from __future__ import annotations

import re
from typing import cast

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from kernel.config.forwarding import resolved
from kernel.exchange.exchange import Handler, Route
from kernel.http.paths import flaw, has_encoded_slash, plainest
from kernel.http.problems import Problem
from kernel.routing.catalog import RouteRow
from kernel.routing.router import UNMATCHED, Router
from kernel.telemetry.metrics import Metrics
from kernel.traffic.forwarding import forwarded, home, path_of, start_of

NAMES = ("id", "tenant_id", "item")
LITERAL = st.sampled_from(["items", "v3", "a.b", "x%20y", "~", "%C3%B1", "admin", "a;b"])
# Of raw segments, as clients may write them, good and bad.
PIECE = st.one_of(
    st.sampled_from(
        [
            "a",
            "7",
            ".",
            "..",
            "%2e",
            "%2E%2e",
            "%2F",
            "%2f",
            "%5C",
            "%00",
            "%0d%0a",
            "%3F",
            "%23",
            "?",
            "#",
            "\r",
            "\n",
        ]
    ),
    st.sampled_from(
        [
            ";",
            ";v=1",
            "%",
            "%25",
            "%252F",
            "%c0%ae",
            "%C3%B1",
            "items",
            "admin",
            "{x}",
            "%7B",
            "\\",
            " ",
            "%b",
        ]
    ),
    st.text("abcz019-_~!$&'()*+,=:@^|[]{}", max_size=3),
)
SEGMENT = st.lists(PIECE, min_size=0, max_size=3).map("".join)


def routed(row: RouteRow) -> Router[Route]:
    def compile_route(row: RouteRow) -> Route:
        return Route(row, row.pattern, (), cast("Handler", None), Metrics().route(row.pattern))

    def refuse(template: str, problem: Problem, admin: bool) -> Route:
        return compile_route(RouteRow(pattern=template, admin=admin))

    return Router((row,), compile_route, refuse)


@st.composite
def rewrites(draw: st.DrawFn) -> tuple[str, str]:
    """A pattern and a template that a configuration may have."""
    names = draw(st.permutations(NAMES).map(lambda order: order[: draw(st.integers(0, 3))]))
    given_ = [f"{{{name}}}" for name in names] + draw(st.lists(LITERAL, min_size=1, max_size=3))
    given_ = list(draw(st.permutations(given_)))
    rest = draw(st.booleans())
    wanted = draw(
        st.lists(st.one_of(LITERAL, st.sampled_from([f"{{{name}}}" for name in names] or ["v3"])), max_size=5)
    )
    pattern = "/" + "/".join(given_ + (["**"] if rest else []))
    template = "/" + "/".join(wanted + (["**"] if rest and draw(st.booleans()) else []))
    try:
        return pattern, str(resolved({"rewrite": template}, pattern)["rewrite"])
    except ValueError:
        assume(False)
        raise


@given(rewrites(), st.data(), st.booleans())
def test_what_is_sent_has_exactly_the_templates_segments(
    rewrite: tuple[str, str], data: st.DataObject, slashes: bool
) -> None:
    pattern, template = rewrite
    wanted = pattern[1:].split("/")
    values: dict[str, str] = {}
    came: list[str] = []
    rest: list[str] = []
    for segment in wanted:
        if segment == "**":
            rest = data.draw(st.lists(SEGMENT, max_size=3))
            came += rest
        elif segment.startswith("{"):
            values[segment] = data.draw(SEGMENT)
            came.append(values[segment])
        else:
            came.append(segment)
    raw = ("/" + "/".join(came)).encode()
    row = RouteRow(pattern=pattern, service="inventory", rewrite=template, allow_encoded_slash=slashes)
    route, params = routed(row).match("GET", raw)
    assume(route.template != UNMATCHED)

    sent = path_of(pattern, template)(raw, params)

    expected: list[str] = []
    for segment in template[1:].split("/"):
        expected += rest if segment == "**" else [values.get(segment, segment)]
    assert sent.decode() == "/" + "/".join(expected)
    # The same rules hold for what is sent as for what came.
    assert flaw(sent)[0] == ""
    assert not re.search(rb"[\x00-\x20\x7f?#\\]", sent)
    if not slashes:
        # However leniently a service reads it: decoded, and without parameters.
        assert plainest(sent).count(b"/") == sent.count(b"/")
        assert not has_encoded_slash(sent)


@given(st.binary(max_size=40))
@example(b"..")
@example(b"a/../b")
@example(b"%2e%2e%2fadmin")
@example(b"a%0d%0aX-User-Id:1")
@example(b"a?b")
@example(b"a#b")
def test_no_bytes_at_all_leave_a_variables_segment(value: bytes) -> None:
    pattern, template = "/api/v1/inventory/items/{id}", "/v3/{id}/detail"
    row = RouteRow(pattern=pattern, service="inventory", rewrite=template, allow_encoded_slash=True)
    raw = b"/api/v1/inventory/items/" + value
    route, params = routed(row).match("GET", raw)
    if route.template == UNMATCHED:
        return
    sent = path_of(pattern, template)(raw, params)
    assert sent.split(b"/") == [b"", b"v3", value, b"detail"]
    assert flaw(sent)[0] == ""


@pytest.mark.parametrize(
    ("pattern", "template", "raw", "params", "sent"),
    [
        ("/a/{id}/**", "/b/{id}/**", b"/a/7/x/y", (b"7",), b"/b/7/x/y"),
        ("/a/{id}/**", "/b/{id}/**", b"/a/7", (b"7",), b"/b/7"),
        ("/a/{id}/**", "/b/{id}/**", b"/a/7/", (b"7",), b"/b/7/"),
        ("/a/{id}/**", "/{id}", b"/a/7/x", (b"7",), b"/7"),
        ("/a/**", "/**", b"/a", (), b"/"),
        ("/a/**", "/**", b"/a/", (), b"/"),
        ("/a/**", "/**", b"/a/b/", (), b"/b/"),
        ("/a/{x}/{y}", "/{y}/{x}/{y}", b"/a/1/2", (b"1", b"2"), b"/2/1/2"),
        ("/a/{x}/{y}", "/{y}", b"/a/1/%2F", (b"1", b"%2F"), b"/%2F"),
        ("/a/{x}", "/100%25/{x}", b"/a/%b", (b"%b",), b"/100%25/%b"),
        ("/a/{x}", "/", b"/a/1", (b"1",), b"/"),
        ("/a/{x}", "/b/", b"/a/1", (b"1",), b"/b/"),
    ],
)
def test_paths(pattern: str, template: str, raw: bytes, params: tuple[bytes, ...], sent: bytes) -> None:
    assert path_of(pattern, template)(raw, params) == sent


def test_a_row_that_says_nothing_has_the_handler_it_had() -> None:
    def handler(x: object) -> None:
        return None

    plain = cast("Handler", handler)
    assert forwarded(RouteRow(pattern="/x", service="inventory"), plain) is plain


@pytest.mark.parametrize(
    ("pattern", "template", "start"),
    [
        ("/api/v1/pos/**", "/pos/**", b""),
        ("/api/v1/pos/**", "/**", b""),
        ("/api/v1/pos", "/", b""),
        ("/api/v1/tenants/{tenant_id}/pos/**", "/**", b""),
        ("/api/v2/orders/**", "/second/orders/**", b"/second"),
        ("/api/v1/a/{id}/b/**", "/v3/b/**", b"/v3"),
        ("/api/v1/a/{id}/b/**", "/v3/{id}/b/**", b"/v3"),
        ("/api/v1/a/{id}/b/**", "/v3/{id}/**", None),
        ("/api/v1/a/**", "/fixed", None),
        ("/api/v1/a/**", "/**", b""),
        ("/api/v1/a", "/b", b"/b"),
    ],
)
def test_where_the_two_paths_differ(pattern: str, template: str, start: bytes | None) -> None:
    assert start_of(pattern, template) == start


@pytest.mark.parametrize(
    ("value", "start", "prefix", "told"),
    [
        (b"/pos/7", b"", b"/api/v1", b"/api/v1/pos/7"),
        (b"/", b"", b"/api/v1/pos", b"/api/v1/pos/"),
        (b"/api/v1/pos/7", b"", b"/api/v1", b"/api/v1/pos/7"),
        (b"/second/orders/7?x=1#y", b"/second", b"/api/v2", b"/api/v2/orders/7?x=1#y"),
        (b"/second", b"/second", b"/api/v2", b"/api/v2"),
        (b"/secondary", b"/second", b"/api/v2", b"/secondary"),
        (b"/elsewhere", b"/second", b"/api/v2", b"/elsewhere"),
        (b"https://example.com/pos", b"", b"/api/v1", b"https://example.com/pos"),
        (b"7", b"", b"/api/v1", b"7"),
        (b"", b"", b"/api/v1", b""),
        (b"//example.com", b"", b"/api/v1", b"//example.com"),
        (b"/\\example.com", b"", b"/api/v1", b"/\\example.com"),
        (b"/x//example.com", b"/x", b"", b"/x//example.com"),
        (b"/x/y", b"/x", b"", b"/y"),
    ],
)
def test_what_a_service_refers_to_is_told_as_clients_reach_it(
    value: bytes, start: bytes, prefix: bytes, told: bytes
) -> None:
    assert home(value, start, prefix) == told


@given(
    st.text("/\\.x@", max_size=8), st.sampled_from(["", "/x", "/x/y"]), st.sampled_from(["", "/a", "/api/v1"])
)
def test_no_reference_becomes_another_hosts(value: str, start: str, prefix: str) -> None:
    told = home(value.encode(), start.encode(), prefix.encode())
    assert told == value.encode() or told[:2] not in (b"//", b"/\\")
