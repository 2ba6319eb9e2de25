from __future__ import annotations

import re
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel.telemetry.trace import RequestIds, Tracer, sound_state

VALID = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
SHAPE = re.compile(rb"00-[0-9a-f]{32}-[0-9a-f]{16}-0[0-3]")


def test_request_ids_are_distinct_version_4_uuids_over_many_batches() -> None:
    ids = [RequestIds().new()[0] for _ in range(3)]
    new = RequestIds().new
    ids += [new()[0] for _ in range(1000)]
    assert len(set(ids)) == len(ids)
    for text in ids:
        parsed = uuid.UUID(text)
        assert (str(parsed), parsed.version, parsed.variant) == (text, 4, uuid.RFC_4122)


def test_the_variant_takes_all_its_four_values() -> None:
    new = RequestIds().new
    assert {new()[0][19] for _ in range(500)} == set("89ab")


def test_child_keeps_the_trace_and_flags_with_a_span_of_our_own() -> None:
    tracer = Tracer()
    first, second = tracer.child(VALID), tracer.child(VALID)
    assert first is not None
    assert second is not None
    assert first[:36] == VALID[:36]
    assert first[-3:] == b"-01"
    assert len({VALID[36:52], first[36:52], second[36:52]}) == 3


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"00",
        VALID[:-1],
        VALID + b"0",
        VALID + b"-",
        VALID + b"-more",
        VALID + b"\n",
        b" " + VALID,
        VALID.upper(),
        VALID + b"," + VALID,
        VALID + b", " + VALID,
        b"ff" + VALID[2:],
        b"0g" + VALID[2:],
        b"00-" + b"0" * 32 + VALID[35:],
        VALID[:36] + b"0" * 16 + VALID[52:],
        VALID.replace(b"-", b"_"),
        b"01" + VALID[2:] + b"more",
        b"01" + VALID[2:] + b"-m ore",
        VALID.replace(b"a", b"\xe9"),
    ],
)
def test_a_traceparent_that_is_not_exactly_right_is_refused(header: bytes) -> None:
    assert Tracer().child(header) is None


@pytest.mark.parametrize("header", [b"01" + VALID[2:], b"cc" + VALID[2:] + b"-what-the-future-brings"])
def test_later_versions_are_read_and_answered_as_version_00(header: bytes) -> None:
    child = Tracer().child(header)
    assert child is not None
    assert SHAPE.fullmatch(child)
    assert child[2:36] == VALID[2:36]


@pytest.mark.parametrize(("sent", "passed"), [(b"00", b"00"), (b"03", b"03"), (b"ff", b"03"), (b"fe", b"02")])
def test_flags_without_a_meaning_are_set_to_zero(sent: bytes, passed: bytes) -> None:
    child = Tracer().child(VALID[:-2] + sent)
    assert child is not None
    assert child[-2:] == passed


@given(
    st.binary(max_size=70)
    | st.from_regex(SHAPE)
    | st.from_regex(rb"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}.?")
)
def test_whatever_comes_only_a_well_formed_traceparent_goes_out(header: bytes) -> None:
    child = Tracer().child(header)
    assert child is None or SHAPE.fullmatch(child)


def test_a_new_trace_carries_the_request_id() -> None:
    new = RequestIds().new
    spans = set()
    for _ in range(200):
        request_id, raw, trace = new()
        assert raw == request_id.encode()
        for started in (trace, Tracer().start(request_id)):
            assert SHAPE.fullmatch(started)
            assert started[3:35].decode() == request_id.replace("-", "")
            spans.add(started[36:52])
    assert len(spans) == 400


@given(st.text(alphabet="0123456789abcdefABCDEFxyz._-", min_size=8, max_size=128))
def test_any_request_id_starts_a_valid_trace(request_id: str) -> None:
    started = Tracer().start(request_id)
    assert SHAPE.fullmatch(started)
    assert Tracer().child(started) is not None


def test_a_request_id_of_zeros_is_no_trace_id() -> None:
    assert Tracer().child(Tracer().start("0" * 32)) is not None


# As https://github.com/w3c/trace-context/tree/main/test has them.
@pytest.mark.parametrize(
    ("state", "passes"),
    [
        (b"foo=1,bar=2", True),
        (b"foo=1 \t , \t bar=2, \t baz=3", True),
        (b"foo=1,", True),
        (b"foo=1,foo=2", True),
        (b"t@v=1", True),
        (b"z" * 256 + b"=1", True),
        (b"t" * 241 + b"@" + b"v" * 14 + b"=1", True),
        (b"a/b*c-d_e=!~ +:", True),
        (b"1key=v", True),
        (b"foo=" + b"x" * 256, True),
        (b",".join(b"k%d=v" % number for number in range(32)), True),
        (b"", False),
        (b" , ", False),
        (b"foo", False),
        (b"=1", False),
        (b"foo=", False),
        (b"foo =1", False),
        (b"FOO=1", False),
        (b"foo.bar=1", False),
        (b"foo@=1,bar=2", False),
        (b"@foo=1,bar=2", False),
        (b"foo@@bar=1", False),
        (b"foo@bar@baz=1", False),
        (b"foo=bar=baz", False),
        (b"foo=caf\xe9", False),
        (b"foo=1,bad", False),
        (b"z" * 257 + b"=1", False),
        (b"t" * 242 + b"@v=1", False),
        (b"t@" + b"v" * 15 + b"=1", False),
        (b"foo=" + b"x" * 257, False),
        (b",".join(b"k%d=v" % number for number in range(33)), False),
    ],
)
def test_a_tracestate_is_passed_on_whole_or_not_at_all(state: bytes, passes: bool) -> None:
    assert sound_state(state) is passes
