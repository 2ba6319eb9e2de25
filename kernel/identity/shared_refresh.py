"""SharedRefresh: one refresh token is spent once in the whole fleet.

A page that comes back after a pause fires several requests at once, and they reach different workers. Were each to spend
the refresh token, the auth service would see it used twice, take it for stolen and end the session (RFC 9700 section
4.14.2). So the first one leaves a mark in the store, asks, and leaves the sealed answer for the others.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import Awaitable, Callable
from contextlib import suppress

import msgspec

from kernel.identity.aead import seal, unseal
from kernel.identity.remote import Answer
from kernel.store.errors import StoreError
from kernel.store.keys import token_refresh
from kernel.store.redis import Script, Store

# Longer than the auth service may take, so that the mark of one that asks still stands while it does.
_CLAIM_MS = 8_000
# How long an answer is of use to requests that were sent before the client had it.
_SHARED_MS = 10_000
_POLL = 0.02
_ASKING = b"asking:"
# Only by whom it belongs to: it may have run out and be another's by now.
_RELEASE = Script(
    "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"
)

Call = Callable[[str], Awaitable[Answer]]
_decoder = msgspec.msgpack.Decoder(Answer)


class SharedRefresh:
    """`call(refresh_token)` asks the auth service, and may raise. Without the store every worker asks for itself."""

    def __init__(self, store: Store, call: Call) -> None:
        self._store = store
        self._call = call

    async def __call__(self, refresh_token: str) -> Answer:
        """The auth service's answer, whoever asked. Raises what `call` raises, StoreError and TimeoutError."""
        secret = refresh_token.encode()
        key = _key(secret)
        mark = _ASKING + secrets.token_hex(8).encode()
        async with asyncio.timeout(_CLAIM_MS / 1000):
            while True:
                try:
                    ours = await self._claim(key, mark)
                except StoreError:
                    return await self._call(refresh_token)
                if ours:
                    return await self._ask(key, mark, refresh_token)
                # From here on somebody else may be spending the token: to ask as well would end the session.
                answer = await self._await_other(key, secret)
                if answer is not None:
                    return answer

    async def told(self, refresh_token: str) -> Answer | None:
        """What the auth service answered to this token a moment ago, whoever asked; None when the store does not know."""
        secret = refresh_token.encode()
        with suppress(StoreError, ValueError):
            value = await self._store.execute("GET", _key(secret))
            if value is not None and not value.startswith(_ASKING):
                return _open(secret, value)
        return None

    async def forget(self, refresh_token: str) -> None:
        """The session is over: nobody goes on with that answer."""
        with suppress(StoreError):
            await self._store.execute("DEL", _key(refresh_token.encode()))

    async def _claim(self, key: str, mark: bytes) -> bool:
        # The command may be sent twice when the connection breaks: then the mark that is there is ours.
        if await self._store.execute("SET", key, mark, "NX", "PX", _CLAIM_MS) is not None:
            return True
        return bool(await self._store.execute("GET", key) == mark)

    async def _await_other(self, key: str, secret: bytes) -> Answer | None:
        """What another worker was told; None when it failed, and somebody else should ask."""
        while True:
            value = await self._store.execute("GET", key)
            if value is None:
                return None
            if not value.startswith(_ASKING):
                return _open(secret, value)
            await asyncio.sleep(_POLL)

    async def _ask(self, key: str, mark: bytes, refresh_token: str) -> Answer:
        try:
            answer = await self._call(refresh_token)
            if answer.status < 500:
                sealed = seal(refresh_token.encode(), msgspec.msgpack.encode(answer[:3]))
                await self._share(key, sealed)
                return answer
        except BaseException:
            await self._release(key, mark)
            raise
        await self._release(key, mark)
        return answer

    async def _release(self, key: str, mark: bytes) -> None:
        with suppress(StoreError):
            await self._store.run(_RELEASE, [key], [mark])

    async def _share(self, key: str, sealed: bytes) -> None:
        with suppress(StoreError):
            await self._store.execute("SET", key, sealed, "PX", _SHARED_MS)


def _key(secret: bytes) -> str:
    return token_refresh(hashlib.sha256(secret).hexdigest())


def _open(secret: bytes, sealed: bytes) -> Answer:
    """A shared answer. Raises ValueError for what nobody sealed with this refresh token."""
    plain = unseal(secret, sealed)
    if plain is None:
        raise ValueError("not an answer to this refresh token")
    return _decoder.decode(plain)._replace(shared=True)
