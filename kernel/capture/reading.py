"""Reads captures: one entry a line, as the gateway writes them, or a HAR document, whoever exported it.

Of a HAR only what a replay needs is looked at, so that browsers' exports with their own liberties are taken.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import msgspec
from msgspec import Struct, field

from kernel import __version__
from kernel.telemetry.rotating import existing

_MAX_LINE = 64 * 1024 * 1024
_MAX_HAR = 1024 * 1024 * 1024
_BOM = b"\xef\xbb\xbf"


class Unreadable(Exception):
    """The message says what is wrong with a capture, and where."""


class Pair(Struct):
    """A header."""

    name: str
    value: str


class Body(Struct):
    """`postData`, or the `content` of a response. Only the latter has an encoding in HAR 1.2."""

    mime: str = field(default="", name="mimeType")
    size: float | None = None
    text: str | None = None
    encoding: str = ""
    own_encoding: str = field(default="", name="_encoding")
    truncated: bool = field(default=False, name="_truncated")
    omitted: str = field(default="", name="_omitted")


class Request(Struct):
    method: str
    url: str
    headers: list[Pair] = []
    body: Body | None = field(default=None, name="postData")
    size: int | None = field(default=-1, name="bodySize")


class Response(Struct):
    status: int
    headers: list[Pair] = []
    content: Body = field(default_factory=Body)


class Entry(Struct):
    """A request and its answer. Those with a request id are the gateway's own captures."""

    request: Request
    response: Response
    connection: str | int | None = None
    request_id: str = field(default="", name="_request_id")
    route: str = field(default="", name="_route")
    tenant: str = field(default="", name="_tenant")


class Read(NamedTuple):
    """`place` is where in its file the entry stands, in words."""

    place: str
    entry: Entry


class _Log(Struct):
    entries: list[msgspec.Raw]


class _Har(Struct):
    log: _Log


class _Line(Struct):
    request: msgspec.Raw


def files_of(path: Path) -> list[Path]:
    """The capture's files, the oldest first. Raises Unreadable."""
    files = existing(path)
    if not files:
        raise Unreadable(f"there is no file {path}")
    return files


def entries(path: Path) -> Iterator[Read]:
    """All entries of the capture at `path` and its rotated files. Raises Unreadable, also in the midst of it."""
    for file in files_of(path):
        try:
            with file.open("rb") as data:
                yield from _of_har(file, data) if _is_har(data) else _of_lines(file, data)
        except OSError as error:
            raise Unreadable(f"{file} cannot be read: {error.strerror}") from None


def lines(path: Path) -> Iterator[tuple[str, bytes]]:
    """The lines of the capture at `path`, each with its place; a HAR has none. Raises Unreadable."""
    for file in files_of(path):
        try:
            with file.open("rb") as data:
                if _is_har(data):
                    raise Unreadable(f"{file} is a HAR already")
                yield from _lines(file, data)
        except OSError as error:
            raise Unreadable(f"{file} cannot be read: {error.strerror}") from None


def write_har(path: Path, out: BinaryIO) -> int:
    """Write the capture as one HAR document to `out`; how many entries it has. Raises Unreadable, OSError."""
    creator = {"name": "bakery-gateway", "version": __version__}
    out.write(b'{"log":{"version":"1.2","creator":' + json.dumps(creator).encode() + b',"entries":[')
    count = 0
    for place, line in lines(path):
        _decoded(line, place)
        out.write((b",\n" if count else b"\n") + line.strip())
        count += 1
    out.write(b"\n]}}\n")
    return count


def _is_har(data: BinaryIO) -> bool:
    """Whether it is one document rather than one a line."""
    first = data.readline(_MAX_LINE)
    while first and not first.strip().removeprefix(_BOM):
        first = data.readline(_MAX_LINE)
    data.seek(0)
    if not first:
        return False
    try:
        msgspec.json.decode(first.removeprefix(_BOM), type=_Line)
    except msgspec.ValidationError:
        # JSON, and no entry: a HAR on one line, or nothing that is known.
        return b'"log"' in first
    except msgspec.DecodeError:
        return not first.startswith(b'{"startedDateTime"')
    return False


def _of_lines(file: Path, data: BinaryIO) -> Iterator[Read]:
    for place, line in _lines(file, data):
        yield Read(place, _decoded(line, place))


def _lines(file: Path, data: BinaryIO) -> Iterator[tuple[str, bytes]]:
    number = 0
    while line := data.readline(_MAX_LINE):
        number += 1
        place = f"{file.name}, line {number}"
        if len(line) == _MAX_LINE and not line.endswith(b"\n"):
            raise Unreadable(f"{place} has more than {_MAX_LINE} bytes")
        line = line.removeprefix(_BOM) if number == 1 else line
        if line.strip():
            yield place, line


def _of_har(file: Path, data: BinaryIO) -> Iterator[Read]:
    text = data.read(_MAX_HAR + 1).removeprefix(_BOM)
    if len(text) > _MAX_HAR:
        raise Unreadable(f"{file} has more than {_MAX_HAR} bytes")
    try:
        found = msgspec.json.decode(text, type=_Har)
    except msgspec.ValidationError as error:
        raise Unreadable(f"{file.name} is neither a capture nor a HAR: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise Unreadable(_malformed(file, text)) from None
    for number, raw in enumerate(found.log.entries, 1):
        place = f"{file.name}, entry {number}"
        yield Read(place, _decoded(bytes(raw), place))


def _decoded(text: bytes, place: str) -> Entry:
    try:
        return msgspec.json.decode(text, type=Entry)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        problem = str(error)
        raise Unreadable(f"{place}: {problem[:1].lower()}{problem[1:]}") from None


def _malformed(file: Path, text: bytes) -> str:
    """Where a document stops being JSON: the line is what an editor can go to."""
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        return f"{file.name}, line {error.lineno}, column {error.colno}: {error.msg.lower()}"
    except (ValueError, RecursionError) as error:
        return f"{file.name} is not JSON: {error}"
    return f"{file.name} is not JSON"
