"""The chain of the audit trail: whatever is changed, moved, taken out or put in shows, and erasing a person does not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel.telemetry.auditchain import GENESIS, seal
from kernel.telemetry.auditfile import AuditFile, erase, verify

LINES = 8


def event(number: int) -> bytes:
    user = {"user_id": f"u-{number % 3}", "client_ip": "203.0.113.7"} if number % 4 else {}
    return json.dumps({"event": "audit", "n": number, **user}).encode() + b"\n"


def trail(directory: Path, *, files: int = 8, max_bytes: int = 900) -> Path:
    """Some lines in two files at least."""
    path = directory / "audit.jsonl"
    file = AuditFile(path, max_bytes=max_bytes, files=files)
    for number in range(LINES):
        file(event(number))
    file.close()
    return path


def whole(path: Path) -> list[Path]:
    """The files, the oldest first."""
    return [*sorted(path.parent.glob("audit.jsonl.[0-9]"), reverse=True), *([path] if path.exists() else [])]


def lines_of(path: Path) -> list[tuple[Path, int, dict[str, Any]]]:
    return [
        (file, place, json.loads(line))
        for file in whole(path)
        for place, line in enumerate(file.read_bytes().splitlines())
    ]


def put(file: Path, place: int, line: bytes | None) -> None:
    """Have `line` there; None: take it out."""
    lines = file.read_bytes().splitlines()
    lines[place : place + 1] = [] if line is None else [line]
    file.write_bytes(b"".join(each + b"\n" for each in lines))


def test_a_trail_as_it_was_written_holds(tmp_path: Path) -> None:
    path = trail(tmp_path)
    assert len(whole(path)) > 1
    verdict = verify(path)
    assert (verdict.broken, verdict.lines, verdict.erased, verdict.torn) == (0, LINES, 0, 0)
    assert verdict.first is not None
    assert verdict.first.seq == 1
    assert verdict.head is not None
    assert verdict.head.seq == LINES


def test_what_was_noted_of_it_is_found(tmp_path: Path) -> None:
    path = trail(tmp_path)
    noted = lines_of(path)[3][2]["link"]
    assert verify(path, noted).wanted
    file, place, _ = lines_of(path)[-1]
    latest = lines_of(path)[-1][2]["link"]
    put(file, place, None)
    cut = verify(path, latest)
    assert (cut.broken, cut.wanted) == (0, False)  # an end that was cut off shows by nothing else


@pytest.mark.parametrize("number", range(LINES))
@pytest.mark.parametrize("name", ["n", "user_id", "client_ip", "event", "seq", "personal", "salt", "link"])
def test_a_changed_field_shows(tmp_path: Path, number: int, name: str) -> None:
    path = trail(tmp_path)
    file, place, found = lines_of(path)[number]
    found[name] = found["seq"] + 7 if name in ("n", "seq") else "changed"
    put(file, place, json.dumps(found).encode())
    assert verify(path).broken


@pytest.mark.parametrize("number", range(LINES))
def test_a_line_that_is_taken_out_doubled_or_moved_shows(tmp_path: Path, number: int) -> None:
    path = trail(tmp_path)
    file, place, found = lines_of(path)[number]
    raw = json.dumps(found).encode()
    before = [(each, each.read_bytes()) for each in whole(path)]

    def restored() -> None:
        for each, content in before:
            each.write_bytes(content)

    put(file, place, raw + b"\n" + raw)
    assert verify(path).broken
    restored()
    if 0 < number < LINES - 1:
        put(file, place, None)
        assert verify(path).broken
        restored()
    other, there, last = lines_of(path)[(number + 1) % LINES]
    put(file, place, json.dumps(last).encode())
    put(other, there, raw)
    assert verify(path).broken


def test_a_line_of_somebody_elses_making_shows(tmp_path: Path) -> None:
    path = trail(tmp_path)
    file, place, _ = lines_of(path)[4]
    raw = file.read_bytes().splitlines()[place]
    forged, _ = seal({"event": "audit", "n": 99}, GENESIS)
    for line in (b'{"event":"audit","n":99}', b"nonsense", forged.rstrip()):
        put(file, place, raw + b"\n" + line)
        assert verify(path).broken, line
        put(file, place + 1, None)
        assert not verify(path).broken


@pytest.mark.parametrize(
    ("old", "new"), [(b'"n":5', b'"n":7,"n":5'), (b'"n":5', b'"n": 5'), (b'"audit"', b'"\\u0061udit"')]
)
def test_a_line_that_some_readers_would_read_otherwise_shows(tmp_path: Path, old: bytes, new: bytes) -> None:
    path = trail(tmp_path)
    file, place, _ = lines_of(path)[5]
    put(file, place, file.read_bytes().splitlines()[place].replace(old, new))
    verdict = verify(path)
    assert verdict.broken == 1
    assert "not written as a gateway writes it" in verdict.problems[0]


def test_erasing_a_person_keeps_the_chain_and_is_on_record(tmp_path: Path) -> None:
    path = trail(tmp_path)
    changed = erase(path, "u-1")
    verdict = verify(path)
    assert (verdict.broken, verdict.erased, verdict.lines) == (0, changed, LINES + 1)
    assert b"u-1" not in b"".join(file.read_bytes() for file in whole(path))
    *_, last = lines_of(path)
    assert (last[2]["kind"], last[2]["events"]) == ("erasure", changed)
    assert erase(path, "u-1") == 0  # nothing is left, nothing more is recorded
    assert verify(path).lines == LINES + 1


def test_hiding_a_person_without_a_record_shows(tmp_path: Path) -> None:
    path = trail(tmp_path)
    erase(path, "u-1")
    file, place, found = next(each for each in lines_of(path) if each[2].get("user_id") == "u-2")
    pseudonym = lines_of(path)[-1][2]["pseudonym"]
    for name in ("salt", "client_ip"):
        del found[name]
    for hidden in ("erased-ffffffffffff", pseudonym, "u-0"):
        put(file, place, json.dumps({**found, "user_id": hidden}).encode())
        assert verify(path).broken, hidden


def test_the_oldest_file_may_go(tmp_path: Path) -> None:
    path = trail(tmp_path, files=2)
    verdict = verify(path)
    assert verdict.first is not None
    assert verdict.first.seq > 1
    assert verdict.broken == 0


def test_half_a_line_is_owned_up_to_by_the_next_writer(tmp_path: Path) -> None:
    path = trail(tmp_path, max_bytes=10**6)
    with path.open("ab") as file:
        file.write(b'{"event":"audit","n":')
    assert (verify(path).torn, verify(path).broken) == (1, 0)
    again = AuditFile(path)
    again(event(9))
    again.close()
    verdict = verify(path)
    assert (verdict.torn, verdict.broken, verdict.lines) == (1, 0, LINES + 1)
    put(path, LINES + 1, json.dumps(lines_of_tail(path)).encode())
    assert verify(path).broken  # the mark is in the hash


def lines_of_tail(path: Path) -> dict[str, Any]:
    last: dict[str, Any] = json.loads(path.read_bytes().splitlines()[-1])
    del last["torn"]
    return last


def test_lines_from_before_the_chain_are_counted_and_none_may_follow(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    path.write_bytes(event(1) + event(2))
    file = AuditFile(path)
    file(event(3))
    file.close()
    verdict = verify(path)
    assert (verdict.unchained, verdict.lines, verdict.broken) == (2, 1, 0)
    with path.open("ab") as late:
        late.write(event(4))
    assert verify(path).broken == 1


def test_two_writers_make_one_chain(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    first, second = AuditFile(path, max_bytes=700), AuditFile(path, max_bytes=700)
    for number in range(20):
        (first if number % 3 else second)(event(number))
    first.close()
    second.close()
    verdict = verify(path)
    assert (verdict.broken, verdict.lines) == (0, 20)


@given(
    st.dictionaries(
        st.text(max_size=8),
        st.one_of(st.text(max_size=20), st.integers(-(2**53), 2**53), st.booleans(), st.none()),
        max_size=6,
    )
)
def test_whatever_an_event_says_the_chain_holds(
    tmp_path_factory: pytest.TempPathFactory, fields: dict[str, Any]
) -> None:
    path = tmp_path_factory.mktemp("chain") / "audit.jsonl"
    file = AuditFile(path)
    try:
        data = json.dumps(fields).encode() + b"\n"
        file(data * 2)
    finally:
        file.close()
    verdict = verify(path)
    assert (verdict.problems, verdict.lines) == ([], 2)
