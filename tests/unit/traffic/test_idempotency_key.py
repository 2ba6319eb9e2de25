"""Which requests are the same request under the same key, and whose keys are the same."""

from __future__ import annotations

import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel.identity.claims import Claims
from kernel.identity.identity import Identity
from kernel.traffic.idempotency_key import Keyed
from tests.support.exchanges import exchange

PARTS = st.binary(max_size=6)


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
