from __future__ import annotations

import asyncio
import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kernel.telemetry import audit as kinds
from kernel.telemetry.audit import LINES_A_SECOND, Audit
from kernel.telemetry.auditfile import AuditFile, erase, export, verify
from kernel.telemetry.redact import Anonymizer
from kernel.telemetry.writer import Writer


def lines(audit: Audit, writer: Writer, sink: list[bytes]) -> list[dict[str, Any]]:
    audit.close()
    assert writer.close(5)
    return [json.loads(line) for line in b"".join(sink).splitlines()]


@pytest.fixture
def sink() -> list[bytes]:
    return []


@pytest.fixture
def writer(sink: list[bytes]) -> Writer:
    return Writer(sink.append)


def test_an_event_says_who_did_what(sink: list[bytes], writer: Writer) -> None:
    audit = Audit(writer)
    audit.event(
        kinds.DENIED,
        request_id="r-1",
        client_ip="203.0.113.7",
        user_id="u-1",
        tenant_id="t-2",
        method="GET",
        route="/api/v1/sales/**",
        status=403,
        problem="tenant-forbidden",
    )
    (line,) = lines(audit, writer, sink)
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "level": "warning",
        "event": "audit",
        "kind": "denied",
        "request_id": "r-1",
        "client_ip": "203.0.113.7",
        "user_id": "u-1",
        "tenant_id": "t-2",
        "method": "GET",
        "route": "/api/v1/sales/**",
        "status": 403,
        "problem": "tenant-forbidden",
    }


def test_what_is_routine_is_no_warning(sink: list[bytes], writer: Writer) -> None:
    audit = Audit(writer)
    audit.event(kinds.ADMIN, route="/metrics", status=200)
    audit.event(kinds.SERVICE_TOKEN, route="/a", status=200)
    audit.event(kinds.SERVICE_TOKEN, route="/b", status=503)
    audit.event(kinds.ADMIN, route="/metrics", status=404, problem="route-unknown")
    audit.event(kinds.CRITICAL, route="/c", status=200)
    levels = [line["level"] for line in lines(audit, writer, sink)]
    assert levels == ["info", "info", "warning", "warning", "warning"]


def test_beside_anonymous_lines_events_are_anonymous_too(sink: list[bytes], writer: Writer) -> None:
    anonymizer = Anonymizer(b"secret")
    audit = Audit(writer, anonymizer=anonymizer)
    audit.event(kinds.DENIED, client_ip="203.0.113.7", user_id="u-1", status=403, problem="x")
    (line,) = lines(audit, writer, sink)
    assert (line["client_ip"], line["user_id"]) == ("203.0.113.0/24", anonymizer.user("u-1"))
    assert "u-1" not in str(line)


def test_equal_events_become_one_line_with_a_count(sink: list[bytes], writer: Writer) -> None:
    audit = Audit(writer)
    for number in range(1000):
        audit.event(
            kinds.AUTH_FAILURE, client_ip="203.0.113.7", problem="token-expired", request_id=str(number)
        )
    audit.event(kinds.AUTH_FAILURE, client_ip="203.0.113.8", problem="token-expired")
    first, second = lines(audit, writer, sink)
    assert (first["count"], first["request_id"]) == (1000, "0")
    assert first["last"] >= first["timestamp"]
    assert "count" not in second


def test_a_flood_of_different_events_is_summed_up_and_hides_no_other_kind(
    sink: list[bytes], writer: Writer
) -> None:
    audit = Audit(writer)
    for number in range(10_000):
        audit.event(
            kinds.AUTH_FAILURE, client_ip=f"10.0.{number >> 8}.{number & 255}", problem="token-missing"
        )
    audit.event(kinds.CRITICAL, user_id="u-1")
    got = lines(audit, writer, sink)
    assert len(got) == LINES_A_SECOND + 2
    assert sum(line.get("count", 1) for line in got) == 10_001
    assert [line["user_id"] for line in got if line["kind"] == "critical"] == ["u-1"]
    assert [line["problem"] for line in got if line.get("summed_up")] == ["token-missing"]


async def test_events_appear_without_being_asked_for(
    sink: list[bytes], writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kernel.telemetry.audit.FLUSH_SECONDS", 0.01)
    audit = Audit(writer)
    audit.start(asyncio.get_running_loop())
    for number in (1, 2):
        audit.event(kinds.ADMIN)
        while len(sink) < number:
            await asyncio.sleep(0.005)
    audit.close()
    writer.close(5)


def test_log_injection_is_escaped(sink: list[bytes], writer: Writer) -> None:
    audit = Audit(writer)
    audit.event(kinds.DENIED, user_id='x"}\n{"event":"audit"\x1b\x9b')
    assert lines(audit, writer, sink)[0]["user_id"].startswith('x"}\n')
    assert all(0x20 <= byte < 0x7F for byte in b"".join(sink).rstrip(b"\n"))


def event(user: str, **fields: Any) -> bytes:
    return (
        json.dumps({"event": "audit", "user_id": user, "client_ip": "203.0.113.7", **fields}).encode() + b"\n"
    )


def test_files_are_private_rotated_by_size_and_bounded(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    file = AuditFile(path, max_bytes=1000, files=3)
    line = event("u-1")
    for _ in range(100):
        file(line)
    file.close()
    names = {entry.name for entry in tmp_path.iterdir() if entry.is_file()} - {"audit.log.lock"}
    assert {"audit.log.1", "audit.log.2"} <= names <= {"audit.log", "audit.log.1", "audit.log.2"}
    assert all(stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600 for name in names)
    for name in names:
        assert (tmp_path / name).stat().st_size <= 1000 + 500  # one line, sealed


def test_a_file_moved_away_or_deleted_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    file = AuditFile(path)
    file(b'{"n":1}\n')
    path.rename(tmp_path / "kept")
    file(b'{"n":2}\n')
    path.unlink()
    file(b'{"n":3}\n')
    file.close()
    (line,) = path.read_bytes().splitlines()
    assert (json.loads(line)["n"], json.loads(line)["seq"]) == (3, 3)  # that something is gone shows


def test_a_directory_that_is_not_there_is_told_at_start(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="nowhere"):
        AuditFile(tmp_path / "nowhere" / "audit.log")


APPEND = """
import sys
from pathlib import Path
from kernel.telemetry.auditfile import AuditFile
file = AuditFile(Path(sys.argv[1]), max_bytes=20_000, files=100)
for number in range(400):
    file(b'{"by":"%b","n":%d,"x":"%b"}\\n' % (sys.argv[2].encode(), number, b"x" * (number % 90)))
"""


def test_workers_append_and_rotate_together_without_losing_or_mixing_a_line(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    workers = [subprocess.Popen([sys.executable, "-c", APPEND, str(path), name]) for name in ("a", "b", "c")]
    # Meanwhile somebody asks to be forgotten: files are replaced under the writers' hands.
    erased = 0
    file = AuditFile(path, max_bytes=20_000, files=100)
    while any(worker.poll() is None for worker in workers):
        file(event("u-9"))
        erased += erase(path, "u-9")
    file.close()
    assert erased
    assert [worker.wait() for worker in workers] == [0, 0, 0]
    files = [
        entry for entry in tmp_path.iterdir() if entry.is_file() and entry.suffix not in {".lock", ".new"}
    ]
    assert len(files) > 2
    found = [json.loads(line) for file in files for line in file.read_bytes().splitlines()]
    assert sorted((line["by"], line["n"], line["x"]) for line in found if "by" in line) == sorted(
        (name, number, "x" * (number % 90)) for name in ("a", "b", "c") for number in range(400)
    )
    verdict = verify(path)
    assert (verdict.problems, verdict.erased, verdict.lines) == ([], erased, len(found))


def trail(tmp_path: Path) -> Path:
    path = tmp_path / "audit.log"
    (tmp_path / "audit.log.2").write_bytes(event("u-1", n=1) + event("u-2", n=2))
    (tmp_path / "audit.log.1").write_bytes(event("u-2", n=3) + b"torn line u-1\n" + event("u-1", n=4))
    path.write_bytes(event("u-1", n=5, tenant_id="t-1") + event("u-10", n=6) + event("x", note="u-1", n=7))
    return path


def test_export_gives_a_persons_events_of_all_files_oldest_first(tmp_path: Path) -> None:
    assert [found["n"] for found in export(trail(tmp_path), "u-1")] == [1, 4, 5]
    assert list(export(tmp_path / "audit.log", "nobody")) == []


def test_erasing_keeps_the_events_but_not_the_person(tmp_path: Path) -> None:
    path = trail(tmp_path)
    before = path.stat().st_ino
    assert erase(path, "u-1") == 3
    assert list(export(path, "u-1")) == []
    kept = [json.loads(line) for line in path.read_bytes().splitlines()]
    assert kept[0].pop("user_id").startswith("erased-")
    assert kept[0] == {"event": "audit", "n": 5, "tenant_id": "t-1"}
    assert [found["n"] for found in export(path, "u-2")] == [2, 3]
    assert [found["client_ip"] for found in export(path, "u-10")] == ["203.0.113.7"]
    assert b"torn line" in (tmp_path / "audit.log.1").read_bytes()
    assert path.stat().st_ino != before
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not list(tmp_path.glob("*.new"))
    pseudonyms = {
        json.loads(line)["user_id"]
        for name in ("audit.log", "audit.log.1", "audit.log.2")
        for line in (tmp_path / name).read_bytes().splitlines()
        if b'"user_id":"erased-' in line
    }
    assert len(pseudonyms) == 1


def test_ids_that_need_escapes_are_found_too(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    path.write_bytes(event("josé\n"))
    assert erase(path, "josé\n") == 1


def test_a_rewrite_that_was_broken_off_is_swept_up(tmp_path: Path) -> None:
    path = trail(tmp_path)
    (tmp_path / "audit.log.new").write_bytes(b"half")
    assert erase(path, "u-1") == 3
    assert not list(tmp_path.glob("*.new"))


def test_a_full_disk_costs_events_and_is_counted(tmp_path: Path) -> None:
    file = AuditFile(tmp_path / "audit.log")
    writer = Writer(file)
    os.unlink(tmp_path / "audit.log")
    os.symlink("/dev/full", tmp_path / "audit.log")
    writer.write(b'{"lost":true}\n')
    assert writer.close(5)
    assert writer.dropped == 1
