"""Fastify with @fastify/http-proxy on Node, its usual plugins doing the gateway's policies as far as they go."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from bench.keys import ISSUER
from bench.peers.base import HERE, UNLIMITED, Check, Launch, Peer
from bench.rig import REPOSITORY, Rig

PREFIX = "bench/out/node"
# A lock file would name the host it was made with; what these four need themselves is therefore not pinned.
PACKAGES = {
    "fastify": "5.12.8",
    "@fastify/http-proxy": "11.6.3",
    "@fastify/rate-limit": "11.2.0",
    "fast-jwt": "6.3.6",
}
MODULES = REPOSITORY / PREFIX / "node_modules"


class Fastify(Peer):
    name = "fastify"
    title = "Fastify on Node"
    does = (
        "@fastify/http-proxy (undici pool), fast-jwt RS256 with its token cache, claims to headers, "
        "@fastify/rate-limit by user in its own memory, access log by pino; no tenancy, freshness or read-only"
    )
    # After one second V8 is still compiling: p99 was 400 to 600 ms, and 20 to 40 ms three seconds later.
    settle = 2
    checks = Check.ANSWERS | Check.PROXIES | Check.POLICIES
    install = (
        f"npm install --prefix {PREFIX} --no-package-lock --no-audit --no-fund --ignore-scripts "
        + " ".join(f"{name}@{version}" for name, version in PACKAGES.items())
    )

    def available(self) -> bool:
        return shutil.which("node") is not None and all(
            (MODULES / name / "package.json").exists() for name in PACKAGES
        )

    def version(self) -> str:
        found = [
            json.loads((MODULES / name / "package.json").read_text())["version"]
            for name in list(PACKAGES)[:2]
        ]
        return f"{found[0]}, http-proxy {found[1]}"

    def launch(self, rig: Rig, directory: Path, port: int, *, limit: int = UNLIMITED) -> Launch:
        env = {
            "NODE_PATH": str(MODULES),
            "NODE_ENV": "production",
            "FASTIFY_PORT": str(port),
            "FASTIFY_UPSTREAM": f"http://{rig.upstream}",
            "FASTIFY_PUBLIC_KEY": rig.keys.public_pem,
            "FASTIFY_ISSUER": ISSUER,
            "FASTIFY_LIMIT": str(limit),
        }
        command = ["node", str(HERE / "fastify_server.js")]
        return Launch(command, env=env, access_log=directory / "output.log")
