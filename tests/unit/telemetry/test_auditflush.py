"""Whoever asks for the audit trail gets what running writers still hold, or is told that it is not all."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from kernel.telemetry import audit as kinds
from kernel.telemetry.audit import Audit
from kernel.telemetry.auditfile import AuditFile, export
from kernel.telemetry.auditflush import Flushed, Presence, flush
from kernel.telemetry.writer import Writer
from tests.support.poll import poll


def registered(path: Path) -> list[str]:
    return sorted(
        each.name for each in path.with_name("audit.jsonl.writers").iterdir() if each.name != "flush"
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


async def test_what_two_writers_hold_is_written_before_the_answer(path: Path) -> None:
    loop = asyncio.get_running_loop()
    files = [AuditFile(path), AuditFile(path)]
    writers = [Writer(file) for file in files]
    trails = [Audit(writer, marks=True) for writer in writers]
    for trail in trails:
        trail.start(loop)
    for number, trail in enumerate(trails):
        trail.event(kinds.DENIED, user_id="u-1", route=f"/{number}")
    assert list(export(path, "u-1")) == []
    assert await asyncio.to_thread(flush, path, 60) == Flushed(2, 0)
    assert sorted(found["route"] for found in export(path, "u-1")) == ["/0", "/1"]
    # And once more: the word is another one.
    trails[0].event(kinds.DENIED, user_id="u-1", route="/again")
    assert await asyncio.to_thread(flush, path, 60) == Flushed(2, 0)
    assert len(list(export(path, "u-1"))) == 3
    for trail, writer, file in zip(trails, writers, files, strict=True):
        trail.close()
        assert writer.close(5)
        file.close()
    assert registered(path) == []


def test_the_first_mark_after_a_word_does_not_answer_it(path: Path) -> None:
    presence = Presence(path)
    answers: list[Flushed] = []
    asking = threading.Thread(target=lambda: answers.append(flush(path, 60)))
    asking.start()
    request = path.with_name("audit.jsonl.writers") / "flush"
    poll(lambda: request.exists() and len(request.read_bytes()) == 16)
    presence.mark()
    (own,) = registered(path)
    # What was flushed before this mark may have been gathered before the word came.
    assert (request.parent / own).read_bytes() == b""
    presence.mark()
    asking.join(30)
    assert answers == [Flushed(1, 0)]
    presence.close()


def test_a_writer_that_does_not_answer_is_told(path: Path) -> None:
    presence = Presence(path)
    assert flush(path, 0.2) == Flushed(0, 1)
    presence.close()
    assert flush(path, 0.2) == Flushed(0, 0)


def test_without_writers_nobody_is_waited_for(path: Path) -> None:
    assert flush(path) == Flushed(0, 0)


def test_one_that_was_killed_is_not_waited_for_and_swept_up_by_the_next(path: Path) -> None:
    code = (
        "import sys, os; from pathlib import Path; from kernel.telemetry.auditflush import Presence; "
        "Presence(Path(sys.argv[1])); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == -9
    assert len(registered(path)) == 1
    assert flush(path, 30) == Flushed(0, 0)
    presence = Presence(path)
    assert len(registered(path)) == 1
    presence.close()
