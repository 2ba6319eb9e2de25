"""Credentials in queries and subprotocols: what is taken out, and that nothing else is touched."""

from __future__ import annotations

from urllib.parse import quote_from_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel.http.credentials import BEARER, split_protocols, split_query

PARTS = st.lists(st.binary(max_size=12).map(lambda raw: raw.replace(b"&", b"")))
NAMES = st.text(alphabet="abcdef.-_0123456789", min_size=1, max_size=10)


def is_credential(part: bytes) -> bool:
    return bool(split_query(part).tickets or split_query(part).tokens)


@given(PARTS)
def test_what_is_no_credential_stays_byte_for_byte(parts: list[bytes]) -> None:
    query = b"&".join(part for part in parts if not is_credential(part))
    assert split_query(query) == ([], [], query)


@given(PARTS, st.sampled_from([b"ticket", b"token"]), st.binary(max_size=20), st.data())
def test_a_credential_is_found_anywhere_and_leaves_no_trace(
    parts: list[bytes], name: bytes, value: bytes, data: st.DataObject
) -> None:
    others = [part for part in parts if not is_credential(part)]
    at = data.draw(st.integers(0, len(others)))
    # Some of its letters percent-encoded, as nobody but somebody hiding it would.
    spelled = b"".join(b"%%%02x" % byte if data.draw(st.booleans()) else bytes([byte]) for byte in name)
    encoded = spelled + b"=" + quote_from_bytes(value).encode()
    found = split_query(b"&".join([*others[:at], encoded, *others[at:]]))
    assert (found.tickets, found.tokens) == (([value], []) if name == b"ticket" else ([], [value]))
    assert found.rest == b"&".join(others)


@pytest.mark.parametrize(
    ("query", "tickets", "tokens", "rest"),
    [
        (b"ticket=a", [b"a"], [], b""),
        (b"severity=high&ticket=a&types=stock", [b"a"], [], b"severity=high&types=stock"),
        (b"a&&token=x.y&b=", [], [b"x.y"], b"a&&b="),
        (b"ticket", [b""], [], b""),
        (b"ticket=", [b""], [], b""),
        (b"ticket=a&ticket=b&token=c", [b"a", b"b"], [b"c"], b""),
        (b"my_token=a&tickets=b&Token=c", [], [], b"my_token=a&tickets=b&Token=c"),
        (b"q=a;token=b", [], [], b"q=a;token=b"),
        (b"%74oken=a&%74icket=b", [b"b"], [b"a"], b""),
        (b"%zz=a&%=b", [], [], b"%zz=a&%=b"),
    ],
)
def test_queries(query: bytes, tickets: list[bytes], tokens: list[bytes], rest: bytes) -> None:
    assert split_query(query) == (tickets, tokens, rest)


@given(st.lists(NAMES.filter(lambda name: name != BEARER), max_size=5), NAMES, st.data())
def test_the_token_follows_bearer_and_the_others_keep_their_order(
    others: list[str], token: str, data: st.DataObject
) -> None:
    if token == BEARER:
        return
    assert split_protocols(others) == (None, others)
    at = data.draw(st.integers(0, len(others)))
    assert split_protocols([*others[:at], BEARER, token, *others[at:]]) == (token.encode(), others)


@given(st.lists(st.text(max_size=8) | st.just(BEARER), max_size=6))
def test_no_offer_raises_anything_but_a_value_error(offered: list[str]) -> None:
    before = list(offered)
    try:
        token, others = split_protocols(offered)
    except ValueError:
        assert BEARER in offered
    else:
        assert BEARER not in others
        assert (token is None) == (BEARER not in offered)
    assert offered == before


@pytest.mark.parametrize(
    "offered",
    [
        ["bearer"],
        ["v1", "bearer"],
        ["bearer", "bearer"],
        ["bearer", "a", "bearer", "b"],
        ["bearer", "a", "bearer"],
        ["bearer", "\x80"],
        ["bearer", "tok\xe9n"],
    ],
)
def test_an_offer_without_one_sound_token_is_refused(offered: list[str]) -> None:
    with pytest.raises(ValueError, match="bearer"):
        split_protocols(offered)


def test_bearer_is_a_name_like_any_other_in_another_case() -> None:
    assert split_protocols(["Bearer", "x"]) == (None, ["Bearer", "x"])
