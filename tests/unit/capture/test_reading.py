"""Captures and HARs as they are read, sound and not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kernel.capture.reading import Unreadable, entries


def entry(url: str = "http://h/x", **more: Any) -> dict[str, Any]:
    request = {"method": "GET", "url": url, "headers": [{"name": "A", "value": "1"}]}
    return {"request": request, "response": {"status": 200, "headers": [], "content": {"size": 0}}, **more}


def read(path: Path) -> list[tuple[str, str]]:
    return [(place, found.request.url) for place, found in entries(path)]


def test_lines_with_those_of_rotated_files_the_oldest_first(tmp_path: Path) -> None:
    path = tmp_path / "c.ndjson"
    for name, urls in (
        ("c.ndjson", ("e",)),
        ("c.ndjson.1", ("c", "d")),
        ("c.ndjson.10", ("a", "b")),
        ("c.ndjson.x", ("z",)),
    ):
        (tmp_path / name).write_text(
            "".join(json.dumps(entry(f"http://h/{url}")) + "\n" for url in urls) + "\n"
        )
    assert [url[-1] for _, url in read(path)] == ["a", "b", "c", "d", "e"]
    assert read(path)[3] == ("c.ndjson.1, line 2", "http://h/d")


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_har_on_one_line_or_several(tmp_path: Path, indent: int | None, mark: str) -> None:
    path = tmp_path / "c.har"
    log = {"version": "1.2", "entries": [entry("http://h/a"), entry("http://h/b", connection=7)]}
    path.write_text(mark + json.dumps({"log": log}, indent=indent))
    assert read(path) == [("c.har, entry 1", "http://h/a"), ("c.har, entry 2", "http://h/b")]


def test_an_empty_file_has_nothing(tmp_path: Path) -> None:
    path = tmp_path / "c.ndjson"
    path.touch()
    assert read(path) == []


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (json.dumps(entry()) + '\n{"request": ', "c.ndjson, line 2: "),
        (json.dumps(entry()) + "\n{}\n", "c.ndjson, line 2: object missing required field `request`"),
        (json.dumps(entry()) + "\n[]\n", "c.ndjson, line 2: expected `object`"),
        ('{"request": {"method": 1, "url": ""}, "response": {"status": 1}}', "$.request.method"),
        ('{"log": {"entries": [\n{"x" 1}]}}', "c.ndjson, line 2, column 6: expecting ':' delimiter"),
        ('{"log": {"entries": [\n{"request": {}}]}}', "c.ndjson, entry 1: "),
        ('{"log": {}}', "is neither a capture nor a HAR"),
        ("[1]", "c.ndjson, line 1: expected `object`"),
        ("hello", "c.ndjson, line 1, column 1"),
        ('"\udcff"', "c.ndjson"),
    ],
)
def test_what_is_malformed_is_told_with_its_place(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "c.ndjson"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(Unreadable) as caught:
        read(path)
    assert told in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(Unreadable, match="there is no file"):
        read(tmp_path / "none")
