"""The brief's own stack: FastAPI, seven middlewares, redis and an httpx client, under uvicorn."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
from pathlib import Path

from bench.keys import ISSUER
from bench.peers.base import UNLIMITED, Check, Launch, Peer
from bench.rig import REPOSITORY, Rig


class BriefStack(Peer):
    name = "stack"
    title = "the brief's stack"
    does = "FastAPI + 7 middlewares + redis + httpx.AsyncClient, uvicorn with uvloop and httptools"
    checks = Check.ANSWERS | Check.PROXIES | Check.POLICIES
    install = "pip install --require-hashes -r requirements/bench.lock"

    def available(self) -> bool:
        return all(importlib.util.find_spec(name) for name in ("fastapi", "uvicorn", "httpx", "redis"))

    def version(self) -> str:
        return f"FastAPI {importlib.metadata.version('fastapi')}, httpx {importlib.metadata.version('httpx')}"

    def launch(self, rig: Rig, directory: Path, port: int, *, limit: int = UNLIMITED) -> Launch:
        env = {
            "STACK_UPSTREAM": f"http://{rig.upstream}",
            "STACK_REDIS": rig.store_url,
            "STACK_PUBLIC_KEY": rig.keys.public_pem,
            "STACK_ISSUER": ISSUER,
            "STACK_LIMIT": str(limit),
            "STACK_WINDOW": "10",
        }
        options = (
            f"--host 127.0.0.1 --port {port} --workers 1 --loop uvloop --http httptools "
            "--no-access-log --log-level warning"
        )
        command = [sys.executable, "-m", "uvicorn", *options.split(), "bench.peers.stack_app:app"]
        return Launch(command, env=env, access_log=directory / "output.log", cwd=REPOSITORY)
