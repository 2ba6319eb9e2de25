"""Keys from a JWKS address, through the real gateway: rotation, unknown kids, and addresses that misbehave."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import redis

from kernel.server.embedded_store import EmbeddedStore
from tests.support.auth_service import KEY_SET, AuthService, auth_service, code, counter
from tests.support.gateway import GatewayFactory, free_port
from tests.support.poll import poll
from tests.support.raw import Reply, ask, request
from tests.support.recorder import Recorder
from tests.support.stack import Stack, stack_env
from tests.support.tokens import access_token, public_pem


@pytest.fixture(scope="module")
def running_auth() -> Iterator[AuthService]:
    with auth_service() as service:
        yield service


@pytest.fixture
def auth(running_auth: AuthService, redis_cli: redis.Redis) -> AuthService:
    """The module's auth service, and an empty store: no gateway has the word of another."""
    running_auth.reset()
    return running_auth


@pytest.fixture
def keyless(upstream: Recorder, session_store: EmbeddedStore) -> dict[str, str]:
    """A gateway's environment without a key for users."""
    env = stack_env(upstream, session_store)
    del env["JWT_PUBLIC_KEY"]
    return env


Start = Callable[..., Stack]


@pytest.fixture
def start(gateway_factory: GatewayFactory, keyless: dict[str, str], upstream: Recorder) -> Start:
    """Starts a gateway with these changes to its environment."""
    return lambda **changes: Stack(gateway_factory(keyless | changes), upstream)


def test_keys_are_taken_over_and_rotated(start: Start, auth: AuthService) -> None:
    auth.publish(old="rsa")
    stack = start(JWT_JWKS_URL=auth.key_set_url)
    old = access_token(kid="old")
    assert stack.ask(token=old).status == 200
    assert code(stack.ask(token=access_token("rsa-2", kid="old"))) == (401, "token-signature")
    assert auth.calls[KEY_SET] == 1
    auth.publish(new="rsa-2")
    assert stack.ask(token=access_token("rsa-2", kid="new")).status == 200
    assert auth.calls[KEY_SET] == 2
    # SECURITY: what the old key signed goes with it, cached here and in the store or not.
    assert code(stack.ask(token=old)) == (401, "token-key-unknown")


def test_a_new_key_is_found_beside_a_configured_one_that_has_no_name(start: Start, auth: AuthService) -> None:
    auth.publish(first="rsa-2")
    stack = start(JWT_JWKS_URL=auth.key_set_url, JWT_PUBLIC_KEY=public_pem())
    assert stack.ask(token=access_token()).status == 200
    auth.publish(first="rsa-2", second="rsa-3")
    assert stack.ask(token=access_token("rsa-3", kid="second")).status == 200
    assert stack.ask(token=access_token(kid="anything")).status == 200


def test_a_storm_of_unknown_kids_costs_one_fetch(start: Start, auth: AuthService) -> None:
    auth.publish(here="rsa")
    stack = start(JWT_JWKS_URL=auth.key_set_url)
    assert auth.calls[KEY_SET] == 1
    tokens = [access_token("rsa-2", kid=f"unknown-{number}") for number in range(60)]
    with ThreadPoolExecutor(20) as pool:
        outcomes = {code(reply) for reply in pool.map(lambda token: stack.ask(token=token), tokens)}
    assert outcomes == {(401, "token-key-unknown")}
    assert auth.calls[KEY_SET] == 2
    assert stack.ask(token=access_token(kid="here")).status == 200


def test_a_garbled_answer_leaves_the_last_good_keys(start: Start, auth: AuthService) -> None:
    auth.publish(here="rsa")
    stack = start(JWT_JWKS_URL=auth.key_set_url)
    auth.answers[KEY_SET] = (200, b"<html>", ())
    assert code(stack.ask(token=access_token("rsa-2", kid="new"))) == (401, "token-key-unknown")
    assert auth.calls[KEY_SET] == 2
    assert stack.ask(token=access_token(kid="here", user_id="still-known")).status == 200
    assert stack.ask(target=b"/health/ready", token=None).status == 200
    assert counter(stack.port, 'gateway_jwks_fetches_total{result="failed"}') == 1
    assert "key set not loaded" in poll(lambda: log if "key set" in (log := stack.gateway.log()) else "")


def test_a_hanging_address_holds_up_nobody(start: Start, auth: AuthService) -> None:
    auth.publish(here="rsa")
    stack = start(JWT_JWKS_URL=auth.key_set_url)
    auth.held.add(KEY_SET)
    began = time.monotonic()

    def fetches() -> tuple[float, float]:
        name = 'gateway_jwks_fetches_total{result="%s"}'
        ok, failed = counter(stack.port, name % "ok"), counter(stack.port, name % "failed")
        return ok, failed

    for number in range(10):
        unknown = access_token("rsa-2", kid=f"unknown-{number}")
        assert code(stack.ask(token=unknown)) == (401, "token-key-unknown")
        assert stack.ask(token=access_token(kid="here", user_id=f"known-{number}")).status == 200
        if not number:
            # Both were answered while the fetch was still under way: it has neither come nor been given up.
            assert fetches() == (1, 0)
    # At most once in five seconds.
    assert auth.calls[KEY_SET] <= 2 + (time.monotonic() - began) // 5


def test_until_the_first_keys_have_come_a_gateway_is_not_ready(start: Start, auth: AuthService) -> None:
    auth.publish(here="rsa")
    auth.held.add(KEY_SET)
    port = free_port()
    token = access_token(kid="here")
    headers = [(b"Authorization", b"Bearer " + token)]

    def answer(target: bytes, headers: list[tuple[bytes, bytes]] | None = None) -> Reply | None:
        try:
            return ask(port, request(target=target, headers=headers))
        except OSError:
            return None

    with ThreadPoolExecutor(1) as pool:
        starting = pool.submit(lambda: start(JWT_JWKS_URL=auth.key_set_url, PORT=str(port)))
        ready = poll(lambda: answer(b"/health/ready"))
        assert ready is not None
        assert ready.status == 503
        assert b"keys" in ready.body
        live = answer(b"/health/live")
        assert live is not None
        assert live.status == 200
        # Whether the token is good is not known: that is no fault of the client's.
        refused = answer(b"/api/v1/inventory/items", headers)
        assert refused is not None
        assert code(refused) == (503, "auth-unavailable")
        assert refused.header("retry-after") == "1"
        auth.go_on.set()
        stack = starting.result()
    assert stack.ask(token=token).status == 200


def test_two_issuers_sign_each_for_itself(start: Start, auth: AuthService) -> None:
    auth.publish(ours="rsa")
    with auth_service() as partner:
        partner.publish(theirs="rsa-2")
        stack = start(
            JWT_JWKS_URL=f"bakery-auth={auth.key_set_url},partner={partner.key_set_url}",
            JWT_ISSUER="bakery-auth,partner",
        )
        poll(lambda: partner.calls[KEY_SET])
        assert stack.ask(token=access_token(kid="ours")).status == 200
        assert stack.ask(token=access_token("rsa-2", kid="theirs", iss="partner")).status == 200
        wrong = access_token("rsa-2", kid="theirs", iss="bakery-auth")
        assert code(stack.ask(token=wrong)) == (401, "token-key-unknown")


def test_several_keys_of_the_configuration_are_told_apart_by_kid(start: Start, tmp_path: Path) -> None:
    for name in ("rsa", "rsa-2"):
        (tmp_path / f"{name}.pem").write_text(public_pem(name))
    stack = start(JWT_PUBLIC_KEY=f"one={tmp_path}/rsa.pem,two={tmp_path}/rsa-2.pem")
    assert stack.ask(token=access_token(kid="one")).status == 200
    assert stack.ask(token=access_token("rsa-2", kid="two")).status == 200
    assert code(stack.ask(token=access_token("rsa-2", kid="one"))) == (401, "token-signature")
    assert code(stack.ask(token=access_token("rsa-3", kid="three"))) == (401, "token-key-unknown")
