"""What an Idempotency-Key costs: `python -m bench.idempotency`. As bench.micro's whole requests, of a POST of 1 KiB.

The store is a real one on the same machine, and what it does itself is not in the loop's time.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import uvloop

from bench.closedloop import Upstream
from bench.keys import ISSUER, Keys
from bench.micro import SILENT, Bench, concurrent, send
from bench.report import markdown
from kernel.build import build_state
from kernel.config import load
from kernel.server.embedded_store import EmbeddedStore

_BODY = b"x" * 1024
_ONE = b"8e03978e-40d5-43e8-bc93-6894a57f9324"


def _post(bench: Bench, key: Callable[[], bytes] | None) -> Callable[[], Awaitable[None]]:
    async def post() -> None:
        scope = bench.scope()
        scope["method"] = "POST"
        scope["headers"].append((b"content-length", b"%d" % len(_BODY)))
        if key is not None:
            scope["headers"].append((b"idempotency-key", key()))
        parts = [_BODY]

        async def receive() -> dict[str, Any]:
            if parts:
                return {"type": "http.request", "body": parts.pop(), "more_body": False}
            return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]  # the client stays

        await bench.gateway(scope, receive, send)

    return post


async def measure() -> list[list[str]]:
    """Rows of the table."""
    keys = Keys()
    server = await asyncio.get_running_loop().create_server(Upstream, "127.0.0.1", 0)
    rows = []
    numbers = itertools.count()
    cases: list[tuple[str, str, Callable[[], bytes] | None]] = [
        ("false", "IDEMPOTENCY=false", None),
        ("true", "IDEMPOTENCY=true, no key", None),
        ("true", "the first request under a key", lambda: b"key-%d" % next(numbers)),
        ("true", "a replay", lambda: _ONE),
    ]
    with EmbeddedStore(max_memory="1gb") as store, tempfile.TemporaryDirectory() as directory:
        for heeded, name, key in cases:
            settings = load(
                {
                    "ENVIRONMENT": "prod",
                    "HTTPS_ONLY": "false",
                    "REDIS_URL": store.url,
                    "JWT_PUBLIC_KEY": keys.public_pem,
                    "JWT_SECRET_KEY": "a-secret-for-service-tokens-of-this-benchmark-only",
                    "JWT_ISSUER": ISSUER,
                    "RATE_LIMIT_REQUESTS": "1000000000",
                    "KEEPALIVE_SECONDS": "600",
                    "INVENTORY_SERVICE_URL": f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}",
                    "IDEMPOTENCY": heeded,
                }
            )
            state = await build_state(settings, store.url, Path(directory))
            try:
                bench = Bench(state, keys.token())
                await bench.connect()
                post = _post(bench, key)
                await post()
                rows.append([name, f"{await concurrent(post) / 1000:,.0f}"])
            finally:
                await state.close()
    server.close()
    return rows


def main() -> int:
    """Print the table."""
    # The access log goes to descriptor 1: the table gets a copy of it, the log lines go nowhere.
    table = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(SILENT, os.O_WRONLY), 1)
    print(markdown(["POST of 1 KiB", "us"], uvloop.run(measure())), file=table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
