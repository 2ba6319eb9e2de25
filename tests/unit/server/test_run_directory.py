"""Where a run's directories are made, and what is said when they cannot be."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from kernel.server.run_directory import NoDirectory, make_directory


def test_it_is_private_and_where_temporary_files_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = tempfile.mkdtemp(dir="/tmp")
    monkeypatch.setattr(tempfile, "tempdir", usual)
    made = make_directory("try-")
    assert made.parent == Path(usual)
    assert made.name.startswith("try-")
    assert made.stat().st_mode & 0o777 == 0o700
    made.rmdir()
    Path(usual).rmdir()


@pytest.mark.parametrize(("length", "there"), [(54, True), (55, False)])
def test_a_long_path_is_avoided_for_the_sake_of_sockets(
    length: int, there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = tempfile.mkdtemp(dir="/tmp")
    usual = Path(start, "x" * (length - len(start) - 1))
    usual.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(usual))
    made = make_directory("try-")
    assert made.parent == (usual if there else Path("/tmp"))
    made.rmdir()
    usual.rmdir()
    Path(start).rmdir()


def test_nowhere_to_write_is_said_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [str(tmp_path / "missing")])
    with pytest.raises(NoDirectory, match="No usable temporary directory found.*Mount a writable.*TMPDIR"):
        make_directory("try-")
    monkeypatch.setattr(tempfile, "tempdir", "/proc/none")
    with pytest.raises(NoDirectory, match="No such file or directory"):
        make_directory("try-")
