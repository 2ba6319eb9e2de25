"""Which paths are refused before anything is matched."""

from __future__ import annotations

import re
import timeit
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel.http.paths import MAX_CODED, flaw, has_encoded_slash, plainest


@pytest.mark.parametrize(
    "path",
    [
        b"",
        b"*",
        b"api/v1",
        b"http://evil/api",
        b"/public%2f..%2fadmin",
        b"/api/v1/auth/login/../../tenants",
        b"/%2e%2e/admin",
        b"/.%2E/admin",
        b"/a/./b",
        b"/a/..",
        b"/a/.",
        b"/a/..;/b",
        b"/a/%2e;x=1/b",
        b"//a",
        b"/a//b",
        b"//",
        b"/a//",
        b"/a\\b",
        b"/a%5cb",
        b"/a%5C..%5Cb",
        b"/a\x00b",
        b"/a%00b",
        b"/a%0d%0ab",
        b"/a%7f",
        b"/a%1F",
        b"/a b",
        b"/a\x80",
        b"/a%",
        b"/a%2",
        b"/a%zz",
        b'/a"b',
        b"/a<b",
        b"/a#b",
        b"/a`b",
        b"/[%",
        b"/..%3b/b",
        b"/%2e%2E%3Bx=1/b",
        b"/%c0%ae%c0%ae/b",
        b"/..%c0%afb",
        b"/%e0%80%ae/b",
        b"/%f0%80%80%ae/b",
        b"/%fc%80%80%80%80%af",
        b"/%ed%a0%80",
        b"/a%80",
        b"/%ff",
    ],
)
def test_unsafe_paths_are_refused(path: bytes) -> None:
    assert flaw(path)[0]


@pytest.mark.parametrize(
    "path",
    [
        b"/",
        b"/a",
        b"/a/",
        b"/api/v1/x/..a",
        b"/...",
        b"/~u/@x:1,2",
        b"/a.b",
        b"/items[0]/a|b/{x}/^",
    ],
)
def test_ordinary_paths_pass(path: bytes) -> None:
    assert flaw(path) == ("", False)


@pytest.mark.parametrize(
    ("path", "plain"),
    [
        (b"/a;v=1/b", b"/a/b"),
        (b"/a%3Bv=1/b;", b"/a/b"),
        (b"/caf%C3%A9", "/café".encode()),
        (b"/a%20b", b"/a b"),
        (b"/a%252Fb", b"/a%2Fb"),
        (b"/%61dmin/", b"/admin/"),
        (b"/%F0%9F%A5%90", "/🥐".encode()),
        (b"/files/a%2Fb", b"/files/a%2Fb"),
        (b"/files/a%2fb;x%2Fc;d/e", b"/files/a%2Fb%2Fc/e"),
        (b"/a=b%3D%3dc", b"/a=b==c"),
        (b"/[%5B]{%7B", b"/[[]{{"),
    ],
)
def test_paths_that_can_be_written_in_another_way_pass_and_are_told(path: bytes, plain: bytes) -> None:
    assert flaw(path) == ("", True)
    assert plainest(path) == plain


def test_an_encoded_slash_is_left_to_the_route_but_not_with_dots() -> None:
    assert has_encoded_slash(b"/files/a%2Fb")
    assert not has_encoded_slash(b"/files/a%252Fb")
    assert flaw(b"/files/a%2F..%2fb")[0]


def test_a_path_that_needs_a_detailed_look_has_a_bounded_length() -> None:
    assert flaw(b"/" + b"a" * 40_000) == ("", False)
    assert flaw(b"/" + b"%41" * ((MAX_CODED - 1) // 3)) == ("", True)
    assert "at most" in flaw(b"/" + b"%41" * (MAX_CODED // 3 + 1))[0]


PIECES = [
    b"%41",
    b"%e2%82%AC",
    b"%2F",
    b"%2f",
    b"%3B",
    b";",
    b"/",
    b"a",
    b"=",
    b"%3D",
    b"%25",
    b"_",
    b"%20",
    b".",
    b"%2e",
    b"%",
]


@given(st.lists(st.sampled_from(PIECES), max_size=12))
def test_decoding_is_that_of_urls(pieces: list[bytes]) -> None:
    path = b"/" + b"".join(pieces)
    if flaw(path)[0]:
        return
    segments = [
        unquote_to_bytes(re.split(rb";|%3[Bb]", segment)[0]) for segment in re.split(rb"/|%2[Ff]", path)
    ]
    assert plainest(path).replace(b"%2F", b"/") == b"/".join(segments)


@pytest.mark.parametrize(
    "piece", [b"%41", b"/a;", b"%e2%82%ac", b"a%41", b"/%2e%2e%2e", b"%2F", b";", b"%2541"]
)
def test_the_longest_detailed_look_is_short(piece: bytes) -> None:
    path = (b"/b" + piece * MAX_CODED)[:MAX_CODED].rpartition(piece)[0]
    took = min(timeit.repeat(lambda: (flaw(path), plainest(path)), number=1, repeat=20))
    assert took < 0.001  # 0.1 ms; it was 2


@given(st.binary(max_size=30))
def test_what_passes_has_no_dangerous_reading(tail: bytes) -> None:
    path = b"/" + tail
    if flaw(path)[0] or has_encoded_slash(path):
        return
    decoded = unquote_to_bytes(path)
    assert not any(byte < 0x20 or byte == 0x7F for byte in decoded)
    assert b"\\" not in decoded
    assert b"//" not in decoded
    assert not any(part.partition(b";")[0] in {b".", b".."} for part in decoded.split(b"/"))
