"""Open streams: they are told within a second when their identity loses its rights, whatever the store goes through."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import Any

import pytest
import redis

from kernel.identity.access import decide
from kernel.identity.claims import Claims
from kernel.identity.identity import Identity, TenantContext, access_identity
from kernel.server.embedded_store import EmbeddedStore
from kernel.store.redis import Store
from kernel.store.tracked import TrackedMap
from kernel.tenancy.guard import StreamGuard, Watch
from kernel.tenancy.timestamps import Timestamps
from tests.support.store import until

TENANT = "t-1"


def identity(
    *, user: str = "u-1", lasts: float = 600.0, jti: str | None = "j-1", tenant: str = TENANT
) -> Identity:
    now = time.time()
    claims = Claims(exp=now + lasts, iat=now, iss="i", user_id=user, jti=jti, tenant_id=tenant)
    return access_identity(claims, user, "test")


class Streams:
    """A guard and what it told."""

    def __init__(self, guard: StreamGuard) -> None:
        self.guard = guard
        self.told: list[tuple[str, str, float]] = []

    def open(self, name: str, who: Identity, *, locks: bool = False) -> Watch:
        context = decide(who, who.tenant_id)
        assert isinstance(context, TenantContext)
        told: Any = lambda code: self.told.append((name, code, time.monotonic()))  # noqa: E731
        return self.guard.watch(who, context, told, locks=locks)

    @property
    def codes(self) -> list[tuple[str, str]]:
        return [(name, code) for name, code, _ in self.told]

    async def expect(self, *codes: tuple[str, str], within: float = 1.0) -> None:
        """Exactly `codes`, the last of them `within` seconds."""
        began = time.monotonic()
        await until(lambda: len(self.told) >= len(codes), within + 4)
        assert sorted(self.codes) == sorted(codes)
        assert max(moment for _, _, moment in self.told) - began < within


@pytest.fixture
async def tracked(mortal_store: EmbeddedStore) -> AsyncIterator[TrackedMap]:
    store = Store(mortal_store.url, probe=0.05)
    await store.start()
    tracked = TrackedMap(store)
    await tracked.start()
    yield tracked
    await tracked.close()
    await store.close()


@pytest.fixture
async def streams(tracked: TrackedMap) -> AsyncIterator[Streams]:
    guard = StreamGuard(tracked, Timestamps(), lambda rights, stored: 0.0)
    yield Streams(guard)
    await guard.close()


@pytest.fixture
def cli(mortal_store: EmbeddedStore) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(mortal_store.url) as client:
        yield client


CANARIES = itertools.count()


async def settle(streams: Streams, cli: redis.Redis) -> None:
    """Let the guard finish all that it was woken for: a stream that it must end, for a key not read before, is the last of
    it."""
    canary = f"canary-{next(CANARIES)}"
    cli.set(f"token:revoked:{canary}", "1")
    streams.open(canary, identity(jti=canary, tenant="t-canary"))
    await until(lambda: (canary, "token-revoked") in streams.codes)
    # What was announced before the canary's key was read has woken the guard; it may still be reading.
    for _ in range(5):
        await asyncio.sleep(0)
    await until(lambda: not streams.guard._tracked._reading)
    for _ in range(5):
        await asyncio.sleep(0)
    streams.told[:] = [each for each in streams.told if each[0] != canary]


async def test_expiry_is_told_when_it_comes(streams: Streams) -> None:
    streams.open("short", identity(lasts=0.2))
    streams.open("long", identity())
    await streams.expect(("short", "token-expired"))
    assert len(streams.guard) == 1


@pytest.mark.parametrize(
    ("key", "value", "code"),
    [
        ("token:revoked:j-1", "1", "token-revoked"),
        ("tenant:t-1:subscription_changed_at", "99999999999", "token-stale"),
        ("tenant:t-1:subscription_changed_at", "what", "token-stale"),
        ("tenant:t-1:read_only", "", "tenant-read-only"),
        ("platform:read_only", "x", "platform-read-only"),
    ],
)
async def test_a_change_in_the_store_is_told(
    streams: Streams, cli: redis.Redis, key: str, value: str, code: str
) -> None:
    streams.open("writer", identity(), locks=True)
    streams.open("stranger", identity(jti="j-2", tenant="t-2"))
    await settle(streams, cli)
    assert streams.told == []
    cli.set(key, value)
    await streams.expect(("writer", code))


async def test_a_change_between_the_stages_and_the_watch_is_told(
    streams: Streams, tracked: TrackedMap, cli: redis.Redis
) -> None:
    key = "token:revoked:j-1"
    cli.set(key, "1")

    async def known() -> bool:
        value = tracked.get(key)
        return (value if value is None or isinstance(value, str) else await value) == "1"

    # Announced and read: nothing more is to come about it.
    while not (await known() and isinstance(tracked.get(key), str)):
        await asyncio.sleep(0)
    streams.open("late", identity())
    await streams.expect(("late", "token-revoked"))


async def test_a_stream_that_another_ones_end_takes_along_is_not_told(
    streams: Streams, cli: redis.Redis
) -> None:
    told: list[str] = []
    watches: dict[str, Watch] = {}
    context = decide(identity(), TENANT)
    assert isinstance(context, TenantContext)

    def end(name: str, other: str, _code: str) -> None:
        told.append(name)
        watches[other].cancel()

    for name, other in (("one", "two"), ("two", "one")):
        watches[name] = streams.guard.watch(identity(), context, partial(end, name, other))
    await settle(streams, cli)
    cli.set("token:revoked:j-1", "1")
    await settle(streams, cli)
    assert len(told) == 1


async def test_a_younger_token_outlives_an_older_change(streams: Streams, cli: redis.Redis) -> None:
    cli.set("tenant:t-1:subscription_changed_at", str(time.time() - 5))
    streams.open("fresh", identity())
    await settle(streams, cli)
    assert streams.told == []


async def test_readers_do_not_mind_locks(streams: Streams, cli: redis.Redis) -> None:
    streams.open("reader", identity())
    streams.open("writer", identity(user="u-2"), locks=True)
    await settle(streams, cli)
    cli.set("platform:read_only", "x")
    await streams.expect(("writer", "platform-read-only"))


async def test_a_stream_is_told_once_and_a_cancelled_one_never(streams: Streams, cli: redis.Redis) -> None:
    streams.open("one", identity(lasts=0.3))
    streams.open("cancelled", identity(lasts=0.3)).cancel()
    cli.set("token:revoked:j-1", "1")
    await streams.expect(("one", "token-revoked"))
    assert not len(streams.guard)
    assert not streams.guard._by_key
    await until(lambda: streams.guard._task is None)


async def test_changes_while_the_tracking_connection_is_gone_are_told(
    streams: Streams, tracked: TrackedMap, cli: redis.Redis
) -> None:
    streams.open("one", identity())
    await settle(streams, cli)
    for _ in range(5):
        cli.client_kill_filter(_type="normal", skipme=True)
    cli.set("token:revoked:j-1", "1")
    await streams.expect(("one", "token-revoked"), within=2.0)


async def test_an_outage_ends_nothing_but_what_expires_and_hides_no_change(
    streams: Streams, mortal_store: EmbeddedStore, cli: redis.Redis
) -> None:
    streams.open("short", identity(lasts=0.3))
    streams.open("revoked", identity())
    streams.open("quiet", identity(jti="j-2"))
    await settle(streams, cli)
    mortal_store.kill()
    await streams.expect(("short", "token-expired"))
    mortal_store.start()
    cli.set("token:revoked:j-1", "1")
    await streams.expect(("short", "token-expired"), ("revoked", "token-revoked"), within=2.0)


async def test_one_callback_that_fails_keeps_no_other_from_being_told(
    streams: Streams, cli: redis.Redis
) -> None:
    who = identity()
    context = decide(who, TENANT)
    failures: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, about: failures.append(about))

    def fail(_code: str) -> None:
        raise RuntimeError("a stream of somebody else")

    assert isinstance(context, TenantContext)
    streams.guard.watch(who, context, fail)
    streams.open("one", who)
    streams.open("two", identity(jti="j-2"))
    cli.set("token:revoked:j-1", "1")
    await streams.expect(("one", "token-revoked"))
    streams.told.clear()
    cli.set("token:revoked:j-2", "1")
    await streams.expect(("two", "token-revoked"))
    assert len(failures) == 1


async def test_many_streams_of_many_users(streams: Streams, cli: redis.Redis) -> None:
    for number in range(2000):
        streams.open(f"s{number}", identity(user=f"u{number}", jti=f"jti-{number}"))
    await settle(streams, cli)
    cli.set("token:revoked:jti-7", "1")
    await streams.expect(("s7", "token-revoked"))
    cli.set("tenant:t-1:subscription_changed_at", "99999999999")
    await until(lambda: len(streams.told) == 2000)
    await until(lambda: streams.guard._task is None)
