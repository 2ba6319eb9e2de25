"""Tells in what two answers differ: status, headers, members of JSON by their pointer (RFC 6901), text.

Where the captured answer has a redacted value there is nothing to compare.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from kernel.capture.redaction import MARK, Redactor, secret_name
from kernel.telemetry.redact import REDACTED

STATUS, HEADER, JSON, BODY, FAILURE = "status", "header", "json", "body", "no answer"
# What differs from answer to answer, of whatever makes it; and how a body travels.
DEFAULTS = (
    "header:date",
    "header:age",
    "header:etag",
    "header:expires",
    "header:last-modified",
    "header:set-cookie",
    "header:server",
    "header:server-timing",
    "header:via",
    "header:x-request-id",
    "header:traceparent",
    "header:tracestate",
    "header:retry-after",
    "header:ratelimit*",
    "header:x-ratelimit-*",
    "header:x-response-time",
    "header:x-new-*-token",
    "header:content-length",
    "header:content-encoding",
    "header:transfer-encoding",
    "header:connection",
    "header:keep-alive",
    "json:/request_id",
)
# Of one answer.
_MOST = 100
_SHOWN = 60
_ABSENT = "(absent)"
_DOCUMENT = ("{", "[")  # JSON, whatever it is said to be
_JSON_TYPE = re.compile(r"[\w.+-]+/(?:[\w.+-]*\+)?json")
_Missing = object()


class Difference(NamedTuple):
    """`where` is a header's name or a pointer; the values are as people are shown them."""

    kind: str
    where: str
    was: str
    now: str


class Answer(NamedTuple):
    """`body` is None where nothing is known of it; `cut` where there was more. Header names in lower case."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: str | None
    cut: bool = False

    def header(self, name: str) -> str:
        """The first value, or an empty string."""
        return next((value for key, value in self.headers if key == name), "")


class Rules:
    """What is not compared. Raises ValueError on a rule that is none."""

    def __init__(self, rules: Iterable[str]) -> None:
        self.status = self.body = False
        self._headers: list[str] = []
        self._pointers: list[list[str]] = []
        for rule in rules:
            kind, _, what = rule.partition(":")
            if rule in ("status", "body"):
                setattr(self, rule, True)
            elif kind == "header" and what:
                self._headers.append(what.lower())
            elif kind == "json" and what.startswith("/"):
                self._pointers.append(what.split("/")[1:])
            else:
                raise ValueError(f"{rule!r} is no rule: status, body, header:NAME or json:/path/*")

    def header(self, name: str) -> bool:
        """Whether a header is not compared."""
        return any(fnmatchcase(name, pattern) for pattern in self._headers)

    def pointer(self, pointer: str) -> bool:
        """Whether a member, or one that it is in, is not compared: `*` is any one name, `**` at the end what is below."""
        parts = pointer.split("/")[1:]
        return any(_covers(rule, parts) for rule in self._pointers)


def _covers(rule: list[str], parts: list[str]) -> bool:
    if rule[-1] == "**":
        rule = rule[:-1]
    return len(parts) >= len(rule) and all(map(fnmatchcase, parts, rule))


def differences(was: Answer, now: Answer, rules: Rules) -> list[Difference]:
    """In what `now` differs from the captured answer `was`."""
    found: list[Difference] = []
    if was.status != now.status and not rules.status:
        found.append(Difference(STATUS, "", str(was.status), str(now.status)))
    found += _of_headers(was, now, rules)
    if was.body is not None and now.body is not None and not rules.body:
        found += _of_bodies(was, now, was.body, now.body, rules)
    return found[:_MOST]


def _of_headers(was: Answer, now: Answer, rules: Rules) -> Iterator[Difference]:
    names = dict.fromkeys(name for name, _ in (*was.headers, *now.headers))
    for name in names:
        if rules.header(name):
            continue
        before = [value for key, value in was.headers if key == name]
        after = [value for key, value in now.headers if key == name]
        if before == after or (after and any(MARK.search(value) for value in before)):
            continue
        # Lines of one field may be joined and parted (RFC 9110 section 5.3).
        old, new = ", ".join(before) if before else _ABSENT, ", ".join(after) if after else _ABSENT
        if old != new:
            yield Difference(HEADER, name, _shown(name, old), _shown(name, new))


def _of_bodies(was: Answer, now: Answer, old: str, new: str, rules: Rules) -> Iterator[Difference]:
    if was.cut or now.cut:
        # Of what was cut off only the beginning is known, in which JSON ends in its midst: it is text.
        if was.cut and now.cut:
            alike = old.startswith(new) or new.startswith(old)
        else:
            alike = new.startswith(old) if was.cut else old.startswith(new)
        if not alike:
            yield from _of_texts(old, new)
        return
    if (_is_json(was) and _is_json(now)) or (old[:1] in _DOCUMENT and new[:1] in _DOCUMENT):
        try:
            before, after = json.loads(old), json.loads(new)
        except (ValueError, RecursionError):
            pass
        else:
            yield from _of_documents(before, after, rules)
            return
    if old != new:
        yield from _of_texts(old, new)


def _of_texts(old: str, new: str) -> Iterator[Difference]:
    if MARK.search(old):
        return
    place = next(
        (at for at, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new))
    )
    start = max(place - 10, 0)
    yield Difference(BODY, f"character {place + 1}", _shown("", old[start:]), _shown("", new[start:]))


def _of_documents(before: Any, after: Any, rules: Rules) -> Iterator[Difference]:
    waiting: list[tuple[str, Any, Any]] = [("", before, after)]
    while waiting:
        pointer, old, new = waiting.pop()
        if pointer and rules.pointer(pointer):
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            names = dict.fromkeys((*old, *new))
            inner = [
                (_below(pointer, name), old.get(name, _Missing), new.get(name, _Missing)) for name in names
            ]
            waiting += reversed(inner)
        elif isinstance(old, list) and isinstance(new, list):
            longest = max(len(old), len(new))
            inner = [(f"{pointer}/{at}", _at(old, at), _at(new, at)) for at in range(longest)]
            waiting += reversed(inner)
        elif not _equal(old, new) and not (isinstance(old, str) and MARK.search(old) and new is not _Missing):
            yield Difference(JSON, pointer or "/", _document(pointer, old), _document(pointer, new))


def _below(pointer: str, name: str) -> str:
    return f"{pointer}/{name.replace('~', '~0').replace('/', '~1')}"


def _at(values: list[Any], place: int) -> Any:
    return values[place] if place < len(values) else _Missing


def _equal(old: Any, new: Any) -> bool:
    # 1 and 1.0 are one number of JSON; true is none.
    return isinstance(old, bool) == isinstance(new, bool) and bool(old == new)


def _is_json(answer: Answer) -> bool:
    kind = answer.header("content-type").partition(";")[0].strip().lower()
    return _JSON_TYPE.fullmatch(kind) is not None


def _document(pointer: str, value: Any) -> str:
    if value is _Missing:
        return _ABSENT
    return _shown(pointer, json.dumps(value, ensure_ascii=False))


def _shown(name: str, value: str) -> str:
    """A value for people: short, and no secret, whoever holds it."""
    if any(map(secret_name, name.split("/"))) and value != _ABSENT:
        return REDACTED
    text = Redactor(b"").json(value) if value[:1] in ("{", "[", '"') else Redactor(b"").text(value)
    text = MARK.sub(REDACTED, text)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."
