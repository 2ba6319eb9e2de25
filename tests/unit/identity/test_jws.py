"""Compact serialisation: one spelling per token."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel.identity.errors import TokenError
from kernel.identity.jws import decode_segment, parse, parse_head


@given(st.binary(min_size=1, max_size=400))
def test_every_value_decodes_from_its_canonical_spelling(value: bytes) -> None:
    assert decode_segment(base64.urlsafe_b64encode(value).rstrip(b"=")) == value


@given(st.binary(max_size=60))
def test_whatever_decodes_is_the_canonical_spelling_of_its_value(segment: bytes) -> None:
    try:
        value = decode_segment(segment)
    except ValueError:
        return
    assert base64.urlsafe_b64encode(value).rstrip(b"=") == segment


@given(st.text("ABCghwxyz0189-_Q", min_size=1, max_size=9))
def test_every_length_and_last_character_is_judged_like_the_reference(text: str) -> None:
    segment = text.encode()
    padded = segment + b"=" * (-len(segment) % 4)
    canonical = len(segment) % 4 != 1 and base64.urlsafe_b64encode(base64.urlsafe_b64decode(padded)) == padded
    if canonical:
        assert decode_segment(segment) == base64.urlsafe_b64decode(padded)
    else:
        with pytest.raises(ValueError, match="canonical"):
            decode_segment(segment)


# In the manner of Wycheproof's json_web_signature vectors on serialisation.
@pytest.mark.parametrize(
    "segment",
    [
        b"",
        b"A",
        b"AAAAA",
        b"YQ==",
        b"YQ=",
        b"YWI=",
        b"=",
        b"YQ\n",
        b" YQ",
        b"YR",
        b"YWJ",
        b"+A",
        b"/w",
        b"Y\0",
        b"\xc3\xa9",
    ],
)
def test_other_spellings_are_refused(segment: bytes) -> None:
    with pytest.raises(ValueError, match="canonical"):
        decode_segment(segment)
    for token in (b"e30.%b.YQ", b"e30.YQ.%b"):
        with pytest.raises(TokenError):
            parse(token % segment)
    with pytest.raises(TokenError):
        parse_head(segment)


def test_parts_of_a_token() -> None:
    compact = parse(b"e30.YWI.Yw")
    assert compact == (b"e30", b"e30.YWI", b"ab", b"c")
    assert parse_head(compact.head) == b"{}"
