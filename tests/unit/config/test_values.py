"""Parsers of single values: what is accepted, what is refused and how that is said."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel.config import KeySource
from kernel.config.urls import (
    ADDRESS,
    HOST,
    HOST_PATTERN,
    KEY_SOURCE,
    ORIGIN,
    REPLICAS,
    SERVICE_URL,
    STORE_URL,
)
from kernel.config.values import (
    FLAG,
    NETWORK,
    WORKERS,
    Kind,
    choice,
    integer,
    listed,
    number,
    size,
    size_text,
    usable_cpus,
)

EVERY_KIND: list[Kind[Any]] = [
    *(
        ADDRESS,
        HOST,
        HOST_PATTERN,
        KEY_SOURCE,
        ORIGIN,
        REPLICAS,
        SERVICE_URL,
        STORE_URL,
        FLAG,
        NETWORK,
        WORKERS,
    ),
    *(integer(0, 99), number(0, 99), size(0, 99), choice("a", "b"), listed(NETWORK)),
]


@pytest.mark.parametrize("kind", EVERY_KIND, ids=lambda kind: kind.title)
@given(text=st.text() | st.text("htps:/[]@.*-_0123456789abcdefu,?#%", max_size=40))
def test_any_text_is_parsed_or_refused_with_a_printable_message(kind: Kind[Any], text: str) -> None:
    message = ""
    try:
        kind.parse(text)
    except ValueError as error:
        message = str(error)
    assert message.isprintable()
    assert len(message) < 300


@given(st.integers(-(10**12), 10**12))
def test_integer_reads_what_was_written(value: int) -> None:
    assert integer(-(10**12), 10**12).parse(str(value)) == value


@pytest.mark.parametrize("text", ["", "1_000", "0x10", "1.0", "१२", "1 2", "1e3", "--1", "9" * 30])
def test_integer_refuses(text: str) -> None:
    with pytest.raises(ValueError, match="not a whole number"):
        integer(0, 10**20).parse(text)


def test_integer_says_the_range() -> None:
    with pytest.raises(ValueError, match="70000 is not between 1 and 65535"):
        integer(1, 65535).parse("70000")


@given(st.decimals(0, 10**6, places=3))
def test_number_reads_decimals(value: Any) -> None:
    assert number(0, 10**6).parse(str(value)) == float(value)


@pytest.mark.parametrize("text", ["nan", "inf", "1e3", "1,5", "", ".", "0x1", "1_0"])
def test_number_refuses(text: str) -> None:
    with pytest.raises(ValueError, match="not a number"):
        number(0, 10).parse(text)


@given(st.integers(1, 1024**4))
def test_size_reads_back_what_size_text_writes(count: int) -> None:
    assert size(0, 1024**4).parse(size_text(count)) == count


@pytest.mark.parametrize(
    ("text", "count"),
    [("10MiB", 10 * 1024**2), ("10 mib", 10 * 1024**2), ("2KiB", 2048), ("77", 77), ("5B", 5)],
)
def test_size_takes_units(text: str, count: int) -> None:
    assert size(0, 1024**3).parse(text) == count


@pytest.mark.parametrize("text", ["10MB", "ten", "-1", "1.5MiB", "MiB"])
def test_size_refuses(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size"):
        size(0, 1024**3).parse(text)


@pytest.mark.parametrize(
    ("text", "value"), [("TRUE", True), ("on", True), ("1", True), ("No", False), ("0", False)]
)
def test_flag_reads(text: str, value: bool) -> None:
    assert FLAG.parse(text) is value


def test_flag_refuses_what_is_neither() -> None:
    with pytest.raises(ValueError, match="'maybe' is neither true nor false"):
        FLAG.parse("maybe")


@given(st.ip_addresses())
def test_network_reads_addresses(address: Any) -> None:
    assert NETWORK.parse(str(address)) == ipaddress.ip_network(address)


@given(st.ip_addresses(v=4), st.integers(0, 32))
def test_network_with_host_bits_names_the_network_that_is_meant(address: Any, prefix: int) -> None:
    meant = ipaddress.ip_network((address, prefix), strict=False)
    text = f"{address}/{prefix}"
    if meant.network_address == address:
        assert NETWORK.parse(text) == meant
    else:
        with pytest.raises(ValueError, match=f"write {meant}"):
            NETWORK.parse(text)


@pytest.mark.parametrize("text", ["10.0.0.0/33", "10.0.0", "example.com", "", "1.2.3.4/"])
def test_network_refuses(text: str) -> None:
    with pytest.raises(ValueError, match="not an IP address or CIDR network"):
        NETWORK.parse(text)


def test_lists_drop_blanks_and_doubles_and_keep_the_order() -> None:
    assert listed(HOST).parse(" b.example ,, a.example,B.example, ") == ("b.example", "a.example")
    assert listed(HOST).parse(" , ") == ()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("https://App.Example.com", "https://app.example.com"),
        ("https://app.example.com:443", "https://app.example.com"),
        ("http://localhost:5173", "http://localhost:5173"),
        ("http://[::1]:80", "http://[::1]"),
        ("https://*.example.com", "https://*.example.com"),
        ("https://*.example.com:8443", "https://*.example.com:8443"),
        ("https://example.com/", "https://example.com"),
        ("*", "*"),
    ],
)
def test_origin_is_kept_as_browsers_send_it(text: str, value: str) -> None:
    assert ORIGIN.parse(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "example.com",
        "https://",
        "https://*.com",
        "https://*",
        "https://*example.com",
        "https://a.*.example.com",
        "https://*.*.example.com",
        "https://*.127.0.0.1",
        "https://example.com/path",
        "https://example.com?",
        "https://user@example.com",
        "https://example.com:0",
        "https://example.com:",
        "https://exa mple.com",
        "https://example.com\\@evil.test",
        "ftp://example.com",
        "null",
        "https://exämple.com",
    ],
)
def test_origin_refuses(text: str) -> None:
    with pytest.raises(ValueError, match=r"URL|origin|more than|too much"):
        ORIGIN.parse(text)


@pytest.mark.parametrize(
    ("text", "urls"),
    [
        ("http://auth:8000", ("http://auth:8000",)),
        ("http://auth:8000/", ("http://auth:8000",)),
        ("HTTP://Auth_1", ("http://auth_1",)),
        ("http://a:1, https://b ,unix:///run/c.sock", ("http://a:1", "https://b", "unix:///run/c.sock")),
        ("http://[fd00::1]:8000", ("http://[fd00::1]:8000",)),
    ],
)
def test_replicas_read(text: str, urls: tuple[str, ...]) -> None:
    assert REPLICAS.parse(text) == urls


@pytest.mark.parametrize(
    "text",
    [
        "auth:8000",
        "http://auth:99999",
        "http://auth:port",
        "http://",
        "http://auth/base",
        "http://auth?x=1",
        "http://auth#x",
        "http://user:hunter2@auth",
        "unix://relative/path",
        "unix:///",
        "http://-auth",
        ",",
        "http:auth",
    ],
)
def test_replicas_refuse_and_never_quote_a_password(text: str) -> None:
    with pytest.raises(ValueError, match=r"URL|more than") as refused:
        REPLICAS.parse(text)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    "text",
    [
        "redis://redis",
        "rediss://:secret@redis:6380/2",
        "unix:///run/redis.sock?db=1",
        "redis+sentinel://a:1,b:2/main/0",
        "rediss+cluster://a,b,c",
    ],
)
def test_store_url_accepts_every_form(text: str) -> None:
    assert STORE_URL.parse(text) == text


@pytest.mark.parametrize(
    "text", ["redis:6379", "http://hunter2@redis", "redis://", "redis://hun ter2@x", "hunter2"]
)
def test_store_url_refuses_without_quoting(text: str) -> None:
    with pytest.raises(ValueError, match="the URL") as refused:
        STORE_URL.parse(text)
    assert "hunter2" not in str(refused.value)


def test_key_source_may_be_bound_to_an_issuer() -> None:
    url = "https://auth.example.com/jwks.json?v=1"
    assert KEY_SOURCE.parse(url) == KeySource(url)
    assert KEY_SOURCE.parse(f"bakery-auth={url}") == KeySource(url, "bakery-auth")


@pytest.mark.parametrize(
    ("text", "value"), [("localhost", "127.0.0.1"), ("0.0.0.0", "0.0.0.0"), ("::", "::"), ("::1", "::1")]
)
def test_bind_address_reads(text: str, value: str) -> None:
    assert ADDRESS.parse(text) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [("API.example.com", "api.example.com"), ("*.example.com", "*.example.com"), ("::1", "[::1]")],
)
def test_served_host_is_kept_as_it_is_compared(text: str, value: str) -> None:
    assert HOST_PATTERN.parse(text) == value


@pytest.mark.parametrize(
    "text", ["api.example.com:443", "https://api.example.com", "*", "a..b", "*.1.2.3.4", ""]
)
def test_served_host_refuses(text: str) -> None:
    with pytest.raises(ValueError, match="is not a host name"):
        HOST_PATTERN.parse(text)


def test_workers_auto_counts_the_usable_cpus() -> None:
    assert WORKERS.parse("auto") == usable_cpus() >= 1
    assert WORKERS.parse("3") == 3


def test_a_containers_quota_bounds_the_cpus(tmp_path: Path) -> None:
    quota = tmp_path / "cpu.max"
    quota.write_text("50000 100000\n")
    assert usable_cpus(str(quota)) == 1
    quota.write_text("max 100000\n")
    assert usable_cpus(str(quota)) == usable_cpus(str(tmp_path / "absent"))
