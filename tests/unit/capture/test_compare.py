"""In what two answers differ."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel.capture.compare import DEFAULTS, Answer, Rules, differences

MARK = "[redacted:0123456789abcdef]"
JSON = (("content-type", "application/json"),)
NONE = Rules(())


def of(document: Any, status: int = 200, **headers: str) -> Answer:
    pairs = tuple((name.replace("_", "-"), value) for name, value in headers.items())
    return Answer(status, (*JSON, *pairs), json.dumps(document))


def where(was: Answer, now: Answer, *rules: str) -> list[str]:
    return [f"{each.kind} {each.where}".strip() for each in differences(was, now, Rules(rules))]


@pytest.mark.parametrize(
    ("was", "now", "expected"),
    [
        ({"a": 1}, {"a": 1.0}, []),
        ({"a": 1}, {"a": True}, ["json /a"]),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, []),
        ({"a": [1, 2]}, {"a": [1]}, ["json /a/1"]),
        ({"a": None}, {}, ["json /a"]),
        ({"x/y": {"~": 1}}, {"x/y": {"~": 2}}, ["json /x~1y/~0"]),
        ([{"id": 1}, {"id": 2}], [{"id": 2}, {"id": 1}], ["json /0/id", "json /1/id"]),
        ({"a": 10**30}, {"a": 10**30 + 1}, ["json /a"]),
        ({"a": MARK}, {"a": "whatever stands there now"}, []),
        ({"a": MARK}, {}, ["json /a"]),
        (1, 2, ["json /"]),
    ],
)
def test_documents(was: Any, now: Any, expected: list[str]) -> None:
    assert where(of(was), of(now)) == expected


def test_statuses_and_headers() -> None:
    was = of({}, 200, x_a="1", set_cookie=f"sid={MARK}", vary="a, b")
    now = Answer(404, (*JSON, ("x-b", "2"), ("set-cookie", "sid=new"), ("vary", "a"), ("vary", "b")), "{}")
    assert where(was, now) == ["status", "header x-a", "header x-b"]
    assert where(was, now, "status", "header:x-*") == []


@pytest.mark.parametrize(
    "name",
    [
        "date",
        "etag",
        "x-request-id",
        "set-cookie",
        "ratelimit",
        "ratelimit-policy",
        "x-ratelimit-reset",
        "age",
    ],
)
def test_what_differs_from_answer_to_answer_is_not_compared(name: str) -> None:
    was, now = Answer(200, (*JSON, (name, "1")), "{}"), of({})
    assert where(was, now) == [f"header {name}"]
    assert where(was, now, *DEFAULTS) == []


@pytest.mark.parametrize(
    ("rule", "left"),
    [
        ("json:/items/*/stock", ["json /total"]),
        ("json:/items", ["json /total"]),
        ("json:/items/**", ["json /total"]),
        ("json:/items/1/stock", ["json /items/0/stock", "json /total"]),
        ("json:/*", []),
        ("body", []),
    ],
)
def test_rules_on_members(rule: str, left: list[str]) -> None:
    was = of({"items": [{"stock": 1}, {"stock": 2}], "total": 2})
    now = of({"items": [{"stock": 3}, {"stock": 4}], "total": 3})
    assert where(was, now, rule) == left


@pytest.mark.parametrize("rule", ["", "json:", "json:x", "header:", "date", "status:200"])
def test_a_rule_that_is_none_is_told(rule: str) -> None:
    with pytest.raises(ValueError, match="is no rule"):
        Rules((rule,))


def test_bodies_that_are_no_json() -> None:
    was, now = Answer(200, (), "one two"), Answer(200, (), "one three")
    assert where(was, now) == ["body character 6"]
    assert where(was, was) == []
    assert where(Answer(200, (), None), now) == []  # it was not captured
    assert where(Answer(200, (), f"you are {MARK}"), now) == []
    assert where(Answer(200, (), '{"a": 1}'), Answer(200, (), '{"a": 2}')) == ["json /a"]
    assert where(Answer(200, JSON, "{oops"), Answer(200, JSON, "{}")) == ["body character 2"]


def test_of_a_body_that_was_cut_off_the_beginning_is_compared() -> None:
    whole = '{"a": 1, "b": 2}'
    cut = Answer(200, JSON, whole[:8], cut=True)
    assert where(cut, Answer(200, JSON, whole)) == []
    assert where(cut, Answer(200, JSON, whole.replace("1", "3"))) == ["body character 7"]
    assert where(cut, Answer(200, JSON, "{")) == ["body character 2"]


def test_no_secret_is_shown() -> None:
    (found,) = differences(of({"access_token": "hunter2"}), of({"access_token": "hunter3"}), NONE)
    assert "hunter" not in found.was + found.now
    (found,) = differences(of({"a": 1}), of({"a": {"password": "hunter2"}}), NONE)
    assert "hunter" not in found.now
    (found,) = differences(of({}), of({}, x_api_key="hunter2"), NONE)
    assert (found.was, found.now) == ("(absent)", "[redacted]")


DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@given(DOCUMENTS, DOCUMENTS)
def test_documents_are_the_same_if_nothing_is_found(was: Any, now: Any) -> None:
    same = json.dumps(was, sort_keys=True) == json.dumps(now, sort_keys=True)
    assert (differences(of(was), of(now), NONE) == []) is same
