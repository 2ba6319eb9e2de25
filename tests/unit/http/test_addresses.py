"""Whose address a request has, when proxies stand in between."""

from __future__ import annotations

import ipaddress
from time import process_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel.http.addresses import Peers, address_key, canonical, forwarded_client, forwarded_elements

TRUSTED = Peers([ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("fd00::/8")])


@pytest.mark.parametrize(
    ("chain", "client"),
    [
        (b"203.0.113.7", "203.0.113.7"),
        (b"198.51.100.1, 203.0.113.7", "203.0.113.7"),
        (b"198.51.100.1, 203.0.113.7, 10.1.1.1", "203.0.113.7"),
        (b"10.1.1.1", "10.1.1.1"),
        (b"203.0.113.7:4711", "203.0.113.7"),
        (b"[2001:db8::1]:443", "2001:db8::1"),
        (b"2001:db8::1", "2001:db8::1"),
        (b"garbage", "unknown"),
        (b"203.0.113.7, unknown, 10.1.1.1", "unknown"),
        (b"203.0.113.7, _hidden", "unknown"),
        (b"203.0.113.7, , 10.1.1.1,", "203.0.113.7"),
        (b"", "10.9.9.9"),
        (b"::ffff:203.0.113.8", "203.0.113.8"),
        (b"[::ffff:203.0.113.8]:80", "203.0.113.8"),
        (b"::ffff:10.1.1.1", "10.1.1.1"),
        (b"203.0.113.7, ::FFFF:10.1.1.1", "203.0.113.7"),
        (b"203.0.113.7:_hidden", "203.0.113.7"),
        (b'fe80::1%x; y "z', "unknown"),
        (b"fe80::1%eth0", "unknown"),
        (b"[fe80::1%eth0]", "unknown"),
        (b"[10.0.0.1", "unknown"),
        (b"[10.0.0.1]", "unknown"),
        (b"10.0.0.1]", "unknown"),
        (b"[2001:db8::1]junk", "unknown"),
        (b"[2001:db8::1]:port", "unknown"),
        (b"203.0.113.7:80:80", "unknown"),
        (b"203.0.113.7:", "unknown"),
        (b'"203.0.113.7"', "unknown"),
    ],
)
def test_the_client_is_the_first_untrusted_hop_from_the_right(chain: bytes, client: str) -> None:
    assert forwarded_client("10.9.9.9", chain, TRUSTED) == client


def test_mapped_addresses_count_as_ipv4() -> None:
    assert "::ffff:10.0.0.1" in TRUSTED
    assert "::ffff:11.0.0.1" not in TRUSTED
    assert "fd00::1" in TRUSTED
    assert "not an address" not in TRUSTED
    written = Peers([ipaddress.ip_network("::ffff:10.0.0.0/104")])
    assert "10.1.2.3" in written
    assert "::ffff:10.1.2.3" in written
    assert "11.1.2.3" not in written


def test_forwarded_is_read_as_rfc_7239_writes_it() -> None:
    value = b'for=192.0.2.60;proto=http;by=203.0.113.43;host=a, For="[2001:db8:cafe::17]:4711";proto=https;Host="b.test:81"'
    assert forwarded_elements(value) == (b"192.0.2.60,[2001:db8:cafe::17]:4711", b"https", b"b.test:81")
    assert forwarded_elements(b"garbage;;==,,") == (b"unknown", b"", b"")
    assert forwarded_elements(b"") == (b"", b"", b"")


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (b"for=9.9.9.9;proto=https, for=203.0.113.5", (b"9.9.9.9,203.0.113.5", b"", b"")),
        (b"for=9.9.9.9;host=evil.test, for=203.0.113.5;proto=http", (b"9.9.9.9,203.0.113.5", b"http", b"")),
        (b"for=9.9.9.9, proto=https", (b"9.9.9.9,unknown", b"https", b"")),
        (b'for="9.9.9.9, for=203.0.113.5"', (b"unknown", b"", b"")),
        (b'for="203.0.113.5;proto=https"', (b"unknown", b"", b"")),
        (b'for=9.9.9.9;x="a,b;c\\"d";proto=https', (b"9.9.9.9", b"https", b"")),
        (b'for="203.0.113.\\5"', (b"203.0.113.5", b"", b"")),
        (b'for=203.0.113.5"', (b"unknown", b"", b"")),
        (b'for="203.0.113.5', (b"unknown", b"", b"")),
        (b'for="[2001:db8::1', (b"unknown", b"", b"")),
        (b"for=_hidden;proto=https", (b"unknown", b"https", b"")),
    ],
)
def test_only_the_nearest_proxy_s_element_tells_proto_and_host(
    value: bytes, told: tuple[bytes, bytes, bytes]
) -> None:
    assert forwarded_elements(value) == told


@given(
    st.lists(
        st.sampled_from([*map(bytes, zip(b'",;=\\ []')), b"for=", b"proto=https", b"9.9.9.9"]), max_size=14
    )
)
def test_any_forwarded_header_is_read(pieces: list[bytes]) -> None:
    chain, _, _ = forwarded_elements(b"".join(pieces))
    for entry in chain.split(b","):
        assert entry in {b"", b"unknown"} or set(entry) <= set(b"9.")
        assert forwarded_client("10.9.9.9", entry, TRUSTED) in {"10.9.9.9", "9.9.9.9", "unknown"}


@pytest.mark.parametrize("piece", [b'"\\', b'"', b';"\\', b',"\\'])
def test_no_forwarded_header_keeps_the_worker_busy(piece: bytes) -> None:
    began = process_time()
    forwarded_elements((piece * 16384)[:16384])
    assert process_time() - began < 1  # an open quote and a backslash at the end: 8 s


@pytest.mark.parametrize("address", ["::ffff:203.0.113.8", "203.0.113.8", "::ffff:cb00:7108"])
def test_a_mapped_address_is_written_as_ipv4(address: str) -> None:
    assert canonical(address) == "203.0.113.8"
    assert canonical("2001:db8::1") == "2001:db8::1"


@pytest.mark.parametrize(
    ("address", "key"),
    [
        ("203.0.113.7", "ip:203.0.113.7"),
        ("::ffff:203.0.113.7", "ip:203.0.113.7"),
        ("2001:db8:1:2:3:4:5:6", "ip:2001:db8:1:2::/64"),
        ("2001:DB8:1:2::", "ip:2001:db8:1:2::/64"),
        ("nonsense:", "ip:unknown"),
    ],
)
def test_whose_bucket_an_address_is(address: str, key: str) -> None:
    assert address_key(address) == key
