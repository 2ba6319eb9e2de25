"""A platform in a process of its own, for tests and for the demo."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec

from demo import processes
from demo.platform.info import Info

ROOT = Path(__file__).resolve().parents[2]
COMMAND = (sys.executable, "-m", "demo.platform", "--info", "-")
_decoder = msgspec.json.Decoder(Info)


@contextlib.contextmanager
def platform_process() -> Iterator[Info]:
    """Runs a platform as long as the block does; yields what it says of itself. Raises `RuntimeError`."""
    process = processes.spawn(
        COMMAND, environment=os.environ, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=str(ROOT)
    )
    try:
        assert process.stdout is not None
        with process.stdout:
            line = process.stdout.readline()
            if not line:
                raise RuntimeError(f"the stub platform ended with {process.wait()} before it was ready")
            yield _decoder.decode(line)
    finally:
        processes.stop(process, 2.0)
