"""No proxy at all: what the load generator and the upstream reach together on their core."""

from __future__ import annotations

from pathlib import Path

from bench.peers.base import UNLIMITED, Check, Launch, Peer, first_line
from bench.rig import Rig


class Direct(Peer):
    name = "direct"
    title = "direct (no proxy)"
    does = "the upstream itself, the ceiling of load generator and upstream on their one core"
    checks = Check.ANSWERS | Check.PROXIES

    def available(self) -> bool:
        return True

    def version(self) -> str:
        return first_line("nginx", "-v").rpartition("/")[2]

    def launch(self, rig: Rig, directory: Path, port: int, *, limit: int = UNLIMITED) -> Launch | None:
        return None
