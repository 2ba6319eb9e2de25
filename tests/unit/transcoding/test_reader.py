"""JSON to messages: by the library's own mapping, but stricter, and every error names its field."""

from __future__ import annotations

import math
from base64 import b64encode, urlsafe_b64encode
from pathlib import Path
from typing import Any

import msgspec
import pytest
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st

from kernel.transcoding.descriptors import Descriptors
from kernel.transcoding.reader import Invalid
from tests.support.grpc_service import DESCRIPTORS

OVENS = Descriptors(Path(DESCRIPTORS).read_bytes())
OVEN = OVENS.pool.FindMessageTypeByName("bakery.ovens.v1.Oven")
LIST = OVENS.pool.FindMessageTypeByName("bakery.ovens.v1.ListOvensRequest")


def read(value: Any) -> Any:
    message = OVENS.message(OVEN)
    OVENS.reader.read(message, value)
    return message


def shown(message: Any) -> Any:
    return json_format.MessageToDict(message, descriptor_pool=OVENS.pool)


_TEXT = st.text(st.characters(codec="utf-8"), max_size=5)
_JSON: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | _TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3),
    max_leaves=6,
)
_MAKER = st.fixed_dictionaries(
    {}, optional={"name": _TEXT, "country": st.fixed_dictionaries({}, optional={"code": _TEXT})}
)
_OVEN = st.fixed_dictionaries(
    {},
    optional={
        "ovenId": _TEXT,
        "fuel": st.sampled_from(["WOOD", "ELECTRIC", 1, 2, 77]),
        "batches": st.integers(-(2**63), 2**63 - 1) | st.integers(-(2**63), 2**63 - 1).map(str),
        "celsius": st.floats(allow_nan=False, allow_infinity=False)
        | st.sampled_from(["NaN", "Infinity", "-Infinity", "1.5"]),
        "lit": st.booleans(),
        "photo": st.binary(max_size=8).map(lambda data: b64encode(data).decode())
        | st.binary(max_size=8).map(lambda data: urlsafe_b64encode(data).decode()),
        "litAt": st.datetimes().map(lambda moment: moment.isoformat() + "Z"),
        "labels": st.lists(_TEXT, max_size=3),
        "trays": st.dictionaries(_TEXT, st.integers(-(2**31), 2**31 - 1), max_size=3),
        "shelf": st.integers(-(2**31), 2**31 - 1),
        "settings": st.dictionaries(
            _TEXT, _JSON.filter(lambda value: not isinstance(value, int)), max_size=2
        ).filter(lambda value: b"e+" not in msgspec.json.encode(value)),
        "maker": _MAKER,
        "cleaner": _TEXT,
        "makers": st.lists(_MAKER, max_size=2),
        "number": st.integers(0, 2**32 - 1),
        "spare": st.booleans() | st.none(),
    },
)


@given(_OVEN)
def test_it_reads_as_the_library_does(value: dict[str, Any]) -> None:
    theirs = json_format.ParseDict(value, OVENS.message(OVEN), descriptor_pool=OVENS.pool)
    mine = read(value)
    assert mine.SerializeToString(deterministic=True) == theirs.SerializeToString(deterministic=True)
    # And what is shown of it is read again as the same.
    again = read(msgspec.json.decode(msgspec.json.encode(shown(mine))))
    assert again.SerializeToString(deterministic=True) == mine.SerializeToString(deterministic=True)


_NAMES = st.sampled_from([*(field.json_name for field in OVEN.fields), "x"])


@given(st.dictionaries(_NAMES, _JSON, max_size=3) | _JSON)
def test_any_json_is_read_or_refused(value: Any) -> None:
    try:
        message = read(value)
    except Invalid:
        return
    message.SerializeToString()


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (5, "A JSON object is expected."),
        ({"oven": 1}, "`oven`: there is no such field; there are ovenId, fuel, batches"),
        ({"lit": "true"}, "`lit`: true or false is expected."),
        ({"lit": 1}, "`lit`: true or false is expected."),
        ({"batches": 2**63}, "`batches`: the number is out of the range of int64."),
        ({"batches": 1.5}, "`batches`: a whole number (int64) is expected."),
        ({"batches": True}, "`batches`: a whole number (int64) is expected."),
        ({"batches": " 1"}, "`batches`: a whole number (int64) is expected."),
        ({"batches": "1_0"}, "`batches`: a whole number (int64) is expected."),
        ({"number": -1}, "`number`: the number is out of the range of uint32."),
        ({"celsius": "hot"}, "`celsius`: a number is expected."),
        ({"celsius": "nan"}, "`celsius`: a number is expected."),
        ({"load": 1e39}, "`load`: the number is out of range."),
        ({"photo": "a!"}, "`photo`: base64 is expected."),
        ({"photo": "abcde"}, "`photo`: base64 is expected."),
        ({"photo": 5}, "`photo`: base64 is expected."),
        ({"ovenId": 5}, "`ovenId`: a string is expected."),
        ({"ovenId": "\ud800"}, "`ovenId`: it is not Unicode text."),
        ({"fuel": "COAL"}, "`fuel`: it is none of FUEL_UNSPECIFIED, ELECTRIC, WOOD."),
        ({"fuel": 2**31}, "`fuel`: it is none of FUEL_UNSPECIFIED, ELECTRIC, WOOD."),
        ({"labels": "a"}, "`labels`: a JSON array is expected."),
        ({"labels": ["a", None]}, "`labels[1]`: null is no element."),
        ({"trays": ["a"]}, "`trays`: a JSON object is expected."),
        ({"trays": {"a": "b"}}, "`trays.a`: a whole number (int32) is expected."),
        ({"trays": {"a": None}}, "`trays.a`: null is no value of a map."),
        ({"shelf": "x"}, "`shelf`: a whole number (int32) is expected."),
        ({"shelf": {"value": 1}}, "`shelf`: a whole number (int32) is expected."),
        ({"litAt": 5}, "`litAt`: timestamp JSON value not a string: 5."),
        ({"litAt": "today"}, "`litAt`: "),
        ({"settings": []}, "`settings`: "),
        ({"extra": {"@type": "type.googleapis.com/no.Such"}}, "`extra`: "),
        ({"extra": 5}, "`extra`: no Any can be made of it."),
        ({"maker": {"country": []}}, "`maker.country`: a JSON object is expected."),
        ({"oven_id": "a", "ovenId": "b"}, "`ovenId`: it is given twice, or beside one that excludes it."),
        ({"cleaner": "a", "every": "1s"}, "`every`: it is given twice, or beside one that excludes it."),
    ],
)
def test_what_is_wrong_is_said(value: Any, said: str) -> None:
    with pytest.raises(Invalid) as raised:
        read(value)
    assert str(raised.value).startswith(said)


def test_null_is_what_is_not_there() -> None:
    assert read(dict.fromkeys(["ovenId", "labels", "maker", "litAt", "cleaner", "every"])) == OVENS.message(
        OVEN
    )


def test_a_maker_that_is_there_and_empty_is_there() -> None:
    assert read({"maker": {}}).HasField("maker")


def test_nesting_has_an_end() -> None:
    value: Any = {}
    for _ in range(500):
        value = {"a": [value]}
    with pytest.raises(Invalid):
        read({"settings": value})


@pytest.mark.parametrize(
    ("path", "text", "found"),
    [
        ("page_size", ["5"], {"pageSize": 5}),
        ("batches", ["1", "2"], {"batches": ["1", "2"]}),
        ("fuels", ["WOOD", "1"], {"fuels": ["WOOD", "ELECTRIC"]}),
        ("maker.country.code", [""], {"maker": {"country": {}}}),
        ("lit", ["false"], {"lit": False}),
        ("lit_after", ["2026-12-01T10:00:00Z"], {"litAfter": "2026-12-01T10:00:00Z"}),
        ("like.every", ["1.5s"], {"like": {"every": "1.500s"}}),
        ("like.celsius", ["-Infinity"], {"like": {"celsius": "-Infinity"}}),
        ("like.photo", ["AAE_"], {"like": {"photo": "AAE/"}}),
    ],
)
def test_text_is_read_as_its_field(path: str, text: list[str], found: Any) -> None:
    message = OVENS.message(LIST)
    OVENS.reader.put_text(message, path.split("."), text, path)
    assert shown(message) == found


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("page_size", ["5", "6"]), ("page_size", [""]), ("nothing", ["1"]), ("maker", ["1"]), ("maker.nothing", ["1"]),
        ("like.trays", ["1"]), ("like.settings", ["1"]), ("like.extra", ["1"]), ("like.makers.name", ["1"]), ("lit", ["yes"]),
        ("page_token.x", ["1"]), ("lit.value", ["true"]),
    ],
)  # fmt: skip
def test_text_that_is_no_value(path: str, text: list[str]) -> None:
    with pytest.raises(Invalid) as raised:
        OVENS.reader.put_text(OVENS.message(LIST), path.split("."), text, path)
    assert raised.value.path == path


def test_floats_beyond_single_precision_round_or_fail() -> None:
    assert math.isinf(read({"load": "Infinity"}).load)
    assert read({"load": 3.4028235e38}).load == pytest.approx(3.4028235e38)
