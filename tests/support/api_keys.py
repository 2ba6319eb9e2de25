"""API keys in tests: made through the API, as their owners do."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from tests.support.inprocess import Local, Reply
from tests.support.tokens import TENANT, access_token

_BUSY = frozenset({"store-unavailable", "rate-limit-unavailable"})
KEYS = f"/api/v1/tenants/{TENANT}/api-keys"


async def make_key(gateway: Local, *scopes: str, token: bytes | None = None, **more: Any) -> dict[str, Any]:
    """The answer to a key's creation: `api_key` is the secret, `key_id` its name."""
    body = {"name": "POS Triana", "scopes": scopes or ("inventory:read",), **more}
    reply = await patiently(
        lambda: gateway.ask("POST", KEYS, token or access_token(), msgspec.json.encode(body))
    )
    assert reply.status == 201, reply.body
    return reply.document


async def call(
    gateway: Local, key: str, target: str = "/api/v1/inventory/items", method: str = "GET", **more: Any
) -> Reply:
    """One request with a key."""
    headers = {"x-api-key": key, **more.pop("headers", {})}
    return await patiently(lambda: gateway.ask(method, target, headers=headers, **more))


async def patiently(ask: Callable[[], Awaitable[Reply]]) -> Reply:
    """The reply to `ask`, asked again while a busy machine's store takes longer than the gateway waits for it."""
    deadline = time.monotonic() + 15
    while (reply := await ask()).code in _BUSY and time.monotonic() < deadline:
        await asyncio.sleep(0.05)
    return reply
