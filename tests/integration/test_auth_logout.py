"""Logout: the token is refused by every gateway from the moment the client reads that it is logged out."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis

from kernel.server.embedded_store import EmbeddedStore
from kernel.store.keys import token_revoked
from tests.support.auth_service import code, counter
from tests.support.gateway import GatewayFactory
from tests.support.poll import poll
from tests.support.raw import Reply
from tests.support.recorder import Recorder
from tests.support.stack import Stack, stack_env
from tests.support.tokens import access_token, name_without_jti

LOGOUT = b"/api/v1/auth/logout"
DELAYED = "gateway_revocations_delayed_total"
WAITING = "gateway_revocations_waiting"


@pytest.fixture(scope="module")
def other(gateway_factory: GatewayFactory, upstream: Recorder, session_store: EmbeddedStore) -> Stack:
    """Another gateway on the same store."""
    return Stack(gateway_factory(stack_env(upstream, session_store)), upstream)


@pytest.fixture(autouse=True)
def no_answer_of_its_own(upstream: Recorder) -> Iterator[None]:
    yield
    upstream.answer = None


def log_out(stack: Stack, token: bytes) -> Reply:
    return stack.ask("POST", LOGOUT, token=token)


@pytest.mark.usefixtures("redis_cli")
def test_a_logged_out_token_is_refused_by_two_gateways_at_once(stack: Stack, other: Stack) -> None:
    token = access_token(jti="two-gateways")
    for each in (stack, other):
        assert each.ask(token=token).status == 200
    reply = log_out(stack, token)
    ended = time.monotonic()
    assert reply.status == 200
    assert code(stack.ask(token=token)) == (401, "token-revoked")
    poll(lambda: code(other.ask(token=token)) == (401, "token-revoked"))
    # SPEC: 100 ms; the rest is for this machine's mood.
    assert time.monotonic() - ended < 2
    challenge = str(stack.ask(token=token).header("www-authenticate"))
    assert 'error="invalid_token"' in challenge


@pytest.mark.usefixtures("redis_cli")
def test_the_service_still_sees_the_token_that_logs_out(stack: Stack) -> None:
    token = access_token(jti="seen-by-auth")
    log_out(stack, token)
    assert stack.seen().header("authorization") == [f"Bearer {token.decode()}"]
    assert stack.seen().target == LOGOUT


def test_the_mark_lasts_as_long_as_the_token(stack: Stack, redis_cli: redis.Redis) -> None:
    assert log_out(stack, access_token(jti="ttl", exp=int(time.time()) + 100)).status == 200
    assert 95 <= int(str(redis_cli.ttl(token_revoked("ttl")))) <= 102


def test_a_token_that_never_expires_can_be_logged_out(stack: Stack, redis_cli: redis.Redis) -> None:
    token = access_token(jti="for-ever", exp=1e300)
    assert log_out(stack, token).status == 200
    assert int(str(redis_cli.ttl(token_revoked("for-ever")))) > 10**8
    assert code(stack.ask(token=token)) == (401, "token-revoked")


def test_the_mark_is_there_before_the_client_has_its_answer(stack: Stack, redis_cli: redis.Redis) -> None:
    for number in range(20):
        assert log_out(stack, access_token(jti=f"order-{number}")).status == 200
        assert redis_cli.exists(token_revoked(f"order-{number}"))


@pytest.mark.parametrize("status", [201, 302, 400, 401, 500])
def test_only_a_logout_that_succeeded_revokes(stack: Stack, redis_cli: redis.Redis, status: int) -> None:
    stack.upstream.answer = lambda seen: (status, {}) if seen.target == LOGOUT else None
    jti = f"status-{status}"
    token = access_token(jti=jti)
    assert log_out(stack, token).status == status
    assert bool(redis_cli.exists(token_revoked(jti))) is (status == 201)
    assert stack.ask(token=token).status == (401 if status == 201 else 200)


def test_an_unreachable_auth_service_revokes_nothing(stack: Stack, redis_cli: redis.Redis) -> None:
    stack.upstream.answer = lambda seen: (0, {}) if seen.target == LOGOUT else None
    token = access_token(jti="no-answer")
    assert log_out(stack, token).status == 502
    assert not redis_cli.exists(token_revoked("no-answer"))


def test_only_the_one_token_is_revoked(stack: Stack, redis_cli: redis.Redis) -> None:
    assert log_out(stack, access_token(jti="mine")).status == 200
    assert stack.ask(token=access_token(jti="another")).status == 200
    assert list(redis_cli.scan_iter("token:revoked:*")) == [token_revoked("mine")]


def test_a_token_without_a_name_goes_by_its_digest(
    stack: Stack, other: Stack, redis_cli: redis.Redis
) -> None:
    token = access_token()
    twin = access_token(user_id="somebody-else")
    for each in (stack, other):
        assert each.ask(token=token).status == 200
    assert log_out(stack, token).status == 200
    assert code(stack.ask(token=token)) == (401, "token-revoked")
    poll(lambda: code(other.ask(token=token)) == (401, "token-revoked"))
    assert other.ask(token=twin).status == 200
    assert list(redis_cli.scan_iter("token:revoked:*")) == [token_revoked(name_without_jti(token))]


def test_a_logout_during_an_outage_of_the_store_counts_here_at_once_and_elsewhere_when_it_is_back(
    gateway_factory: GatewayFactory, upstream: Recorder, mortal_store: EmbeddedStore
) -> None:
    alone = Stack(gateway_factory(stack_env(upstream, mortal_store)), upstream)
    token = access_token(jti="outage")
    assert alone.ask(token=token).status == 200
    mortal_store.kill()
    assert log_out(alone, token).status == 200
    assert code(alone.ask(token=token)) == (401, "token-revoked")
    assert counter(alone.port, DELAYED) == 1
    assert counter(alone.port, WAITING) == 1
    assert "revocation waits for the store" in poll(
        lambda: log if "revocation waits" in (log := alone.gateway.log()) else ""
    )
    mortal_store.start()
    with redis.Redis.from_url(mortal_store.url) as client:
        poll(lambda: client.exists(token_revoked("outage")))
    assert code(alone.ask(token=token)) == (401, "token-revoked")
    poll(lambda: counter(alone.port, WAITING) == 0)
    assert code(alone.ask(token=token)) == (401, "token-revoked")


@pytest.mark.usefixtures("redis_cli")
def test_a_hundred_logouts_at_once_all_count(stack: Stack, other: Stack) -> None:
    tokens = [access_token(jti=f"crowd-{number}") for number in range(100)]
    with ThreadPoolExecutor(20) as pool:
        assert {reply.status for reply in pool.map(lambda token: log_out(stack, token), tokens)} == {200}
        for each in (stack, other):
            poll(lambda each=each: {code(r)[1] for r in pool.map(lambda t: each.ask(token=t), tokens)}  # type: ignore[misc]
                 == {"token-revoked"})  # fmt: skip
