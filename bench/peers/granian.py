"""The floor under any ASGI gateway here: granian answering every request with an empty 200."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
from pathlib import Path

from bench.peers.base import UNLIMITED, Check, Launch, Peer
from bench.rig import REPOSITORY, Rig


class GranianEmpty(Peer):
    name = "granian-empty"
    title = "granian, empty answer"
    does = "the gateway's own server with an application that only answers 200 with no body; proxies nothing"
    checks = Check.ANSWERS
    install = "pip install --require-hashes -r requirements/bench.lock"

    def available(self) -> bool:
        return importlib.util.find_spec("granian") is not None

    def version(self) -> str:
        return importlib.metadata.version("granian")

    def launch(self, rig: Rig, directory: Path, port: int, *, limit: int = UNLIMITED) -> Launch | None:
        options = (
            "--interface asgi --http 1 --loop uvloop --task-impl asyncio --workers 1 --no-access-log "
            f"--backlog 4096 --backpressure 16384 --host 127.0.0.1 --port {port}"
        )
        command = [sys.executable, "-m", "granian", *options.split(), "bench.peers.empty_app:app"]
        return Launch(command, cwd=REPOSITORY)
