"""The form of API keys: one spelling, a checksum that anybody can check, and nothing of one where text is written down."""

from __future__ import annotations

import re
from binascii import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel.http.headers import HeaderKinds
from kernel.http.problems import BAD_REQUEST
from kernel.primitives import api_key
from kernel.primitives.tenant_id import canonical
from kernel.telemetry.redact import clean_headers, clean_path, clean_text

KEY = "bkgw_" + "8Zq1TtBkAbCdEfGhIjKlMnOpQrStUv" + "2qEwoh"
ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def test_keys_are_made_as_documented() -> None:
    made = {api_key.new_key(api_key.new_id()) for _ in range(200)}
    assert len(made) == 200
    for key in made:
        assert re.fullmatch(api_key.PATTERN, key)
        assert api_key.id_of(key.encode()) == key[5:13]
        number = 0
        for digit in key[35:]:
            number = number * 62 + ALPHABET.index(digit)
        assert number == crc32(key[5:35].encode())
    # Every digit is as likely as any other: none is missing in so many.
    assert set("".join(key[5:35] for key in made)) == set(ALPHABET)


def test_the_checksum_is_this_one_for_ever() -> None:
    body = KEY[5:35].encode()
    assert api_key.checksum(b"") == "000000"
    assert f"bkgw_{body.decode()}{api_key.checksum(body)}" == KEY
    assert api_key.id_of(KEY.encode()) == "8Zq1TtBk"


@given(st.integers(0, 40), st.sampled_from(ALPHABET + "_-. é"))
def test_one_changed_character_makes_it_none(place: int, other: str) -> None:
    changed = KEY[:place] + other + KEY[place + 1 :]
    assert (api_key.id_of(changed.encode()) is None) == (changed != KEY)


@given(st.binary(max_size=64))
def test_junk_is_no_key(junk: bytes) -> None:
    assert api_key.id_of(junk) is None


@pytest.mark.parametrize(
    "other",
    [" " + KEY, KEY + " ", KEY + "\n", KEY.upper(), KEY.lower(), KEY[:-1], KEY + "0", KEY.replace("_", "-")],
)
def test_there_is_one_spelling(other: str) -> None:
    assert api_key.id_of(other.encode()) is None


@given(st.text(max_size=30), st.text(max_size=30), st.integers(9, 41))
def test_no_text_that_is_written_down_has_a_key(before: str, after: str, length: int) -> None:
    secret = KEY[:length]
    text = before + secret + after
    for written in (
        clean_text(text),
        clean_path(text.encode("utf-8", "replace")),
        clean_headers([(b"x-anything", text.encode("utf-8", "replace"))])["x-anything"],
        BAD_REQUEST(text).encode(text.encode("utf-8", "replace"), "id").decode(),
    ):
        assert secret not in written


def test_a_key_in_a_query_is_seen_however_its_underscore_is_written() -> None:
    for query in (KEY, f"a=1&k={KEY}", f"k={KEY.replace('_', '%5f')}", f"k={KEY.replace('_', '%5F')}&b"):
        assert api_key.within(query.encode())
    assert not api_key.within(f"k={KEY[:40]}".encode())


@pytest.mark.parametrize("name", [b"x-api-key", b"x_api_key", b"x-api_key"])
def test_the_header_goes_to_no_service(name: bytes) -> None:
    captured, lines, _ = HeaderKinds().sort([(name, KEY.encode()), (b"accept", b"*/*")])
    assert lines == [b"accept: */*\r\n"]
    assert captured == ({b"x-api-key": KEY.encode()} if name == b"x-api-key" else {})


def test_a_key_is_no_tenant() -> None:
    with pytest.raises(ValueError, match="not a tenant id"):
        canonical(KEY)
