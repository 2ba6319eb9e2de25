"""Automatic refresh: once per refresh token, and only for the session it belongs to."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest

from kernel.http.problems import AUTH_UNAVAILABLE, TOKEN_EXPIRED, GatewayError
from kernel.identity.expiry import TokenExpired
from kernel.identity.identity import Identity
from kernel.identity.keys import KeySet, secret_key
from kernel.identity.pem import load_public_keys
from kernel.identity.policy import Policy
from kernel.identity.refresh import AnotherSession, Refresher
from kernel.identity.remote import Answer
from kernel.identity.tokens import TokenError, Verifier
from tests.support.tokens import ISSUER, SECRET, access_token, forge, public_pem, service_token, signer


class Clock:
    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


class Auth:
    """An auth service whose refresh tokens are spent by one use, as rotation demands."""

    def __init__(self, **claims: Any) -> None:
        self.claims = claims
        self.calls = 0
        self.valid = {"refresh-1"}
        self.go = asyncio.Event()
        self.go.set()
        self.answer: Answer | Exception | None = None

    async def __call__(self, refresh_token: str) -> Answer:
        self.calls += 1
        await self.go.wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        if self.answer is not None:
            return self.answer
        if refresh_token not in self.valid:
            return Answer(401, b'{"detail":"spent"}')
        self.valid = {"refresh-2"}
        token = access_token(**({"exp": int(time.time()) + 600} | self.claims)).decode()
        cookies = ((b"content-type", b"application/json"), (b"Set-Cookie", b"refresh=refresh-2; HttpOnly"))
        return Answer(
            200, json.dumps({"access_token": token, "refresh_token": "refresh-2"}).encode(), cookies
        )


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def verifier(clock: Clock) -> Verifier:
    keys = KeySet([*load_public_keys(public_pem(), "RS256"), secret_key(SECRET)])
    return Verifier(
        keys, Policy(issuers=frozenset((ISSUER,)), services=frozenset(("demo-session",))), clock=clock
    )


def expired(verifier: Verifier, **changes: Any) -> Identity:
    with pytest.raises(TokenExpired) as error:
        verifier.verify(access_token(**({"exp": int(time.time()) - 5} | changes)))
    return error.value.identity


async def test_expired_session_goes_on_with_new_tokens(verifier: Verifier) -> None:
    refreshed = await Refresher(verifier, Auth(tenant_role="viewer")).refresh(expired(verifier), "refresh-1")
    assert refreshed.refresh_token == "refresh-2"
    assert refreshed.cookies == (b"refresh=refresh-2; HttpOnly",)
    assert (refreshed.identity.user_id, refreshed.identity.role) == ("user-1", "viewer")
    assert verifier.cached(refreshed.access_token.encode()) is refreshed.identity


async def test_all_requests_of_a_page_share_one_refresh_even_the_late_ones(
    verifier: Verifier, clock: Clock
) -> None:
    auth = Auth()
    refresher = Refresher(verifier, auth)
    session = expired(verifier)
    answers = await asyncio.gather(*(refresher.refresh(session, "refresh-1") for _ in range(20)))
    assert auth.calls == 1
    assert len({answer.access_token for answer in answers}) == 1
    clock.now += 9.9
    assert (await refresher.refresh(session, "refresh-1")).access_token == answers[0].access_token
    clock.now += 0.2
    with pytest.raises(TokenError):
        await refresher.refresh(session, "refresh-1")
    assert auth.calls == 2


async def test_client_that_leaves_does_not_lose_the_rotated_token_for_the_others(verifier: Verifier) -> None:
    auth = Auth()
    auth.go.clear()
    refresher = Refresher(verifier, auth)
    session = expired(verifier)
    leaver = asyncio.create_task(refresher.refresh(session, "refresh-1"))
    while not auth.calls:
        await asyncio.sleep(0)
    leaver.cancel()
    await asyncio.gather(leaver, return_exceptions=True)
    auth.go.set()
    assert (await refresher.refresh(session, "refresh-1")).refresh_token == "refresh-2"
    assert auth.calls == 1
    await refresher.close()


async def test_another_users_refresh_token_is_refused_and_what_came_of_it_not_lost(
    verifier: Verifier,
) -> None:
    auth = Auth(user_id="user-2")
    refresher = Refresher(verifier, auth)
    other, owner = expired(verifier, user_id="user-1"), expired(verifier, user_id="user-2")
    with pytest.raises(AnotherSession) as error:
        await refresher.refresh(other, "refresh-1")
    assert error.value.kind is TOKEN_EXPIRED
    assert error.value.refreshed.refresh_token == "refresh-2"
    assert (await refresher.refresh(owner, "refresh-1")).refresh_token == "refresh-2"
    # SECURITY: once somebody has it, nobody else gets it with a token that is spent.
    with pytest.raises(TokenError) as refused:
        await refresher.refresh(other, "refresh-1")
    assert not isinstance(refused.value, AnotherSession)
    assert auth.calls == 1


def refresh_jwt(**claims: Any) -> str:
    return forge({"alg": "RS256"}, {"type": "refresh", **claims}, signer("RS256", "rsa-2")).decode()


@pytest.mark.parametrize(
    ("claims", "spent"),
    [
        ({"sub": "user-2"}, False),
        ({"user_id": "user-2"}, False),
        ({"user_id": "user-2", "sub": "user-3"}, False),
        ({"sub": "user-1"}, True),
        ({"sub": "session-7", "user_id": "user-1"}, True),
        ({"sub": "subject-1"}, True),
        ({"family": "f"}, True),
        ({"sub": 7}, True),
    ],
)
async def test_a_refresh_token_that_says_whose_it_is_is_not_spent_for_another(
    verifier: Verifier, claims: dict[str, Any], spent: bool
) -> None:
    auth = Auth(user_id="user-1", sub="subject-1")
    refresher = Refresher(verifier, auth)
    token = refresh_jwt(**claims)
    auth.valid = {token}
    caller = expired(verifier, user_id="user-1", sub="subject-1")
    if spent:
        assert (await refresher.refresh(caller, token)).identity.user_id == "user-1"
    else:
        with pytest.raises(TokenError, match="another session"):
            await refresher.refresh(caller, token)
    assert auth.calls == spent


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
async def test_refused_refresh_leaves_the_token_expired(verifier: Verifier, status: int) -> None:
    auth = Auth()
    auth.answer = Answer(status, b"{}")
    with pytest.raises(TokenError) as error:
        await Refresher(verifier, auth).refresh(expired(verifier), "refresh-1")
    assert error.value.kind is TOKEN_EXPIRED


def issued(**members: Any) -> Answer:
    return Answer(200, json.dumps(members).encode())


@pytest.mark.parametrize(
    "answer",
    [
        Answer(500, b""),
        Answer(429, b""),
        Answer(302, b""),
        Answer(200, b""),
        Answer(200, b"<html>"),
        issued(),
        issued(access_token=1),
        issued(access_token="garbage"),
        issued(access_token="é.é.é"),
        issued(access_token=access_token("rsa-2").decode()),
        issued(access_token=access_token(exp=1).decode()),
        issued(access_token=access_token(type="refresh").decode()),
        issued(access_token=service_token().decode()),
        issued(access_token=access_token().decode(), refresh_token="a\r\nset-cookie: x"),
        issued(access_token=access_token().decode(), refresh_token=""),
        OSError("refused"),
        TimeoutError(),
    ],
)
async def test_auth_service_that_fails_is_503_and_tried_again(
    verifier: Verifier, answer: Answer | Exception
) -> None:
    auth = Auth()
    auth.answer = answer
    refresher = Refresher(verifier, auth)
    session = expired(verifier)
    with pytest.raises(GatewayError) as error:
        await refresher.refresh(session, "refresh-1")
    assert error.value.problem.kind is AUTH_UNAVAILABLE
    auth.answer = None
    assert (await refresher.refresh(session, "refresh-1")).identity.user_id == "user-1"


@pytest.mark.parametrize("token", ["", "a b", "a\nb", "\u00e9", "a" * 4097, "a\0"])
async def test_text_that_is_no_refresh_token_costs_no_call(verifier: Verifier, token: str) -> None:
    auth = Auth()
    with pytest.raises(TokenError):
        await Refresher(verifier, auth).refresh(expired(verifier), token)
    assert auth.calls == 0


async def test_service_token_is_not_refreshed(verifier: Verifier) -> None:
    auth = Auth()
    with pytest.raises(TokenExpired) as error:
        verifier.verify(service_token(exp=1))
    session = error.value.identity
    with pytest.raises(TokenError):
        await Refresher(verifier, auth).refresh(session, "refresh-1")
    assert auth.calls == 0


async def test_shared_result_is_not_used_past_its_own_exp(verifier: Verifier, clock: Clock) -> None:
    auth = Auth(exp=clock.now + 5)
    refresher = Refresher(verifier, auth)
    session = expired(verifier)
    await refresher.refresh(session, "refresh-1")
    clock.now += 5
    with pytest.raises(TokenError):
        await refresher.refresh(session, "refresh-1")
    assert auth.calls == 2


async def test_new_refresh_token_is_optional(verifier: Verifier) -> None:
    auth = Auth()
    auth.answer = issued(access_token=access_token().decode(), token_type="bearer")
    assert (await Refresher(verifier, auth).refresh(expired(verifier), "refresh-1")).refresh_token is None


async def test_memory_of_refreshes_is_bounded(verifier: Verifier) -> None:
    auth = Auth()
    auth.answer = issued(access_token=access_token().decode())
    refresher = Refresher(verifier, auth)
    session = expired(verifier)
    for index in range(1100):
        await refresher.refresh(session, f"refresh-{index}")
    assert len(refresher._recent) <= 1024
