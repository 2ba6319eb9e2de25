"""Which client headers pass, and how the gateway's own lines are written."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel.http.headers import (
    CAPTURE,
    DROP,
    FORWARD,
    HOP_BY_HOP,
    TRUSTED,
    HeaderKinds,
    connection_options,
    encode_block,
)


def spellings(name: bytes) -> set[bytes]:
    """`name` with every mix of '-' and '_', in two cases."""
    parts = name.split(b"-")
    mixed = set()
    for joints in itertools.product(b"-_", repeat=len(parts) - 1):
        text = parts[0]
        for joint, part in zip(joints, parts[1:], strict=True):
            text += bytes([joint]) + part
        mixed |= {text, text.upper()}
    return mixed


@pytest.mark.parametrize(
    "name", sorted(TRUSTED | HOP_BY_HOP | {b"content-length", b"forwarded", b"x-forwarded-for"})
)
def test_no_spelling_of_a_trusted_or_framing_name_passes(name: bytes) -> None:
    kinds = HeaderKinds()
    for spelling in spellings(name):
        assert kinds[spelling] in {DROP, CAPTURE}
        if spelling != name:
            assert kinds[spelling] == DROP


@pytest.mark.parametrize(
    "name",
    [
        b"proxy",
        b"proxy-foo",
        b"x-forwarded-anything",
        b"x-forwarded-client-cert",
        b"x-http-method-override",
        b"x-method-override",
        b"x-original-url",
        b"x-real-ip",
        b"true-client-ip",
        b"cf-connecting-ip",
        b"x-cluster-client-ip",
    ],
)
def test_what_would_mislead_a_service_never_passes(name: bytes) -> None:
    kinds = HeaderKinds()
    assert {kinds[spelling] for spelling in spellings(name)} == {DROP}


def test_other_names_pass_and_the_memo_stays_bounded() -> None:
    kinds = HeaderKinds()
    for number in range(5000):
        assert kinds[b"x-custom-%d" % number] == FORWARD
    assert len(kinds) <= 1024


def test_connection_options_name_fields() -> None:
    assert connection_options(b"Keep-Alive, X-User-Id ,x-tenant-id,,close") == {b"x-user-id", b"x-tenant-id"}


@given(st.text(max_size=40))
def test_a_block_never_holds_a_line_more_than_it_was_given(value: str) -> None:
    try:
        block = encode_block([(b"x-user-id", value)])
    except ValueError:
        return
    assert block.count(b"\r\n") == 1
    assert block.endswith(b"\r\n")
    assert not any(byte < 0x20 for byte in block[:-2])
