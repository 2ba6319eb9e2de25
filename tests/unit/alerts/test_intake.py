"""What is published becomes an alert or is malformed, and on the wire it is one event, whatever it contains."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kernel.alerts.client import ALL, Wants
from kernel.alerts.event import Event, block, decoded, expired_frame, id_frame, reset_frame
from kernel.alerts.intake import Malformed, parse
from kernel.store.alertlog import Position
from tests.support.eventstream import Message, Parser

CHANNEL = b"alerts:tenant:t-1"
HERE = Position(1, 2, 3)
# Half surrogate pairs, too.
_ANY_TEXT = st.text(st.characters(exclude_categories=()))


def event(document: Any) -> Event:
    return Event(HERE, parse(CHANNEL, json.dumps(document).encode(), 65536).payload)


def dispatched(frame: bytes) -> list[Message]:
    return list(Parser().feed(frame))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not-json"),
        (b"{", "not-json"),
        (b'{"alert_id": "a",}', "not-json"),
        (b'{"a": NaN}', "not-json"),
        (b'{"a": "\n"}', "not-json"),
        (b"\xef\xbb\xbf{}", "not-json"),
        (b"[]", "not-object"),
        (b"null", "not-object"),
        (b'"alert"', "not-object"),
        (b'{"a": "\xff"}', "not-utf8"),
        (b'{"a": "\xed\xa0\x80"}', "not-utf8"),
        (b'{"a": "' + b"x" * 65536 + b'"}', "too-large"),
    ],
)
def test_what_is_no_alert_is_malformed_and_says_why(data: bytes, reason: str) -> None:
    with pytest.raises(Malformed) as caught:
        parse(CHANNEL, data, 65536)
    assert str(caught.value) == reason


@pytest.mark.parametrize("opened", [b"[", b'{"a":', b'{"alert_id":', b'{"alert_id":"a","a":['])
def test_deep_nesting_is_malformed_or_passed_on(opened: bytes) -> None:
    # How deep is too deep is the interpreter's affair: Python 3.13 reads ten times the depth that 3.11 does.
    depth = 65000 // (len(opened) + 2)
    closed = b"".join({ord("["): b"]", ord("{"): b"}"}.get(byte, b"") for byte in reversed(opened))
    data = opened * depth + b"1" + closed * depth
    try:
        got: object = Event(HERE, parse(CHANNEL, data, 65536).payload).frame
    except Malformed as malformed:
        got = str(malformed)
    assert got == "too-deep" or got == block(b"alert", data, HERE)


@pytest.mark.parametrize("tenant", [b"", b"a b", b"a:b", b"*", b"x" * 65, b"\xff", b"a\n", "ñ".encode()])
def test_a_tenant_that_can_be_none_is_malformed(tenant: bytes) -> None:
    with pytest.raises(Malformed, match="tenant"):
        parse(b"alerts:tenant:" + tenant, b"{}", 65536)


@given(st.binary(max_size=200))
def test_no_message_does_more_than_be_malformed(data: bytes) -> None:
    try:
        parse(CHANNEL, data, 100)
    except Malformed as malformed:
        reason = str(malformed)
    else:
        reason = "not-object"
    assert reason in {"too-large", "not-utf8", "not-json", "not-object"}


@pytest.mark.parametrize(
    "data",
    [
        rb'{"message":"cut in an emoji \ud83d"}',
        rb'{"message":"\ude00\ud83d","alert_id":"a","severity":"LOW"}',
        rb'{"alert_id":"a \ud83d"}',
        rb'{"severity":"\ud83d","type":"\udfff"}',
        rb'{"\ud83d":1}',
        b'{"message":1E400}',
        b'{"severity":1E400,"type":-1e999,"alert_id":1E400}',
        b'{"alert_id":' + b"1" * 5000 + b"}",
    ],
)
@pytest.mark.parametrize("spaced", [False, True])
def test_whatever_json_allows_is_passed_on_byte_for_byte(data: bytes, spaced: bool) -> None:
    published = data.replace(b",", b" ,\r\n ").replace(b":", b"\t: ") + b"\n" if spaced else data
    first = parse(CHANNEL, published, 65536)
    assert Event(HERE, first.payload).frame == block(b"alert", data, HERE)
    assert first.key.encode().decode() == first.key
    assert parse(CHANNEL, data, 65536) == first


def test_half_a_character_spoils_no_other_member() -> None:
    alert = parse(CHANNEL, rb'{"message":"\ud83d", "alert_id":7, "severity":"HIGH", "type":"oven"}', 65536)
    assert alert.key == "7"
    assert Event(HERE, alert.payload) in Wants(frozenset({"high"}), frozenset({"oven"}))
    # Published twice, although the id is half a character: still one alert.
    ids = {parse(CHANNEL, rb'{"alert_id":"\ud83d","n":%d}' % n, 65536).key for n in range(3)}
    assert len(ids) == 1
    assert ids != {parse(CHANNEL, rb'{"alert_id":"\ud83c","n":0}', 65536).key}


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | _ANY_TEXT,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_ANY_TEXT, inner, max_size=3),
    ),
    st.sampled_from([None, 1, "\t"]),
)
def test_what_json_stringify_writes_is_an_alert_of_one_line(value: object, indent: int | str | None) -> None:
    document = {"value": value}
    frame = Event(HERE, parse(CHANNEL, json.dumps(document, indent=indent).encode(), 65536).payload).frame
    (message,) = dispatched(frame)
    assert frame.count(b"\n") == 4
    assert json.loads(message.data) == document


@pytest.mark.parametrize(
    ("published", "key"),
    [("a-1", "a-1"), (7, "7"), (-7, "-7"), ("x" * 256, "x" * 256), ("ñ\n", "ñ\n")],
)
def test_the_alert_id_is_its_key(published: object, key: str) -> None:
    assert parse(CHANNEL, json.dumps({"alert_id": published}).encode(), 65536).key == key


@pytest.mark.parametrize("published", [None, "", True, 1.5, [], {}, "x" * 257])
def test_without_a_usable_id_the_content_is_the_key(published: object) -> None:
    first = parse(CHANNEL, json.dumps({"alert_id": published, "n": 1}).encode(), 65536)
    again = parse(CHANNEL, json.dumps({"alert_id": published, "n": 1}, indent=3).encode(), 65536)
    other = parse(CHANNEL, json.dumps({"alert_id": published, "n": 2}).encode(), 65536)
    assert first.key == again.key != other.key
    assert first.key.startswith("sha256:")


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(
    st.dictionaries(
        st.sampled_from(["alert_id", "severity", "type", "message", "id: 1\ndata"]),
        st.recursive(
            st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(),
            lambda inner: st.lists(inner, max_size=3),
        ),
    )
)
def test_an_alert_is_one_event_with_what_was_published(document: dict[str, Any]) -> None:
    (message,) = dispatched(event(document).frame)
    assert (message.event, message.id) == ("alert", "1-2-3")
    assert message.json == document


@given(st.text())
def test_no_text_ends_its_field(text: str) -> None:
    (message,) = dispatched(block(b"alert", text.encode(), HERE))
    assert message.event == "alert"
    assert message.data == text.replace("\r\n", "\n").replace("\r", "\n")


def test_frames_of_the_gateways_own() -> None:
    parser = Parser()
    assert list(parser.feed(id_frame(HERE))) == []
    assert parser.last_id == "1-2-3"
    (reset,) = dispatched(reset_frame("too-old", HERE))
    assert (reset.event, reset.json, reset.id) == ("reset", {"reason": "too-old"}, "1-2-3")
    (expired,) = dispatched(expired_frame("token-expired"))
    assert (expired.event, expired.json, expired.id) == ("auth-expired", {"code": "token-expired"}, "")


def test_what_a_stranger_kept_in_the_stream_is_passed_over() -> None:
    good = parse(CHANNEL, b"{}", 100).payload
    entries = [
        (HERE, b""),
        (HERE, b"\x93"),
        (HERE, b"\x94\xa1\xff\xa0\xa0\xc4\x00"),
        (HERE, good),
        (HERE, b"text"),
    ]
    assert [each.frame for each in decoded(entries)] == [Event(HERE, good).frame]


def test_filters() -> None:
    oven = event({"severity": "HIGH", "type": "oven"})
    bare = event({"severity": 1, "type": ["oven"]})
    assert oven in ALL
    assert bare in ALL
    assert oven in Wants(frozenset({"high"}), frozenset({"oven", "stock"}))
    assert oven not in Wants(frozenset({"low"}))
    assert oven not in Wants(None, frozenset({"stock"}))
    assert bare not in Wants(frozenset({"high", ""}) - {""})
    assert bare not in Wants(None, frozenset({"oven"}))
