"""nginx as a plain proxy: keep-alive to the upstream, no policy, no log."""

from __future__ import annotations

import shutil
from pathlib import Path

from bench.peers.base import UNLIMITED, Check, Launch, Peer, fill, first_line
from bench.rig import Rig


class NginxPlain(Peer):
    name = "nginx"
    title = "nginx, plain proxy"
    does = "no policy, no log; its open source edition cannot verify a JWT"
    checks = Check.ANSWERS | Check.PROXIES
    install = "apt-get install nginx"

    def available(self) -> bool:
        return shutil.which("nginx") is not None

    def version(self) -> str:
        return first_line("nginx", "-v").rpartition("/")[2]

    def launch(self, rig: Rig, directory: Path, port: int, *, limit: int = UNLIMITED) -> Launch:
        config = fill(
            "nginx.conf.in",
            directory / "nginx.conf",
            {"DIRECTORY": directory, "PORT": port, "UPSTREAM": rig.upstream},
        )
        return Launch(["nginx", "-e", "stderr", "-c", str(config)])
