"""What becomes of a Location: one at a replica is told to clients without it, and leads nowhere else."""

from __future__ import annotations

from urllib.parse import urljoin, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel.upstream.address import parse
from kernel.upstream.response_headers import reference

OWN = frozenset(form for url in ("http://svc:8000", "http://b", "https://c") for form in parse(url).own)


@pytest.mark.parametrize(
    ("url", "own"),
    [
        ("http://svc:8000", {b"svc:8000"}),
        ("http://Svc", {b"svc", b"svc:80"}),
        ("http://svc:80", {b"svc", b"svc:80"}),
        ("https://svc", {b"svc", b"svc:443"}),
        ("https://svc:80", {b"svc:80"}),
        ("http://[::1]:8000", {b"[::1]:8000"}),
        ("unix:///run/svc.sock", {b"localhost", b"localhost:0"}),
    ],
)
def test_the_authorities_of_a_replica(url: str, own: set[bytes]) -> None:
    assert set(parse(url).own) == own


@pytest.mark.parametrize(
    ("location", "told"),
    [
        (b"http://svc:8000/api/v1/items/?a=http://svc:8000/#x", b"/api/v1/items/?a=http://svc:8000/#x"),
        (b"HTTP://SVC:8000/x", b"/x"),
        (b"https://svc:8000/x", b"/x"),  # it believes X-Forwarded-Proto
        (b"//svc:8000/x", b"/x"),
        (b"http://b/x", b"/x"),
        (b"http://b:80/x", b"/x"),
        (b"https://c:443", b"/"),
        (b"http://b?q", b"/?q"),
        (b"http://b#f", b"/#f"),
        # Whatever would make a host of the path.
        (b"http://b//evil.test/x", b"/.//evil.test/x"),
        (b"http://b/\\evil.test", b"/./\\evil.test"),
        (b"http://b/\t/evil.test", b"/.//evil.test"),
        (b"http://b\\evil.test", b"/.\\evil.test"),
    ],
)
def test_a_location_at_a_replica_becomes_a_reference(location: bytes, told: bytes) -> None:
    assert reference(location, OWN) == told


@pytest.mark.parametrize(
    "location",
    [
        b"/items/",
        b"items/",
        b"?q",
        b"",
        b"http://svc:8001/x",
        b"http://svc/x",
        b"http://svc:8000.evil.test/x",
        b"http://svc:8000@evil.test/x",
        b"http://user@svc:8000/x",
        b"https://pay.example.com/x",
        b"ftp://svc:8000/x",
        b"mailto:svc:8000",
        b"x//svc:8000/y",
    ],
)
def test_every_other_location_stays_as_it_is(location: bytes) -> None:
    assert reference(location, OWN) == location


@given(st.text(st.sampled_from("/\\\t.?#@:abev%")))
def test_it_never_leads_to_another_host(rest: str) -> None:
    told = reference(b"http://b/" + rest.encode(), OWN).decode()
    # As browsers read it (WHATWG URL): tabs are nothing, a backslash is a slash.
    seen = told.replace("\t", "").replace("\\", "/")
    assert not seen.startswith("//")
    assert urlsplit(urljoin("https://api.example.com/v1/items", seen)).netloc == "api.example.com"
