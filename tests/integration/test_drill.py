"""A short drill (see tests/drills): what fails at random must break no promise."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_minute_of_trouble_breaks_no_promise() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "tests.drills", "--seconds", "45", "--seed", "5"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-3000:]
