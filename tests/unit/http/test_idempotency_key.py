"""Which values are the same Idempotency-Key, and which are none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel.http import idempotency_key
from kernel.http.idempotency_key import parse
from kernel.http.problems import GatewayError

VISIBLE = "".join(chr(code) for code in range(0x21, 0x7F))
KEYS = st.text(VISIBLE, min_size=1, max_size=255)


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
    assert idempotency_key.given(headers) == []
    assert idempotency_key.given([*headers, (b"idempotency-key", b"yes")]) == [b"yes"]


@pytest.mark.parametrize("connection", [b"idempotency-key", b"close, Idempotency-Key"])
def test_one_that_ends_at_this_hop_is_refused(connection: bytes) -> None:
    with pytest.raises(GatewayError):
        parse([b"key"], connection)
    assert parse([b"key"], b"close") == b"key"
