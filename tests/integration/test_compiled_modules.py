"""setup.py compiles what a request passes through: no more, since compiling costs, and no less."""

from __future__ import annotations

import ast
import asyncio
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from kernel.app import COMPILED
from kernel.server.embedded_store import EmbeddedStore
from kernel.server.intake import Intake
from tests.support.inprocess import local_gateway
from tests.support.recorder import Recorder
from tests.support.tokens import access_token

ROOT = Path(__file__).parents[2]


def listed() -> set[str]:
    """MODULES of setup.py."""
    for node in ast.parse((ROOT / "setup.py").read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "MODULES":
            return set(ast.literal_eval(node.value))
    raise AssertionError("setup.py has no MODULES")


class Watched:
    """granian's side of one request that comes by the intake."""

    def __init__(self, token: bytes, path: bytes) -> None:
        self.ended = asyncio.Event()
        self.error: BaseException | None = None
        self.status = 0
        self.proto = self
        self.scope: dict[str, Any] = {
            "type": "http",
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "raw_path": path,
            "query_string": b"",
            "client": ("127.0.0.1", "40000"),
            "headers": [
                (b"host", b"gateway.test"),
                (b"origin", b"https://app.example.com"),
                (b"authorization", b"Bearer " + token),
            ],
        }

    async def receive(self) -> dict[str, Any]:
        return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]

    def send(self, message: dict[str, Any]) -> asyncio.Future[None]:
        self.status = message.get("status", self.status)
        done = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done

    def taskref(self, task: asyncio.Task[None]) -> None: ...

    def done(self) -> None:
        self.ended.set()

    def err(self, error: BaseException) -> None:
        self.error = error
        self.ended.set()


class Untold:
    """Nobody wants to know about clients' connections."""

    noted: dict[str, str] | None = None

    def ended(self, client: tuple[str, str]) -> None: ...


# Constants and types: nothing of them runs, but who uses them compiled needs them compiled.
DECLARATIONS = {"kernel/exchange/phase.py"}
# A lease that runs low is renewed while its request goes on; a client is watched when its request takes long.
ASIDE = {"kernel/store/link.py", "kernel/store/redis.py", "kernel/exchange/disconnect.py"}


def entered(frame: FrameType | None) -> bool:
    """Whether `frame` is part of a request, not of what a worker does meanwhile."""
    while frame is not None:
        if frame.f_code.co_name in {"enter", "data_received", "go_on"}:
            return True
        frame = frame.f_back
    return False


@pytest.mark.skipif(COMPILED, reason="compiled modules tell a profiler nothing")
async def test_what_a_request_passes_through_is_what_is_compiled(
    store_server: EmbeddedStore, upstream: Recorder, tmp_path: Path
) -> None:
    steady: set[str] = set()
    ever: set[str] = set()
    into = ever

    def note(frame: FrameType, event: str, arg: object) -> None:
        path = Path(frame.f_code.co_filename)
        if event == "call" and path.is_relative_to(ROOT) and (into is ever or entered(frame)):
            into.add(str(path.relative_to(ROOT)))

    url = upstream.url
    replicas = f"{url},{url.replace('127.0.0.1', 'localhost')}"
    sys.setprofile(note)
    try:
        async with local_gateway(
            store_server.url, tmp_path, INVENTORY_SERVICE_URL=url, SALES_SERVICE_URL=replicas
        ) as local:
            intake = Intake(asyncio.get_running_loop(), local.gateway, Untold())
            token = access_token()

            async def one(path: bytes = b"/api/v1/inventory/items") -> None:
                watched = Watched(token, path)
                intake.put(watched)
                async with asyncio.timeout(10):
                    await watched.ended.wait()
                assert (watched.status, watched.error) == (200, None)

            # The token is new, so are path and connection: by a task. The second has a lease of tokens.
            await one()
            await one(b"/api/v1/sales/orders")
            await local.ask("GET", "/api/v1/training/ws", token, headers={"origin": "https://a.example"})
            await one()
            into = steady
            for _ in range(3):
                await one()
    finally:
        sys.setprofile(None)

    def product(names: set[str]) -> set[str]:
        return {name for name in names if name.startswith(("kernel/", "handlers/"))}

    interpreted = sorted(product(steady) - listed() - ASIDE)
    assert interpreted == [], "a request passes through these, which setup.py leaves out"
    needless = sorted(listed() - product(ever | steady) - DECLARATIONS)
    assert needless == [], "no request passes through these"
