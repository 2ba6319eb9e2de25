"""The chain that makes a change of the audit trail visible: each line has the hash of the one before in its own.

A line's `link` is SHA-256 over the link before it and all its fields but those that tell who somebody is; for these it has
`personal`, their hash with a random `salt`. Erasing a person takes these fields and the salt away and leaves the hash: the
chain holds, nobody can be found in it, and an `erasure` event in the chain says which pseudonym stands there now.

A line that was cut short (a full disk, a crash) is followed by one with `torn`, the first of each file has the link before it
as `prev`, and `seq` counts. What was written before the chain began has no link.

SECURITY: whoever may write the files could make the whole chain anew. Note its head elsewhere now and then: `gateway audit
verify` prints it, and with `--head` says whether what was noted is still there, which also shows whether an end was cut off.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Sequence
from hashlib import sha256
from typing import Any, BinaryIO, NamedTuple

import orjson

from kernel.telemetry.redact import ascii_json

# What of an event tells who somebody is. Time, route, tenant and outcome stay: they are the security record.
PERSONAL = ("user_id", "client_ip", "user_agent", "email")
ERASURE = "erasure"
PSEUDONYM = "erased-"
# No line is longer by far.
_TAIL_BYTES = 64 * 1024
_MOST_PROBLEMS = 20


class Head(NamedTuple):
    """The end of a chain: how many lines it has, and the last one's link."""

    seq: int
    link: str


GENESIS = Head(0, "0" * 64)


class Tail(NamedTuple):
    """How a file ends: its last line with a link, None without one; `torn` when its last line is incomplete."""

    head: Head | None
    torn: bool


def seal(event: dict[str, Any], head: Head, *, first: bool = False, torn: bool = False) -> tuple[bytes, Head]:
    """The line of `event` after `head`, and the new head. `first` of its file; `torn`: after half a line."""
    sealed = {name: value for name, value in event.items() if name not in _OURS}
    personal = _personal(sealed)
    if personal:
        salt = sealed["salt"] = secrets.token_hex(16)
        sealed["personal"] = _commitment(salt, personal)
    sealed["seq"] = head.seq + 1
    if first:
        sealed["prev"] = head.link
    if torn:
        sealed["torn"] = True
    link = sealed["link"] = _link(head.link, sealed)
    return ascii_json(orjson.dumps(sealed, default=str)) + b"\n", Head(head.seq + 1, link)


def tail(fd: int) -> Tail:
    """How the file open as `fd` ends."""
    size = os.fstat(fd).st_size
    start = max(size - _TAIL_BYTES, 0)
    data = os.pread(fd, size - start, start)
    whole = data[: data.rfind(b"\n") + 1]
    for line in reversed(whole.splitlines()):
        event = _event(line)
        if event is not None and "link" in event:
            return Tail(Head(event["seq"], event["link"]), len(whole) != len(data))
    return Tail(None, len(whole) != len(data))


def without_person(event: dict[str, Any], pseudonym: str) -> dict[str, Any]:
    """`event` with a pseudonym for its user, and nothing else about them; its link holds."""
    left = {name: value for name, value in event.items() if name not in PERSONAL and name != "salt"}
    return {**left, "user_id": pseudonym}


class Verdict:
    """What `verify` found. `problems` are at most 20 texts with their place; `broken` is how many there are."""

    def __init__(self) -> None:
        self.lines = self.unchained = self.erased = self.torn = self.broken = 0
        self.first: Head | None = None
        self.head: Head | None = None
        self.wanted = False
        self.problems: list[str] = []

    def problem(self, place: str, text: str) -> None:
        """Count a problem and tell of it, if there is room."""
        self.broken += 1
        if len(self.problems) < _MOST_PROBLEMS:
            self.problems.append(f"{place}: {text}")


def verify(files: Sequence[tuple[str, BinaryIO, int]], wanted: str = "") -> Verdict:
    """Follow the chain through `files` (name, open file, bytes of it), the oldest first; `wanted` is a link to look for."""
    verdict = Verdict()
    pseudonyms: dict[str, int] = {}
    recorded: dict[str, int] = {}
    pending = ""  # the place of half a line, which the next one has to own up to
    for name, file, size in files:
        for number, (line, complete) in enumerate(_lines(file, size), 1):
            place = f"{name}:{number}"
            event = _event(line) if complete else None
            if event is None:
                if pending:
                    verdict.problem(pending, "is no line of the trail")
                pending = place
                continue
            if "link" not in event:
                if verdict.head is None:
                    verdict.unchained += 1
                    pending = ""
                else:
                    verdict.problem(place, "has no link: it was not written by a gateway")
                continue
            if pending and event.get("torn") and verdict.head is not None:
                verdict.torn += 1
            elif pending and verdict.head is not None:
                verdict.problem(pending, "is no line of the trail")
            pending = ""
            _follow(verdict, event, place, line)
            if event["link"] == wanted:
                verdict.wanted = True
            user = event.get("user_id")
            if "personal" in event and "salt" not in event:
                verdict.erased += 1
                pseudonyms[str(user)] = pseudonyms.get(str(user), 0) + 1
            if event.get("kind") == ERASURE:
                recorded[str(event.get("pseudonym"))] = int(event.get("events", 0))
    if pending and verdict.head is not None:
        verdict.torn += 1  # the next line will own up to it
    for pseudonym, count in pseudonyms.items():
        if count > recorded.get(pseudonym, 0):
            verdict.problem(
                pseudonym, f"stands in {count} events, erasures on record are {recorded.get(pseudonym, 0)}"
            )
    return verdict


_OURS = frozenset({"seq", "prev", "link", "salt", "personal", "torn"})
_UNLINKED = frozenset({*PERSONAL, "salt", "link"})


def _follow(verdict: Verdict, event: dict[str, Any], place: str, line: bytes) -> None:
    """One line with a link: does it come after the one before, and is it what was written?"""
    verdict.lines += 1
    before = verdict.head
    if before is None:
        # The oldest that is left: of what was before it only the link is known.
        before = Head(event["seq"] - 1, str(event.get("prev", "")))
        verdict.first = Head(event["seq"], event["link"])
        if event["seq"] == 1 and before.link != GENESIS.link:
            verdict.problem(place, "is the first of all, and names one before it")
    verdict.head = Head(event["seq"], event["link"])
    if event["seq"] != before.seq + 1:
        missing = event["seq"] - before.seq - 1
        verdict.problem(
            place,
            f"{missing} lines before it are missing"
            if missing > 0
            else "is not in its place: lines were moved",
        )
    elif before.link != event.get("prev", before.link) or _link(before.link, event) != event["link"]:
        verdict.problem(place, "was changed, or what is before it was")
    elif "salt" in event and event.get("personal") != _commitment(event["salt"], _personal(event)):
        verdict.problem(place, "tells of another person, address or browser than when it was written")
    elif "personal" not in event and _personal(event):
        verdict.problem(place, "tells of a person that was not in it when it was written")
    elif "personal" in event and "salt" not in event and set(_personal(event)) != {"user_id"}:
        verdict.problem(place, "was not erased by a gateway")
    elif ascii_json(orjson.dumps(event)) + b"\n" != line:
        # SECURITY: of two members of one name some readers take the first, and the link is of the last.
        verdict.problem(place, "is not written as a gateway writes it")


def _lines(file: BinaryIO, size: int) -> Iterator[tuple[bytes, bool]]:
    """The lines in the first `size` bytes, and whether each is complete."""
    left = size
    for line in file:
        piece = line[:left]
        left -= len(piece)
        if piece:
            yield piece, piece.endswith(b"\n")
        if left <= 0:
            return


def _event(line: bytes) -> dict[str, Any] | None:
    try:
        event = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(event, dict):
        return None
    linked = "link" in event
    sound = isinstance(event.get("link"), str) and isinstance(event.get("seq"), int)
    sound = sound and isinstance(event.get("salt", ""), str) and isinstance(event.get("events", 0), int)
    return event if sound or not linked else None


def _personal(event: dict[str, Any]) -> dict[str, Any]:
    return {name: event[name] for name in PERSONAL if name in event}


def _commitment(salt: str, personal: dict[str, Any]) -> str:
    return sha256(salt.encode() + _canonical(personal)).hexdigest()


def _link(before: str, event: dict[str, Any]) -> str:
    return sha256(
        before.encode() + _canonical({name: value for name, value in event.items() if name not in _UNLINKED})
    ).hexdigest()


def _canonical(value: dict[str, Any]) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS, default=str)
