"""Which values are the same key, and which requests the same request."""

from __future__ import annotations

import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel.http.problems import GatewayError
from kernel.identity.claims import Claims
from kernel.identity.identity import Identity
from kernel.traffic.idempotency_key import Keyed, parse
from kernel.traffic.idempotency_key import given as given_in
from tests.support.exchanges import exchange

VISIBLE = "".join(chr(code) for code in range(0x21, 0x7F))
KEYS = st.text(VISIBLE, min_size=1, max_size=255)
PARTS = st.binary(max_size=6)


def quoted(key: str) -> bytes:
    """As RFC 9651 section 4.1.6 has it."""
    return b'"%b"' % key.replace("\\", "\\\\").replace('"', '\\"').encode()


def refused(*values: bytes) -> bool:
    with pytest.raises(GatewayError) as raised:
        parse(values)
    return raised.value.problem.kind.code == "idempotency-key-invalid"


@given(KEYS)
def test_a_quoted_key_is_what_it_quotes(key: str) -> None:
    assert parse([quoted(key)]) == key.encode()
    assert parse([b" \t" + quoted(key) + b"\t "]) == key.encode()


@given(KEYS.filter(lambda key: not key.startswith('"')))
def test_both_spellings_are_one(key: str) -> None:
    assert parse([key.encode()]) == parse([quoted(key)]) == key.encode()


@pytest.mark.parametrize(
    "parameters",
    [
        ";a",
        "; a=1",
        ';a="x y;\\""',
        ";a=?1;b=tok/en",
        ";*x=:aGk=:",
        ";t=@1659578233",
        ";n=-1.5",
        ';d=%"f%c3%bc"',
    ],
)
def test_parameters_have_no_meaning(parameters: str) -> None:
    assert parse([b'"key"' + parameters.encode()]) == b"key"


@pytest.mark.parametrize(
    "value",
    [
        b"", b" ", b'""', b'"', b'"a', b'"a"b', b'"a";', b'"a";A=1', b'"a"; a=', b'"a b"', b"a b", b"a\tb", b"\x00", b"a\x7f",
        b"\xc3\xbc", b'"\xc3\xbc"', b'"a\\b"', b'"a\\"', b"k" * 256, b'"' + b"k" * 256 + b'"', b"a, b", b'"a", "b"',
    ],
)  # fmt: skip
def test_what_is_no_key_is_refused(value: bytes) -> None:
    assert refused(value)


@given(st.binary(max_size=300))
def test_whatever_is_sent_is_a_key_of_visible_ascii_or_refused(value: bytes) -> None:
    try:
        key = parse([value])
    except GatewayError:
        return
    assert 1 <= len(key) <= 255
    assert set(key.decode()) <= set(VISIBLE)


@given(KEYS, KEYS)
def test_a_repeated_one_is_refused_in_lines_and_joined(one: str, two: str) -> None:
    assert refused(one.encode(), two.encode())
    assert refused(b"%b, %b" % (quoted(one), quoted(two)))


def test_the_field_is_found_by_its_name_alone() -> None:
    headers = [(b"idempotency_key", b"no"), (b"x-idempotency-key", b"no")]
    assert given_in(exchange(headers=headers)) == []
    assert given_in(exchange(headers=[*headers, (b"idempotency-key", b"yes")])) == [b"yes"]


def keyed(key: bytes = b"k", body: bytes = b"", **changes: Any) -> Keyed:
    """`changes` are of the caller (user_id, service, tenant, ...) or of the scope."""
    caller = {
        name: changes.pop(name)
        for name in ("kind", "user_id", "service", "demo_session_id")
        if name in changes
    }
    tenant = changes.pop("tenant", "t")
    x = exchange(**{"method": "POST", **changes})
    x.identity = Identity(Claims(0, 0, "i"), "test", **{"kind": "access", "user_id": "u", **caller})
    x.tenant = tenant
    return Keyed(x, key, body)


@pytest.mark.parametrize(
    "change",
    [
        {"user_id": "v"}, {"tenant": "s"}, {"tenant": None}, {"kind": "service"}, {"service": "x"}, {"demo_session_id": "d"},
        {"key": b"l"}, {"user_id": "ut", "tenant": ""},
    ],
)  # fmt: skip
def test_whose_it_is_makes_it_another_key(change: dict[str, Any]) -> None:
    assert keyed(**change).name != keyed().name


@pytest.mark.parametrize(
    "change",
    [
        {"method": "PATCH"}, {"raw_path": b"/x"}, {"query_string": b"a"}, {"body": b"x"},
        {"headers": [(b"content-type", b"a/b")]}, {"headers": [(b"content-encoding", b"gzip")]},
        {"raw_path": b"", "query_string": b"/"},
    ],
)  # fmt: skip
def test_another_request_has_the_same_record_and_another_tag(change: dict[str, Any]) -> None:
    one, other = keyed(), keyed(**change)
    assert one.name == other.name
    assert one.tag != other.tag
    assert one.secret != other.secret


def test_the_same_request_is_the_same_whatever_else_it_says() -> None:
    one = keyed(headers=[(b"content-type", b"a/b"), (b"x-request-id", b"1")])
    two = keyed(headers=[(b"user-agent", b"z"), (b"content-type", b" a/b ")])
    assert (one.name, one.tag, one.secret) == (two.name, two.tag, two.secret)
    assert one.owner != two.owner


@given(st.lists(PARTS, min_size=5, max_size=5), st.lists(PARTS, min_size=5, max_size=5))
def test_no_two_requests_are_told_apart_by_where_their_parts_end_only(
    one: list[bytes], two: list[bytes]
) -> None:
    def of(parts: list[bytes]) -> Keyed:
        path, query, kind, coding, body = parts
        headers = [(b"content-type", kind), (b"content-encoding", coding)]
        return keyed(raw_path=path, query_string=query, headers=headers, body=body)

    # Optional whitespace is no part of a field's value.
    alike = [part.strip() if place in (2, 3) else part for place, part in enumerate(one)]
    others = [part.strip() if place in (2, 3) else part for place, part in enumerate(two)]
    assert (of(one).tag == of(two).tag) == (alike == others)
    joined = [b"".join(alike), b"", b"", b"", b""]
    assert (of(alike).tag == of(joined).tag) == (alike == joined)


def test_names_are_hexadecimal_and_tell_nothing() -> None:
    secret = keyed(b"customer-7")
    assert set(secret.name + secret.tag) <= set(string.hexdigits.lower())
    assert len(secret.name) == 64
