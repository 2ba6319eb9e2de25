"""Store URLs: every documented form, and what a wrong one is told."""

from __future__ import annotations

import pytest
from redis.asyncio.connection import Connection, SSLConnection, UnixDomainSocketConnection

from kernel.store.address import Address, AddressError, parse, store_url, tls_flaw


def credentials(address: Address) -> tuple[object, object, object]:
    return address.options.get("username"), address.options.get("password"), address.options.get("db", 0)


@pytest.mark.parametrize(
    ("url", "kind", "endpoints", "tls"),
    [
        ("redis://cache", "single", (("cache", 6379),), False),
        ("redis://cache:7000/3", "single", (("cache", 7000),), False),
        ("redis://[::1]:7000", "single", (("::1", 7000),), False),
        ("rediss://cache", "single", (("cache", 6379),), True),
        ("unix:///run/redis.sock", "single", ("/run/redis.sock",), False),
        ("redis+sentinel://a,b:1/mymaster", "sentinel", (("a", 26379), ("b", 1)), False),
        ("rediss+sentinel://a/mymaster/2", "sentinel", (("a", 26379),), True),
        ("redis+cluster://a:1,b:2", "cluster", (("a", 1), ("b", 2)), False),
        ("rediss+cluster://a", "cluster", (("a", 6379),), True),
    ],
)
def test_every_form_gives_its_servers(
    url: str, kind: str, endpoints: tuple[tuple[str, int] | str, ...], tls: bool
) -> None:
    address = parse(url)
    assert (address.kind, address.endpoints, address.tls) == (kind, endpoints, tls)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://cache/3", (None, None, 3)),
        ("redis://:p%40ss@cache?db=4", (None, "p@ss", 4)),
        ("redis://joe:secret@cache", ("joe", "secret", 0)),
        ("unix://joe:secret@/run/s?db=2", ("joe", "secret", 2)),
        ("unix:///run/s?password=secret", (None, "secret", 0)),
        ("redis+sentinel://:x@a/mymaster/5", (None, "x", 5)),
        ("redis+cluster://joe:x@a,b", ("joe", "x", 0)),
    ],
)
def test_credentials_and_database_are_taken_from_anywhere_they_may_stand(
    url: str, expected: tuple[object, object, object]
) -> None:
    assert credentials(parse(url)) == expected


def test_sentinels_have_a_service_and_a_password_of_their_own() -> None:
    address = parse("redis+sentinel://:data@a/mymaster?sentinel_password=watch")
    assert address.service == "mymaster"
    assert address.sentinel_options == {"password": "watch"}
    assert address.options["password"] == "data"


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("http://cache", "the scheme is none of"),
        ("redis://", "host with an optional port"),
        ("redis://cache:port", "host with an optional port"),
        ("redis://cache/first", "not a database number"),
        ("redis://cache/1/2", "not a database number"),
        ("redis://a,b", "several hosts need"),
        ("redis://cache?timeout=3", "an option is unknown; there are"),
        ("redis://cache?ssl_cert_reqs=none", "need the rediss scheme"),
        ("unix://?db=1", "path of the socket is missing"),
        ("redis+sentinel://a:26379", "service name is missing"),
        ("redis+cluster://a/0", "no databases"),
        ("redis://[::1", "host with an optional port"),
        ("redis://a[b", "host with an optional port"),
        ("redis://cache:0", "host with an optional port"),
        ("redis://cache:70000", "host with an optional port"),
        ("redis://%00", "host with an optional port"),
        ("redis://cache/" + "9" * 5000, "not a database number"),
        ("redis://cache#1", "fragment"),
        ("rediss://cache?ssl_cert_reqs=maybe", "ssl_cert_reqs is none of"),
        ("unix:///" + "s" * 200, "more than 107 bytes"),
    ],
)
def test_a_wrong_url_is_told_what_is_wrong(url: str, complaint: str) -> None:
    with pytest.raises(AddressError, match=complaint):
        parse(url)


@pytest.mark.parametrize(
    "url", ["redis://joe:hunter2@h/1", "redis+sentinel://:hunter2@h/m?sentinel_password=hunter2"]
)
def test_no_password_is_shown(url: str) -> None:
    address = parse(url)
    assert "hunter2" not in f"{address} {address!r}"
    assert "h:" in str(address)


@pytest.mark.parametrize("mark", ["?", "/", "#", "@", "[", "]", ":", "%", "&", "="])
def test_a_password_that_is_not_encoded_is_taken_or_refused_but_never_quoted(mark: str) -> None:
    for url in (
        f"redis://:hun{mark}ter@cache",
        f"redis+sentinel://:hun{mark}ter@a/m",
        f"unix://:hun{mark}ter@/s",
    ):
        try:
            taken, said = parse(url).options["password"], "%3F"
        except AddressError as why:
            taken, said = f"hun{mark}ter", str(why)
        assert taken == f"hun{mark}ter"
        assert "hun" not in said
        assert "ter@" not in said
        assert "%3F" in said


def test_files_of_a_tls_address_are_looked_at() -> None:
    assert tls_flaw(parse("redis://cache")) == ""
    assert tls_flaw(parse("rediss://cache")) == ""
    assert "ssl_ca_certs cannot be used: no such file" in tls_flaw(parse("rediss://cache?ssl_ca_certs=/nope"))
    assert "cannot be used" in tls_flaw(parse("rediss+cluster://cache?ssl_ca_certs=/dev/null"))
    assert "cannot be used" in tls_flaw(
        parse("rediss+sentinel://cache/m?ssl_certfile=/nope&ssl_keyfile=/nope")
    )


def test_the_connection_class_follows_the_form() -> None:
    plain, tls, unix = parse("redis://h/2"), parse("rediss://h?ssl_cert_reqs=none"), parse("unix:///s")
    assert type(plain.connection(("h", 1), 0.1)) is Connection
    assert type(tls.connection(("h", 1), 0.1)) is SSLConnection
    assert type(unix.connection("/s", 0.1)) is UnixDomainSocketConnection
    assert plain.connection(("h", 1), 0.1).db == 2
    assert plain.connection(("h", 1), 0.1).protocol == 3


def test_separate_variables_spell_a_url_that_parses_back() -> None:
    assert store_url("redis://given", "host", 1, 0, None) == "redis://given"
    address = parse(store_url(None, "host", 6380, 2, "p@ss/w:rd"))
    assert address.endpoints == (("host", 6380),)
    assert credentials(address) == (None, "p@ss/w:rd", 2)
    assert parse(store_url("", "::1", 6379, 0, None)).endpoints == (("::1", 6379),)
