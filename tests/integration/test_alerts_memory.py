"""A stream holds on to no more of its caller than it needs: there are thousands of them, for hours."""

from __future__ import annotations

import asyncio
import gc
from pathlib import Path
from typing import Any

import pytest

from kernel.exchange.asgi import Message
from kernel.identity.identity import Identity
from kernel.server.embedded_store import EmbeddedStore
from tests.support.inprocess import Local, local_gateway
from tests.support.store import until
from tests.support.tokens import access_token


class Open:
    """An open stream of a gateway in this process."""

    def __init__(self, local: Local, token: bytes) -> None:
        self._gone = asyncio.Event()
        self.written = b""
        scope: dict[str, Any] = {
            "type": "http",
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "raw_path": b"/api/v1/alerts/stream",
            "query_string": b"",
            "headers": [(b"host", b"gateway.test"), (b"authorization", b"Bearer " + token)],
            "client": ("192.0.2.1", "4711"),
        }
        self._task = asyncio.create_task(local.gateway(scope, self._receive, self._send))

    async def ready(self) -> None:
        await until(lambda: b"id: " in self.written)

    async def leave(self) -> None:
        self._gone.set()
        await self._task

    async def _receive(self) -> Message:
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        self.written += message.get("body", b"")


def identities(user: str) -> list[Identity]:
    """Those of a user that are alive, with the claims they were made of."""
    gc.collect()
    return [
        each
        for each in gc.get_objects()
        if isinstance(each, Identity) and each.user_id == user and each.claims.iss
    ]


async def test_who_only_listens_is_not_remembered_but_for_the_logs(
    session_store: EmbeddedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with local_gateway(session_store.url, tmp_path) as local:
        logged: list[tuple[Any, ...]] = []
        monkeypatch.setattr(local.state.access_log, "append", logged.append)
        token = access_token(user_id="listener", jti="listener")
        stream = Open(local, token)
        await stream.ready()
        assert local.state.verifier.cached(token) is None
        assert identities("listener") == []
        await stream.leave()
        assert "listener" in logged[-1]


async def test_whose_token_comes_again_is_remembered(session_store: EmbeddedStore, tmp_path: Path) -> None:
    async with local_gateway(session_store.url, tmp_path) as local:
        token = access_token(user_id="page", jti="page")
        streams = []
        for _ in range(3):
            streams.append(Open(local, token))
            await streams[-1].ready()
        assert local.state.verifier.cached(token) is not None
        # One for all that came after the first.
        assert len(identities("page")) == 1
        for stream in streams:
            await stream.leave()
        # Also by a request that is no stream.
        token = access_token(user_id="clicks", jti="clicks")
        await local.ask("GET", "/api/v1/inventory/items", token)
        stream = Open(local, token)
        await stream.ready()
        assert local.state.verifier.cached(token) is not None
        await stream.leave()
