"""The quick reader may leave a response to the full parser, but never understand it differently."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel.upstream.fast_response import FastResponseReader
from kernel.upstream.response import COMPLETE, HEAD, Response
from kernel.upstream.response_headers import ResponseHeaders

PLAIN = b"HTTP/1.1 200 OK\r\nDate: now\r\nX-A:  b \r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok"


def quick() -> FastResponseReader:
    return FastResponseReader(ResponseHeaders())


def parsed(data: bytes) -> Response:
    """What the full parser makes of `data`."""
    response = Response(quick())
    response.expect(head_only=False)
    response.stage = HEAD
    response.feed(data)
    return response


def agrees(reader: FastResponseReader, data: bytes) -> bool:
    """Whether the reader takes `data`; then the full parser must say the same."""
    first = reader.read(data)
    kept = first and (first[0], first[1].copy(), first[2])
    if first is not None:
        first[1].append((b"x-request-id", b"as the gateway does"))
    read = reader.read(data)  # from the memo, if that has it
    assert read == kept
    if read is None:
        return False
    status, headers, body = read
    full = parsed(data)
    assert full.error is None
    assert not full.dirty
    assert full.stage == COMPLETE
    assert full._keep_alive
    assert (full.status, full.headers, b"".join(full.chunks)) == (status, headers, body)
    return True


def test_a_plain_response_is_read() -> None:
    reader = quick()
    for _ in range(2):  # the second time from the memo
        assert agrees(reader, PLAIN)
    assert reader.read(PLAIN) == (200, [(b"date", b"now"), (b"x-a", b"b"), (b"content-length", b"2")], b"ok")


@pytest.mark.parametrize(
    "data",
    [
        PLAIN[:-1],
        PLAIN + b"!",
        PLAIN.replace(b"HTTP/1.1", b"HTTP/1.0"),
        PLAIN.replace(b"200 OK", b"204 No Content"),
        PLAIN.replace(b"200 OK", b"304 Not Modified"),
        PLAIN.replace(b"200 OK", b"100 Continue"),
        PLAIN.replace(b"200 OK", b"200"),
        PLAIN.replace(b"200 OK", b"2000 OK"),
        PLAIN.replace(b"keep-alive", b"close"),
        PLAIN.replace(b"keep-alive", b"X-A"),
        PLAIN.replace(b"Content-Length: 2", b"Content-Length: +2"),
        PLAIN.replace(b"Content-Length: 2", b"Content-Length: 2\r\nContent-Length: 2"),
        PLAIN.replace(b"Content-Length: 2", b"Transfer-Encoding: chunked\r\nContent-Length: 2"),
        PLAIN.replace(b"Content-Length: 2\r\n", b""),
        PLAIN.replace(b"Date: now", b"Date : now"),
        PLAIN.replace(b"Date: now", b"Date"),
        PLAIN.replace(b"Date: now", b": now"),
        PLAIN.replace(b"Date: now", b" folded"),
        PLAIN.replace(b"Date: now", b"Date: n\x00w"),
        PLAIN.replace(b"Date: now\r\n", b"Date: now\n"),
        PLAIN.replace(b"Date: now\r\n", b"Date: now\rX: y\r\n"),
        PLAIN.replace(b"Date: now\r\n", b"Date: now\r\n" * 80),
    ],
)
def test_anything_else_is_left_to_the_full_parser(data: bytes) -> None:
    reader = quick()
    assert agrees(reader, PLAIN)
    assert reader.read(data) is None


def test_a_thousand_different_lines_do_not_fill_the_memory() -> None:
    reader = quick()
    for number in range(10_000):
        assert agrees(reader, PLAIN.replace(b"now", b"%d" % number)) or number < 0
    assert len(reader._lines) <= 2048
    assert agrees(reader, PLAIN)


_names = st.sampled_from(
    [b"Date", b"X-A", b"content-length", b"Connection", b"Transfer-Encoding", b"Keep-Alive", b"x-\xe9", b""]
)
_values = st.sampled_from(
    [b"1", b"2", b" 2 ", b"02", b"keep-alive", b"close", b"chunked", b"a, b", b"\tx\t", b"\x7f", b"\xff", b""]
)


@given(
    st.sampled_from(
        [b"HTTP/1.1 200 OK", b"HTTP/1.1 404 ", b"HTTP/1.1 500 A\tB", b"HTTP/1.1 304 N", b"HTTP/1.0 200 OK"]
    ),
    st.lists(st.tuples(_names, _values), max_size=5),
    st.sampled_from([b"", b"o", b"ok", b"okk"]),
)
def test_random_responses_are_understood_alike(
    first: bytes, fields: list[tuple[bytes, bytes]], body: bytes
) -> None:
    head = b"\r\n".join([first, *(b"%b:%b" % pair for pair in fields)])
    agrees(quick(), head + b"\r\n\r\n" + body)


def test_a_known_head_says_nothing_of_another_body() -> None:
    reader = quick()
    assert agrees(reader, PLAIN)
    head = PLAIN[: -len(b"ok")]
    assert reader.read(head + b"no") == (
        200,
        [(b"date", b"now"), (b"x-a", b"b"), (b"content-length", b"2")],
        b"no",
    )
    for body in (b"", b"o", b"okk", b"okHTTP/1.1 200 OK\r\n\r\n"):
        assert reader.read(head + body) is None


def test_a_head_that_only_begins_like_the_last_is_another() -> None:
    reader = quick()
    assert agrees(reader, PLAIN)
    assert agrees(reader, PLAIN.replace(b"\r\n\r\n", b"\r\nX-B: more\r\n\r\n"))
    assert agrees(reader, PLAIN)
    assert reader.read(PLAIN[:-4]) is None
    assert reader.read(b"") is None


@given(st.integers(0, len(PLAIN) - 1), st.binary(max_size=3))
def test_a_damaged_response_is_never_understood_differently(at: int, damage: bytes) -> None:
    agrees(quick(), PLAIN[:at] + damage + PLAIN[at + 1 :])
