"""Verification by the auth service: asked once, believed only as far as needed."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from kernel.http.problems import (
    AUTH_UNAVAILABLE,
    TOKEN_ALGORITHM,
    TOKEN_CLAIMS,
    TOKEN_EXPIRED,
    TOKEN_ISSUER,
    TOKEN_MALFORMED,
    TOKEN_SIGNATURE,
    TOKEN_TYPE,
    GatewayError,
)
from kernel.identity.expiry import TokenExpired
from kernel.identity.keys import KeySet, secret_key
from kernel.identity.policy import Policy
from kernel.identity.remote import Answer, RemoteVerifier
from kernel.identity.tokens import TokenError, Verifier
from tests.support.tokens import ISSUER, SECRET, access_payload, access_token, forge, service_token

GOOD = Answer(200, b'{"valid":true,"user_id":"user-1","email":"user@example.com"}')


class Auth:
    """An auth service under the test's control."""

    def __init__(self, answer: Answer | Exception = GOOD) -> None:
        self.answer = answer
        self.asked: list[str] = []

    async def __call__(self, token: str) -> Answer:
        self.asked.append(token)
        await asyncio.sleep(0)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def build(auth: Auth, **options: Any) -> tuple[RemoteVerifier, Verifier]:
    policy = Policy(issuers=frozenset((ISSUER,)), services=frozenset(("demo-session",)))
    verifier = Verifier(KeySet([secret_key(SECRET)]), policy, **options)
    return RemoteVerifier(verifier, auth), verifier


async def test_vouched_token_is_asked_about_once_and_cached() -> None:
    auth = Auth()
    remote, verifier = build(auth)
    token = access_token()
    identities = await asyncio.gather(*(remote.verify(token) for _ in range(20)))
    assert auth.asked == [token.decode()]
    assert {identity.user_id for identity in identities} == {"user-1"}
    cached = verifier.cached(token)
    assert cached is not None
    assert (cached.tier, cached.trust) == ("professional", "remote")


@pytest.mark.parametrize(
    "answer",
    [Answer(401, b""), Answer(403, b"{}"), Answer(422, b""), Answer(200, b'{"valid":false}'),
     Answer(200, b'{"valid":true,"user_id":"someone-else"}')],
)  # fmt: skip
async def test_refusal_is_a_refusal_for_a_second(answer: Answer) -> None:
    now = time.time()
    auth = Auth(answer)
    remote, verifier = build(auth, clock=lambda: now)
    token = access_token()
    for _ in range(3):
        with pytest.raises(TokenError) as error:
            await remote.verify(token)
        assert error.value.kind is TOKEN_SIGNATURE
    assert len(auth.asked) == 1
    assert verifier.cached(token) is None
    now += 1.0
    auth.answer = GOOD
    assert (await remote.verify(token)).user_id == "user-1"


@pytest.mark.parametrize(
    "answer",
    [
        Answer(500, GOOD.body), Answer(503, b""), Answer(429, b""), Answer(302, b""), Answer(200, b""),
        Answer(200, b"<html>"), Answer(200, b"{}"), Answer(200, b'{"valid":"true"}'), Answer(200, b'{"valid":1}'),
        Answer(200, b"[" * 5000), OSError("refused"), TimeoutError(), ValueError("any library's own"),
    ],
)  # fmt: skip
async def test_unreachable_or_incomprehensible_service_is_503_and_not_remembered(
    answer: Answer | Exception,
) -> None:
    auth = Auth(answer)
    remote, verifier = build(auth)
    token = access_token()
    with pytest.raises(GatewayError) as error:
        await remote.verify(token)
    assert error.value.problem.kind is AUTH_UNAVAILABLE
    assert verifier.cached(token) is None
    auth.answer = GOOD
    assert (await remote.verify(token)).user_id == "user-1"


@pytest.mark.parametrize(
    ("token", "kind"),
    [
        (b"garbage", TOKEN_MALFORMED),
        (b"a" * 9000 + b".b.c", None),
        (forge({"alg": "none"}, access_payload(), signature=b"x"), TOKEN_ALGORITHM),
        (forge({"alg": "RS256", "crit": []}, access_payload(), signature=b"x"), None),
        (access_token(iss="evil"), TOKEN_ISSUER),
        (access_token(type="refresh"), TOKEN_TYPE),
        (access_token(email="a\r\nb"), TOKEN_CLAIMS),
        (access_token(exp=1), TOKEN_EXPIRED),
        (access_token() + b"\n", TOKEN_MALFORMED),
    ],
)
async def test_token_that_its_own_words_condemn_costs_no_call(token: bytes, kind: object) -> None:
    auth = Auth()
    remote, _ = build(auth)
    with pytest.raises(TokenError) as error:
        await remote.verify(token)
    assert kind in (None, error.value.kind)
    assert not isinstance(error.value, TokenExpired)
    assert auth.asked == []


async def test_service_tokens_are_verified_with_the_local_secret() -> None:
    auth = Auth()
    remote, _ = build(auth)
    assert (await remote.verify(service_token())).service == "demo-session"
    with pytest.raises(TokenError) as error:
        await remote.verify(service_token(secret="another secret, of another platform"))
    assert error.value.kind is TOKEN_SIGNATURE
    assert auth.asked == []


async def test_caller_that_leaves_does_not_take_the_answer_from_the_others() -> None:
    auth = Auth()
    remote, _ = build(auth)
    token = access_token()
    callers = [asyncio.ensure_future(remote.verify(token)) for _ in range(3)]
    await asyncio.sleep(0)
    callers[0].cancel()
    results = await asyncio.gather(*callers[1:])
    assert [identity.user_id for identity in results] == ["user-1"] * 2
    assert len(auth.asked) == 1
    await remote.close()
