"""Files that several workers append to: whole lines only, whatever becomes of the disk."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from kernel.telemetry.rotating import RotatingFile, existing

# The kernel takes what still fits, then refuses, as a full disk does.
FULL = """
import resource, signal, sys
from pathlib import Path
from kernel.telemetry.rotating import RotatingFile
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
file = RotatingFile(Path(sys.argv[1]), max_bytes=10**6, files=2)
file(b"a" * 59 + b"\\n")
try:
    file(b"b" * 59 + b"\\n")
except OSError as error:
    print(error.errno)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
file(b"c" * 59 + b"\\n")
"""
MANY = """
import sys
from pathlib import Path
from kernel.telemetry.rotating import RotatingFile
sys.stdin.read()  # all begin at once
file = RotatingFile(Path(sys.argv[1]), max_bytes=200, files=1000)
for number in range(200):
    file(f"{sys.argv[2]} {number} {'x' * 40}\\n{sys.argv[2]} {number} again\\n".encode())
"""


def test_half_a_line_is_taken_back(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    done = subprocess.run([sys.executable, "-c", FULL, path], capture_output=True, text=True, check=True)
    assert done.stdout == "27\n"  # EFBIG
    assert path.read_bytes() == b"a" * 59 + b"\n" + b"c" * 59 + b"\n"


def test_several_processes_lose_and_mix_nothing(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    begin, hold = os.pipe()
    writers = [
        subprocess.Popen([sys.executable, "-c", MANY, path, str(name)], stdin=begin) for name in range(3)
    ]
    os.close(begin)
    os.close(hold)
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    files = existing(path)
    assert len(files) > 10
    lines = b"".join(file.read_bytes() for file in files).decode().splitlines()
    for name in range(3):
        own = [line.split() for line in lines if line.startswith(f"{name} ")]
        assert [line[1] for line in own] == [str(number) for number in range(200) for _ in range(2)]
    assert len(lines) == 1200
    assert all(file.stat().st_size <= 200 for file in files)


def test_the_oldest_go_first(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    file = RotatingFile(path, max_bytes=4, files=3)
    for number in range(9):
        file(b"%d\n" % number)
    file.close()
    assert b"".join(each.read_bytes() for each in existing(path)) == b"4\n5\n6\n7\n8\n"
    assert not (tmp_path / "lines.3").exists()
