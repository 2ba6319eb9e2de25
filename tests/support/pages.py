"""Runs the commands of a page of the documentation, as who reads it would."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.support.poll import poll

ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SECONDS = 60.0


class Reader:
    """Somebody with a shell in `directory` who pastes a page's blocks into it; `names` stand for ports of the page."""

    def __init__(self, page: str, directory: Path, names: Mapping[str, str]) -> None:
        text = (ROOT / "docs" / page).read_text()
        for name, value in names.items():
            text = text.replace(name, value)
        self.blocks = _BLOCK.findall(text)
        self.directory = directory
        commands = directory / "bin"
        commands.mkdir()
        # The store's socket wants a short path.
        self._temporary = tempfile.mkdtemp(prefix="page-")
        gateway = commands / "gateway"
        gateway.write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" -m kernel "$@"\n')
        gateway.chmod(0o755)
        kept = {name: value for name, value in os.environ.items() if name != "PORT"}
        self._env = kept | {
            "PATH": f"{commands}:{os.environ['PATH']}",
            "TMPDIR": self._temporary,
            "NO_COLOR": "1",
        }
        self._running: list[subprocess.Popen[bytes]] = []

    def run(self, block: str, *codes: int) -> str:
        """Paste a block; what it printed. It ends with one of `codes`, 0 unless they are given."""
        ran = subprocess.run(
            ["bash", "-eo", "pipefail", "-c", block],
            cwd=self.directory,
            env=self._env,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
        assert ran.returncode in (codes or (0,)), f"{block}\n{ran.returncode}: {ran.stdout}{ran.stderr}"
        return ran.stdout + ran.stderr

    def start(self, block: str, until: str) -> None:
        """Paste what runs on, in a terminal of its own; returns when the file `until` is there."""
        output = self.directory / f"output-{len(self._running)}"
        with output.open("wb") as sink:
            process = subprocess.Popen(
                ["bash", "-c", block.strip().replace("gateway demo", "exec gateway demo")],
                cwd=self.directory,
                env=self._env,
                stdout=sink,
                stderr=sink,
                start_new_session=True,
            )
        self._running.append(process)
        there = self.directory / until
        poll(lambda: there.exists() or process.poll() is not None, _SECONDS)
        assert process.poll() is None, output.read_text()

    def close(self) -> None:
        """End what runs on."""
        for process in self._running:
            process.send_signal(signal.SIGTERM)
        for process in self._running:
            process.wait(_SECONDS)
        shutil.rmtree(self._temporary, ignore_errors=True)


@contextmanager
def reading(page: str, directory: Path, names: Mapping[str, str]) -> Iterator[Reader]:
    """A reader, whose demos end with the block."""
    reader = Reader(page, directory, names)
    try:
        yield reader
    finally:
        reader.close()
