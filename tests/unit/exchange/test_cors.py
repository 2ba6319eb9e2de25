"""CORS tables: origin by configuration."""

from __future__ import annotations

import pytest

from kernel.exchange.cors import Cors

EXACT = Cors(("https://app.example.com", "http://localhost:3000"), credentials=True)
PATTERN = Cors(("https://*.example.com",), credentials=True)
ANY = Cors(("*",), credentials=False)
NONE = Cors((), credentials=True)


@pytest.mark.parametrize(
    ("cors", "origin", "allowed"),
    [
        (EXACT, b"https://app.example.com", True),
        (EXACT, b"http://localhost:3000", True),
        (EXACT, b"http://app.example.com", False),
        (EXACT, b"https://app.example.com:444", False),
        (EXACT, b"https://app.example.com.evil.test", False),
        (EXACT, b"https://evil-app.example.com", False),
        (EXACT, b"null", False),
        (EXACT, b"", False),
        (EXACT, b"https://app.example.com, https://evil.test", False),
        (PATTERN, b"https://a.example.com", True),
        (PATTERN, b"https://a.b.example.com", True),
        (PATTERN, b"https://example.com", False),
        (PATTERN, b"https://.example.com", False),
        (PATTERN, b"https://evilexample.com", False),
        (PATTERN, b"https://a.example.com:8443", False),
        (PATTERN, b"http://a.example.com", False),
        (PATTERN, b"https://a.example.com.evil.test", False),
        (PATTERN, b"https://evil.test/.example.com", False),
        (PATTERN, b"https://evil.test#.example.com", False),
        (PATTERN, b"https://a.example.com\n", False),
        (ANY, b"https://whatever.test", True),
        (NONE, b"https://app.example.com", False),
    ],
)
def test_which_origins_are_allowed(cors: Cors, origin: bytes, allowed: bool) -> None:
    assert cors.allowed(origin) is allowed
    names = {name for name, _ in cors.headers(origin)}
    assert (b"access-control-allow-origin" in names) is allowed


def test_credentials_never_go_with_a_star() -> None:
    headers = dict(Cors(("*",), credentials=True).headers(b"https://a.test"))
    assert headers[b"access-control-allow-origin"] == b"*"
    assert b"access-control-allow-credentials" not in headers


def test_answers_that_depend_on_the_origin_vary_by_it() -> None:
    for origin in (b"https://app.example.com", b"https://evil.test"):
        assert (b"vary", b"Origin") in EXACT.headers(origin)
    assert EXACT.vary() == [(b"vary", b"Origin")]
    assert ANY.vary() == [(b"vary", b"Origin")]
    assert (b"vary", b"Origin") in ANY.headers(b"https://evil.test")


def test_a_flood_of_origins_is_not_remembered() -> None:
    cors = Cors(("https://*.example.com",), credentials=True)
    for number in range(5000):
        cors.headers(b"https://%d.example.com" % number)
    assert len(cors._memo) <= 1024


def test_pages_read_what_front_ends_need_and_what_is_named() -> None:
    cors = Cors(("https://app.example.com",), credentials=True, exposed=("x-page-count",))
    exposed = dict(cors.headers(b"https://app.example.com"))[b"access-control-expose-headers"].split(b", ")
    assert len(exposed) == len(set(exposed))
    needed = {b"location", b"etag", b"link", b"content-disposition", b"x-total-count", b"retry-after"}
    assert needed | {b"x-page-count"} <= set(exposed)
    assert b"*" not in exposed  # with credentials it would be a header of that name
