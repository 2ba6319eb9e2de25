"""The gateway itself, configured by its environment variables only, every policy on."""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path

from bench.keys import ISSUER
from bench.peers.base import UNLIMITED, Check, Launch, Peer
from bench.rig import REPOSITORY, Rig


class Gateway(Peer):
    tree = REPOSITORY
    name = "gateway"
    title = "Bakery Gateway"
    does = "RS256, limiter through Valkey, tenancy, freshness, subscription, read-only, headers, metrics, access log"
    checks = Check.ANSWERS | Check.PROXIES | Check.POLICIES
    install = "make install"

    def available(self) -> bool:
        return (REPOSITORY / "kernel" / "app.py").exists()

    def version(self) -> str:
        try:
            return importlib.metadata.version("bakery-gateway")
        except importlib.metadata.PackageNotFoundError:
            return "source tree"

    def launch(self, rig: Rig, directory: Path, port: int, *, limit: int = UNLIMITED) -> Launch:
        env = {
            "HOST": "127.0.0.1",
            "PORT": str(port),
            "ENVIRONMENT": "prod",
            "HTTPS_ONLY": "false",
            "WORKERS": "1",
            "LOG_LEVEL": "INFO",
            "DRAIN_SECONDS": "0",
            "REDIS_URL": rig.store_url,
            "JWT_PUBLIC_KEY": rig.keys.public_pem,
            "JWT_ISSUER": ISSUER,
            "JWT_SECRET_KEY": "a-secret-for-service-tokens-of-this-benchmark-only",
            "CORS_ORIGINS": "https://app.example.com",
            "RATE_LIMIT_REQUESTS": str(limit),
            "RATE_LIMIT_WINDOW_SECONDS": "10",
            "INVENTORY_SERVICE_URL": f"http://{rig.upstream}",
            "TENANT_SERVICE_URL": f"http://{rig.upstream}",
            "AUTH_SERVICE_URL": f"http://{rig.upstream}",
        }
        command = [sys.executable, "-m", "kernel", "run"]
        return Launch(command, env=env, access_log=directory / "output.log", cwd=self.tree)


class CompiledGateway(Gateway):
    """The same with its request's way compiled, from a tree of its own."""

    name = "gateway-compiled"
    title = "Bakery Gateway, compiled"
    does = "the same sources, those that a request passes through compiled by mypyc (`make compiled`)"
    install = "make compiled, after every change; it needs a C compiler"
    tree = REPOSITORY / "build" / "compiled"

    def available(self) -> bool:
        # What is measured beside the sources must be made of them.
        own = [*REPOSITORY.glob("kernel/**/*.py"), *REPOSITORY.glob("handlers/**/*.py")]
        twins = [self.tree / path.relative_to(REPOSITORY) for path in own]
        return (self.tree / ".stamp").exists() and all(
            twin.exists() and twin.read_bytes() == path.read_bytes()
            for path, twin in zip(own, twins, strict=True)
        )
