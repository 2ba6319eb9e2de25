"""Without a key of its own the gateway asks the auth service, once for each token."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis

from kernel.server.embedded_store import EmbeddedStore
from tests.support.auth_service import VERIFY, Asked, AuthService, auth_service, code
from tests.support.gateway import GatewayFactory
from tests.support.poll import poll
from tests.support.recorder import Recorder
from tests.support.stack import Stack, stack_env
from tests.support.tokens import access_token, service_token

GOOD = (200, {"active": True, "claims": {}}, ())


@pytest.fixture(scope="module")
def running_auth() -> Iterator[AuthService]:
    with auth_service() as service:
        yield service


@pytest.fixture
def auth(running_auth: AuthService, redis_cli: redis.Redis) -> AuthService:
    """It finds every token good, unless the test says otherwise. The store is empty."""
    running_auth.reset()
    running_auth.answers[VERIFY] = GOOD
    return running_auth


@pytest.fixture(scope="module")
def env(upstream: Recorder, session_store: EmbeddedStore, running_auth: AuthService) -> dict[str, str]:
    env = stack_env(upstream, session_store, ENVIRONMENT="staging", AUTH_SERVICE_URL=running_auth.url)
    del env["JWT_PUBLIC_KEY"]
    return env


@pytest.fixture(scope="module")
def keyless(gateway_factory: GatewayFactory, env: dict[str, str], upstream: Recorder) -> Stack:
    return Stack(gateway_factory(env), upstream)


@pytest.fixture(scope="module")
def second(gateway_factory: GatewayFactory, env: dict[str, str], upstream: Recorder) -> Stack:
    return Stack(gateway_factory(env), upstream)


def test_the_auth_service_is_asked_once_however_many_requests_wait(keyless: Stack, auth: AuthService) -> None:
    token = access_token(user_id="crowd")
    auth.held.add(VERIFY)
    with ThreadPoolExecutor(20) as pool:
        pending = [pool.submit(keyless.ask, token=token) for _ in range(20)]
        poll(lambda: auth.calls[VERIFY])
        auth.go_on.set()
        assert {future.result().status for future in pending} == {200}
    assert keyless.ask(token=token).status == 200
    assert auth.calls[VERIFY] == 1


def test_the_gateway_asks_with_its_own_service_token(keyless: Stack, auth: AuthService) -> None:
    token = access_token(user_id="asked-about")
    assert keyless.ask(token=token).status == 200
    asked = next(each for each in auth.asked if each.path == VERIFY)
    assert asked.document == {"token": token.decode()}
    scheme, _, own = asked.headers["authorization"].partition(" ")
    assert scheme == "Bearer"
    assert own != token.decode()
    assert keyless.ask(token=own.encode()).status == 200  # it is a service's, verified with the shared secret


def test_the_services_word_counts_for_other_gateways_too(
    keyless: Stack, second: Stack, auth: AuthService, redis_cli: redis.Redis
) -> None:
    token = access_token(user_id="shared-word")
    assert keyless.ask(token=token).status == 200
    poll(lambda: list(redis_cli.scan_iter("auth:token:*")))
    assert second.ask(token=token).status == 200
    assert auth.calls[VERIFY] == 1


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ((200, {"active": False, "reason": "logged out"}, ()), (401, "token-signature")),
        ((200, {"valid": False}, ()), (401, "token-signature")),
        ((200, {"active": True, "valid": False}, ()), (401, "token-signature")),
        ((200, {"valid": True}, ()), (200, "")),
        ((200, {"valid": True, "user_id": "another"}, ()), (401, "token-signature")),
        ((401, {}, ()), (401, "token-signature")),
        ((200, {}, ()), (503, "auth-unavailable")),
        ((200, b"<html>", ()), (503, "auth-unavailable")),
        ((500, {}, ()), (503, "auth-unavailable")),
    ],
)
def test_what_the_auth_service_says_decides(
    request: pytest.FixtureRequest,
    keyless: Stack,
    auth: AuthService,
    answer: tuple[int, object, tuple[()]],
    expected: tuple[int, str],
) -> None:
    auth.answers[VERIFY] = answer
    token = access_token(user_id=request.node.name)
    reply = keyless.ask(token=token)
    assert code(reply) == expected
    if reply.status == 503:
        assert reply.header("retry-after") == "1"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"exp": int(time.time()) - 60}, "token-expired"),
        ({"iss": "somebody"}, "token-issuer"),
        ({"type": "refresh"}, "token-type"),
    ],
)
def test_a_token_that_its_own_words_condemn_is_not_asked_about(
    keyless: Stack, auth: AuthService, changes: dict[str, Any], expected: str
) -> None:
    assert code(keyless.ask(token=access_token(**changes))) == (401, expected)
    assert not auth.calls[VERIFY]


def test_service_tokens_need_no_question(keyless: Stack, auth: AuthService) -> None:
    assert keyless.ask(token=service_token()).status == 200
    assert code(keyless.ask(token=service_token(secret="another-secret-0123456789abcdefghij"))) == (
        401,
        "token-signature",
    )
    assert not auth.calls[VERIFY]


def test_an_expired_token_nobody_vouched_for_opens_no_refresh(keyless: Stack, auth: AuthService) -> None:
    expired = access_token(exp=int(time.time()) - 5)
    reply = keyless.ask(headers=[(b"X-Refresh-Token", b"refresh-1")], token=expired)
    assert code(reply) == (401, "token-expired")
    assert not auth.asked


def test_on_a_laptop_the_own_key_and_the_auth_service_both_count(
    gateway_factory: GatewayFactory, env: dict[str, str], upstream: Recorder, auth: AuthService
) -> None:
    laptop = Stack(gateway_factory(env | {"ENVIRONMENT": "dev"}), upstream)

    def verdict(asked: Asked) -> tuple[int, dict[str, bool], tuple[()]]:
        return 200, {"active": asked.document["token"] == good.decode()}, ()

    good, bad = access_token(user_id="laptop"), access_token("rsa-2", user_id="laptop")
    auth.answers[VERIFY] = verdict
    assert laptop.ask(token=good).status == 200
    assert code(laptop.ask(token=bad)) == (401, "token-signature")
    assert "made a key pair for this run" in laptop.gateway.log()


def test_an_auth_service_that_is_down_is_503(
    gateway_factory: GatewayFactory, env: dict[str, str], upstream: Recorder
) -> None:
    with auth_service() as mortal:
        port = mortal.port
        stack = Stack(gateway_factory(env | {"AUTH_SERVICE_URL": f"http://127.0.0.1:{port}"}), upstream)
    reply = stack.ask(token=access_token(user_id="nobody-there"))
    assert code(reply) == (503, "auth-unavailable")
    assert reply.header("retry-after") == "1"
