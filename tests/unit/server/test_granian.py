"""What depends on the version of granian, and on when it is loaded."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

from kernel.server.granian import CHECKED

ROOT = Path(__file__).parents[3]
# Tells what jemalloc would read, at the moment at which granian's library is looked for.
SPY = """
import os, sys
class Spy:
    def find_spec(self, name, path=None, target=None):
        if name == "granian._granian":
            print(os.environ.get("_RJEM_MALLOC_CONF"))
sys.meta_path.insert(0, Spy())
import kernel.server.parent
"""


def test_the_versions_that_were_checked_are_those_that_are_installed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert f"granian>={CHECKED[0]},<{CHECKED[1]}" in project["dependencies"]


def test_the_allocator_is_told_before_it_is_loaded() -> None:
    done = subprocess.run([sys.executable, "-c", SPY], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout == "cache_oblivious:false\n"
