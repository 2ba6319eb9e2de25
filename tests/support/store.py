"""Fixtures around a real store. `store_server` is shared by the session and emptied for each test that asks for it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from kernel.store.embedded import EmbeddedStore

__all__ = ["mortal_store", "redis_cli", "session_store", "store_server"]


@pytest.fixture(scope="session")
def session_store() -> Iterator[EmbeddedStore]:
    """The session's one server. Tests use `store_server`, which empties it first."""
    with EmbeddedStore() as server:
        yield server


@pytest.fixture
def store_server(session_store: EmbeddedStore) -> EmbeddedStore:
    """A running, empty store; `.url` is its address. Do not stop it: see `mortal_store`."""
    with redis.Redis.from_url(session_store.url) as client:
        client.flushall()
        client.script_flush()
    return session_store


@pytest.fixture
def mortal_store() -> Iterator[EmbeddedStore]:
    """A store of the test's own, which it may `kill()` and `start()` again at the same address."""
    with EmbeddedStore() as server:
        yield server


@pytest.fixture
def redis_cli(store_server: EmbeddedStore) -> Iterator[redis.Redis]:
    """A plain blocking client of `store_server`: the stranger who changes keys by hand."""
    with redis.Redis.from_url(store_server.url, decode_responses=True) as client:
        yield client
