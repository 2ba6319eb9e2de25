"""The orders service, at which nothing must happen twice: what reached it, and what it answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from kernel.store.redis import Store
from tests.support.inprocess import Local, Reply, local_gateway
from tests.support.scripted_upstream import Peer, Scripted, scripted
from tests.support.store import until

PATH = "/api/v1/orders/new"
_CREATED = (
    b"HTTP/1.1 201 Created\r\ncontent-type: application/json\r\nlocation: /orders/%d\r\nset-cookie: a=1\r\n"
    b"set-cookie: b=2\r\ndate: Tue, 01 Dec 2026 12:00:00 GMT\r\ncontent-length: %d\r\n\r\n%b"
)


class Orders:
    """Each order gets a number. `gate` is what it waits for before it answers, `answer` what it says instead."""

    def __init__(self) -> None:
        self.seen: list[bytes] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.answer: bytes | None = None
        self.breaks = 0  # so many requests, once read, get no answer
        self.hang_up = False  # after the answer
        self.server: Scripted | None = None

    async def script(self, peer: Peer) -> None:
        while True:
            request = await peer.request()
            if request.startswith(b"GET /health "):
                # Orders come by connections of their own: which are new is for a test to say.
                await peer.send(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
                return
            self.seen.append(request)
            await self.gate.wait()
            if self.breaks:
                self.breaks -= 1
                return
            body = b'{"order": %d}' % len(self.seen)
            await peer.send(self.answer or _CREATED % (len(self.seen), len(body), body))
            if self.hang_up:
                return

    @property
    def url(self) -> str:
        assert self.server is not None
        return self.server.url


@asynccontextmanager
async def orders_service() -> AsyncIterator[Orders]:
    orders = Orders()
    async with scripted(orders.script) as server:
        orders.server = server
        yield orders


@asynccontextmanager
async def keyed_gateway(
    store_url: str, directory: Path, orders: Orders, *, patience: float = 2.0, **environment: str
) -> AsyncIterator[Local]:
    """A gateway that heeds keys, and waits for the store for up to `patience` seconds: the processors are others', too."""
    env = {"ORDERS_SERVICE_URL": orders.url, "IDEMPOTENCY": "true", **environment}
    async with local_gateway(store_url, directory, (), None, **env) as local:
        await _patient(local.state.store, patience)
        yield local


async def _patient(store: Store, seconds: float) -> None:
    """Let `store` have a connection that waits for so long."""
    store.timeout = seconds
    carrier = store._carrier
    if carrier is not None:
        carrier.abandon(ConnectionResetError("another one is to be more patient"))
    await until(lambda: store._carrier not in (None, carrier), 30)


async def order(
    gateway: Local,
    key: str | None,
    token: bytes,
    body: bytes = b'{"loaves": 3}',
    *,
    method: str = "POST",
    target: str = PATH,
    gone: asyncio.Event | None = None,
    into: Reply | None = None,
    **headers: str,
) -> Reply:
    """One order; `headers` with `_` for `-`."""
    sent = {"content-type": "application/json"}
    if key is not None:
        sent["idempotency-key"] = key
    sent |= {name.replace("_", "-"): value for name, value in headers.items()}
    return await gateway.ask(method, target, token, body, headers=sent, gone=gone, into=into)
