"""The second-level cache: what one gateway verified, another one need not; and nothing bad gets in or out of it."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable

import pytest
import redis

from kernel.server.embedded_store import EmbeddedStore
from kernel.store.keys import auth_token
from tests.support.auth_service import code, counter
from tests.support.gateway import GatewayFactory
from tests.support.poll import poll
from tests.support.recorder import Recorder
from tests.support.stack import Stack, stack_env
from tests.support.tokens import access_token, forge, public_pem, service_token, signer

HITS = "gateway_auth_cache_hits_total"
MISSES = "gateway_auth_cache_misses_total"


def name(token: bytes) -> str:
    return auth_token(hashlib.sha256(token).hexdigest())


@pytest.fixture(scope="module")
def other(gateway_factory: GatewayFactory, upstream: Recorder, session_store: EmbeddedStore) -> Stack:
    """Another gateway on the same store."""
    return Stack(gateway_factory(stack_env(upstream, session_store)), upstream)


def stored(client: redis.Redis, token: bytes) -> str:
    """What the cache holds of `token`, once it does: the writing waits for nothing."""
    return str(poll(lambda: client.get(name(token))))


def test_another_gateway_takes_over_what_one_verified(
    stack: Stack, other: Stack, redis_cli: redis.Redis
) -> None:
    token = access_token(user_id="second-level")
    assert stack.ask(token=token).status == 200
    stored(redis_cli, token)
    hits, misses = counter(other.port, HITS), counter(other.port, MISSES)
    reply = other.ask(token=token)
    assert reply.status == 200
    assert other.upstream.requests[-1].header("x-user-id") == ["second-level"]
    assert (counter(other.port, HITS), counter(other.port, MISSES)) == (hits + 1, misses)
    assert other.ask(token=token).status == 200
    assert (counter(other.port, HITS), counter(other.port, MISSES)) == (hits + 2, misses)


@pytest.mark.parametrize(
    ("sign", "most"),
    [
        (lambda: access_token(user_id="ttl", exp=int(time.time()) + 5000), 900),
        (lambda: access_token(user_id="ttl-short", exp=int(time.time()) + 100), 100),
        (service_token, 300),
    ],
    ids=["access", "access with little life left", "service"],
)
def test_the_cache_forgets_in_time_and_never_holds_the_token(
    stack: Stack, redis_cli: redis.Redis, sign: Callable[[], bytes], most: int
) -> None:
    token = sign()
    assert stack.ask(token=token).status == 200
    value = stored(redis_cli, token)
    assert most - 30 <= int(str(redis_cli.ttl(name(token)))) <= most
    for part in token.decode().split("."):
        assert part not in value


def test_a_token_is_refused_at_its_expiry_although_cached_everywhere(
    stack: Stack, other: Stack, redis_cli: redis.Redis
) -> None:
    token = access_token(user_id="short", exp=int(time.time()) + 2)
    assert stack.ask(token=token).status == 200
    stored(redis_cli, token)
    assert other.ask(token=token).status == 200
    # As if the store kept it too long.
    redis_cli.persist(name(token))
    poll(lambda: stack.ask(token=token).status == 401)
    assert code(stack.ask(token=token)) == (401, "token-expired")
    assert code(other.ask(token=token)) == (401, "token-expired")


@pytest.mark.parametrize("junk", ["", "{}", "\x00", '{"v":1}', "[" * 5000])
def test_junk_in_the_cache_is_as_good_as_nothing(stack: Stack, redis_cli: redis.Redis, junk: str) -> None:
    token = access_token(user_id=f"junk-{len(junk)}")
    redis_cli.set(name(token), junk)
    assert stack.ask(token=token).status == 200


def test_a_key_of_another_type_in_the_cache_is_as_good_as_nothing(
    stack: Stack, redis_cli: redis.Redis
) -> None:
    token = access_token(user_id="wrong-type")
    redis_cli.lpush(name(token), "x")
    assert stack.ask(token=token).status == 200


def test_a_record_for_which_no_key_of_today_stands_opens_nothing(
    stack: Stack, redis_cli: redis.Redis
) -> None:
    good = access_token(user_id="honest")
    assert stack.ask(token=good).status == 200
    record = stored(redis_cli, good)
    trust = record.split('"trust":"')[1].split('"')[0]
    forged = access_token("rsa-2", user_id="honest")
    redis_cli.set(name(forged), record.replace(trust, "RS256:somebody-else"))
    assert code(stack.ask(token=forged)) == (401, "token-signature")


def test_a_record_opens_nothing_for_another_token(stack: Stack, redis_cli: redis.Redis) -> None:
    """Whoever can write to the store knows how a record looks, and which key is trusted."""
    good = access_token(user_id="honest-2")
    assert stack.ask(token=good).status == 200
    record = stored(redis_cli, good)
    forged = access_token("rsa-2", user_id="honest-2")
    for attempt in (record, record.partition(":")[2], "0" * 64 + ":" + record.partition(":")[2]):
        redis_cli.set(name(forged), attempt)
        assert code(stack.ask(token=forged)) == (401, "token-signature")
        poll(lambda: stack.ask(token=good).status == 200)
    redis_cli.set(name(good), record.replace("honest-2", "mallory2"))
    assert stack.ask(token=good).status == 200
    assert stack.upstream.requests[-1].header("x-user-id") == ["honest-2"]


def test_refused_tokens_write_nothing(stack: Stack, redis_cli: redis.Redis) -> None:
    bad = [
        *(access_token("rsa-2", user_id=f"stranger-{number}") for number in range(20)),
        access_token(exp=int(time.time()) - 1),
        access_token(iss="bakery"),
        forge({"alg": "none"}, {"user_id": "x"}),
        forge({"alg": "HS256"}, {"user_id": "x"}, signer("HS256", public_pem().encode())),
        b"not-a-token",
    ]
    for token in bad:
        assert stack.ask(token=token).status == 401
    # What was written before this comes after it in the same connection.
    good = access_token(user_id="after")
    assert stack.ask(token=good).status == 200
    stored(redis_cli, good)
    assert list(redis_cli.scan_iter("auth:token:*")) == [name(good)]


def test_garbage_costs_the_store_no_trip(stack: Stack, redis_cli: redis.Redis) -> None:
    def reads() -> int:
        info = redis_cli.info("commandstats")
        assert isinstance(info, dict)
        return int(info.get("cmdstat_get", {}).get("calls", 0))

    assert stack.ask(token=b"a.b").status == 401
    before = reads()
    for number in range(10):
        assert stack.ask(token=b"garbage-%d" % number).status == 401
    assert reads() == before


def test_without_the_store_tokens_are_verified_all_the_same(
    gateway_factory: GatewayFactory, upstream: Recorder, mortal_store: EmbeddedStore
) -> None:
    alone = Stack(gateway_factory(stack_env(upstream, mortal_store)), upstream)
    assert alone.ask(token=access_token(user_id="before")).status == 200
    mortal_store.kill()
    assert alone.ask(token=access_token(user_id="during")).status == 200
    assert code(alone.ask(token=access_token("rsa-2"))) == (401, "token-signature")
    mortal_store.start()
    with redis.Redis.from_url(mortal_store.url, decode_responses=True) as client:
        token = access_token(user_id="after")

        def kept() -> bool:
            # A token is written when it is verified: one that came during the outage is not.
            nonlocal token
            token = access_token(user_id=f"after-{time.time()}")
            return alone.ask(token=token).status == 200 and client.get(name(token)) is not None

        poll(kept)
