"""granian under two tiny applications: the floor under any ASGI gateway here, and the least a proxy can do on it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
from pathlib import Path

from bench.peers.base import UNLIMITED, Check, Launch, Peer
from bench.rig import REPOSITORY, Rig


def granian(application: str, port: int) -> list[str]:
    """granian with the settings the gateway uses: one worker, uvloop, asyncio tasks, no log of its own."""
    options = (
        "--interface asgi --http auto --loop uvloop --task-impl asyncio --workers 1 --no-access-log "
        f"--backlog 4096 --backpressure 16384 --host 127.0.0.1 --port {port}"
    )
    return [sys.executable, "-m", "granian", *options.split(), application]


class _Granian(Peer):
    install = "pip install --require-hashes -r requirements/bench.lock"

    def available(self) -> bool:
        return importlib.util.find_spec("granian") is not None

    def version(self) -> str:
        return importlib.metadata.version("granian")


class GranianEmpty(_Granian):
    name = "granian-empty"
    title = "granian, empty answer"
    does = "the gateway's own server with an application that only answers 200 with no body; proxies nothing"
    checks = Check.ANSWERS

    def launch(self, rig: Rig, directory: Path, port: int, *, limit: int = UNLIMITED) -> Launch:
        return Launch(granian("bench.peers.empty_app:app", port), cwd=REPOSITORY)


class BareProxy(_Granian):
    name = "bare"
    title = "bare ASGI proxy"
    does = "granian and 60 lines of Python that pass requests on: no policy, no log, no error handling"
    checks = Check.ANSWERS | Check.PROXIES

    def launch(self, rig: Rig, directory: Path, port: int, *, limit: int = UNLIMITED) -> Launch:
        env = {"BARE_UPSTREAM": rig.upstream}
        return Launch(granian("bench.peers.bare_app:app", port), env=env, cwd=REPOSITORY)
