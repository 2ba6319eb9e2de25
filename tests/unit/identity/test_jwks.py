"""Keys from a JWKS address that rotates, lies, hangs or dies."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from kernel.http.problems import TOKEN_ALGORITHM, TOKEN_ISSUER, TOKEN_KEY_UNKNOWN
from kernel.identity.jwks import JwksError, JwksSource, parse_jwks
from kernel.identity.keys import KeySet, secret_key
from kernel.identity.l2_cache import revive
from kernel.identity.policy import Policy
from kernel.identity.tokens import TokenError, Verifier
from tests.support.tokens import (
    ISSUER,
    SECRET,
    access_token,
    forge,
    private_key,
    service_payload,
    service_token,
    signer,
)

FAMILIES: dict[str, Any] = {
    "rsa": RSAAlgorithm,
    "p256": ECAlgorithm,
    "p384": ECAlgorithm,
    "ed25519": OKPAlgorithm,
}


def jwk(name: str = "rsa", **changes: Any) -> dict[str, Any]:
    """The public JWK of a test key, named like it; `...` drops a member."""
    family = FAMILIES[name.partition("-")[0]]
    members = (
        family.to_jwk(private_key(name).public_key(), as_dict=True) | {"kid": name, "use": "sig"} | changes
    )
    members.pop("key_ops", None) if "key_ops" not in changes else None
    return {member: value for member, value in members.items() if value is not ...}


def document(*keys: Any) -> bytes:
    return json.dumps({"keys": list(keys)}).encode()


class Address:
    """A JWKS address under the test's control: `answer` is bytes, an exception, or a coroutine function."""

    def __init__(self, answer: bytes | Exception | Callable[[], Awaitable[bytes]]) -> None:
        self.answer = answer
        self.calls = 0

    async def __call__(self) -> bytes:
        self.calls += 1
        if isinstance(self.answer, bytes):
            return self.answer
        if isinstance(self.answer, Exception):
            raise self.answer
        return await self.answer()


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


async def hang() -> bytes:
    await asyncio.Event().wait()
    raise AssertionError


def build(address: Address, **options: Any) -> tuple[JwksSource, Verifier]:
    keys = KeySet([secret_key(SECRET)])
    source = JwksSource("jwks", address, keys, **options)
    return source, Verifier(keys, Policy(issuers=frozenset((ISSUER, "other")), services=frozenset()))


@asynccontextmanager
async def running(source: JwksSource) -> AsyncIterator[None]:
    task = asyncio.create_task(source.run())
    try:
        yield
    finally:
        task.cancel()
        await source.close()
        await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)


# --- the document ------------------------------------------------------------------------------------------------


def test_keys_of_every_family_are_bound_to_their_algorithm() -> None:
    keys = parse_jwks(
        document(jwk("rsa"), jwk("p256"), jwk("p384"), jwk("ed25519"), jwk("rsa-2", alg="PS512"))
    )
    assert [(key.kid, key.algorithm) for key in keys] == [
        ("rsa", "RS256"),
        ("p256", "ES256"),
        ("p384", "ES384"),
        ("ed25519", "EdDSA"),
        ("rsa-2", "PS512"),
    ]


@pytest.mark.parametrize(
    "unusable",
    [
        {"kty": "oct", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0", "kid": "a"},
        {"kty": "oct", "k": "c2VjcmV0", "alg": "HS256"},
        jwk(alg="HS256"),
        jwk(alg="none"),
        jwk(alg="ES256"),
        jwk("p256", alg="RS256"),
        jwk("p256", alg="ES384"),
        jwk("p256", crv="P-384"),
        jwk("p256", x="AAAA"),
        jwk("p256", x=...),
        jwk("ed25519", crv="X25519"),
        jwk("ed25519", x="AAAA"),
        jwk(use="enc"),
        jwk(key_ops=["sign"]),
        jwk("rsa-1024"),
        jwk(n=...),
        jwk(n="!!!"),
        jwk(n=1),
        jwk(e="AA"),
        jwk(n="A" * 1401),
        jwk(kid=5),
        jwk(kid="a" * 257),
        {"kty": "EC"},
        {},
        [],
        None,
        "key",
        [[[[]]]],
    ],
)
def test_unusable_key_is_passed_over_and_the_others_kept(unusable: Any) -> None:
    keys = parse_jwks(document(unusable, jwk("rsa-2")))
    assert [key.kid for key in keys] == ["rsa-2"]
    with pytest.raises(JwksError):
        parse_jwks(document(unusable))


def test_private_members_are_not_taken_along() -> None:
    family: Any = RSAAlgorithm
    private = family.to_jwk(private_key("rsa"), as_dict=True) | {"key_ops": ["verify"]}
    (key,) = parse_jwks(document(private))
    assert not hasattr(key._material, "private_numbers")


@pytest.mark.parametrize(
    "answer",
    [b"", b"<html>502</html>", b"{}", b'{"keys":{}}', b'{"keys":[]}', b"[]", b"null", b"\xff\xfe", b'{"keys":[' * 900,
     b'{"keys":[{"kty":"RSA","n":' + b"[" * 5000, document(*[jwk()] * 65), document(jwk()) + b" " * 300_000],
)  # fmt: skip
def test_garbled_or_oversized_answer_is_refused_whole(answer: bytes) -> None:
    with pytest.raises(JwksError):
        parse_jwks(answer)


@given(st.binary(max_size=200))
@settings(deadline=None)
def test_garbage_raises_nothing_else(answer: bytes) -> None:
    with pytest.raises(JwksError):
        parse_jwks(answer)


# --- the source --------------------------------------------------------------------------------------------------


async def test_rotation_is_followed_and_forgets_what_the_old_key_said() -> None:
    address = Address(document(jwk("rsa")))
    source, verifier = build(address)
    old, new = access_token("rsa", kid="rsa"), access_token("rsa-2", kid="rsa-2")
    assert await source.refresh()
    verifier.verify(old)
    address.answer = document(jwk("rsa"), jwk("rsa-2"))
    assert await source.refresh()
    assert verifier.verify(old).user_id == verifier.verify(new).user_id
    address.answer = document(jwk("rsa-2"))
    assert await source.refresh()
    assert verifier.cached(old) is None
    with pytest.raises(TokenError) as error:
        verifier.verify(old)
    assert error.value.kind is TOKEN_KEY_UNKNOWN


@pytest.mark.parametrize(
    "answer", [b"", b"<html>", b'{"keys":[]}', OSError("refused"), RuntimeError(), b" " * 300_000]
)
async def test_bad_answer_keeps_the_last_good_keys(answer: bytes | Exception) -> None:
    address = Address(document(jwk("rsa")))
    source, verifier = build(address)
    await source.refresh()
    token = access_token(kid="rsa")
    identity = verifier.verify(token)
    address.answer = answer
    assert not await source.refresh()
    assert verifier.cached(token) is identity
    assert (source.failures, source.loaded) == (1, True)
    assert source.last_error


async def test_hanging_answer_is_given_up_and_delays_no_known_key() -> None:
    address = Address(document(jwk("rsa")))
    source, verifier = build(address, timeout=0.02)
    await source.refresh()
    address.answer = hang
    attempt = asyncio.ensure_future(source.refresh())
    await until(lambda: address.calls == 2)
    assert verifier.verify(access_token(kid="rsa")).user_id == "user-1"
    assert not await attempt
    assert "TimeoutError" in source.last_error


async def test_an_unknown_kid_asks_less_and_less_often() -> None:
    source, _ = build(Address(b""))
    # 5, 10, 20, 40, then 60 seconds apart.
    asked = [second for second in range(241) if source._pays("x", float(second))]
    assert asked == [0, 5, 15, 35, 75, 135, 195]
    assert source._pays("y", 240.0)


async def test_a_storm_of_one_unknown_kid_costs_one_fetch() -> None:
    address = Address(document(jwk("rsa")))
    source, _ = build(address, clock=Clock())
    await source.refresh()
    assert await asyncio.gather(*(source.seek("x") for _ in range(500))) == [True] * 500
    assert address.calls == 2
    assert await asyncio.gather(*(source.seek("x") for _ in range(500))) == [False] * 500
    assert address.calls == 2
    await source.close()


async def test_a_real_key_is_known_five_seconds_after_whatever_was_invented(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("kernel.identity.jwks._SEEK_INTERVAL", 0.05)
    address = Address(document(jwk("rsa")))
    source, verifier = build(address)
    await source.refresh()
    for number in range(300):
        await source.seek(f"invented-{number}")
    address.answer = document(jwk("rsa"), jwk("rsa-2"))
    calls = address.calls
    # It comes once, too early, and need not come again for its key to be fetched.
    await source.seek("rsa-2")
    await until(lambda: len(verifier.keys.trusted) == 3)
    assert address.calls == calls + 1
    await source.close()


async def test_invented_kids_cost_one_fetch_in_five_seconds_together() -> None:
    clock = Clock()
    address = Address(document(jwk("rsa")))
    source, _ = build(address, clock=clock)
    await source.refresh()
    for number in range(1000):
        await source.seek(f"invented-{number}")
    # One at once; the next is made when its time has come.
    assert address.calls == 2
    await source.close()


async def test_new_kid_is_found_by_the_first_request_that_carries_it() -> None:
    address = Address(document(jwk("rsa")))
    source, verifier = build(address)
    await source.refresh()
    address.answer = document(jwk("rsa"), jwk("rsa-2"))
    token = access_token("rsa-2", kid="rsa-2")
    with pytest.raises(TokenError):
        verifier.verify(token)
    assert await source.seek("rsa-2")
    assert verifier.verify(token).user_id == "user-1"


async def test_hanging_address_holds_up_unknown_kids_no_longer_than_patience() -> None:
    clock = Clock()
    address = Address(hang)
    source, _ = build(address, clock=clock, patience=0.02, timeout=60.0)
    assert not await source.seek("rsa-2")
    clock.now += 0.03
    with pytest.raises(StopIteration) as ended:  # later ones do not wait at all
        source.seek("rsa-2").send(None)
    assert ended.value.value is False
    assert address.calls == 1
    await source.close()


async def test_background_loop_refreshes_and_retries_after_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kernel.identity.jwks._FIRST_RETRY", 0.002)
    address = Address(OSError("not up yet"))
    source, verifier = build(address, interval=0.005)
    async with running(source):
        await until(lambda: source.failures >= 3)
        assert not source.loaded
        address.answer = document(jwk("rsa"))
        await until(lambda: source.loaded)
        assert verifier.verify(access_token(kid="rsa")).user_id == "user-1"
        calls = address.calls
        await until(lambda: address.calls > calls + 2)


async def test_request_that_leaves_does_not_cancel_the_fetch() -> None:
    go = asyncio.Event()

    async def slow() -> bytes:
        await go.wait()
        return document(jwk("rsa"))

    source, verifier = build(Address(slow), patience=5.0)
    waiter = asyncio.create_task(source.seek("rsa-2"))
    await until(lambda: source.fetches == 1)
    waiter.cancel()
    await asyncio.gather(waiter, return_exceptions=True)
    go.set()
    await until(lambda: source.loaded)
    assert verifier.verify(access_token(kid="rsa")).user_id == "user-1"


PARTNER = "https://partner.example"


async def two_issuers(ours: bytes, theirs: bytes) -> Verifier:
    keys = KeySet([secret_key(SECRET)])
    policy = Policy(issuers=frozenset((ISSUER, PARTNER)), services=frozenset(("orders",)))
    verifier = Verifier(keys, policy)
    await JwksSource("theirs", Address(theirs), keys, issuer=PARTNER).refresh()
    await JwksSource("ours", Address(ours), keys, issuer=ISSUER).refresh()
    return verifier


def refused(verifier: Verifier, token: bytes) -> object:
    with pytest.raises(TokenError) as error:
        verifier.verify(token)
    return error.value.kind


async def test_keys_bound_to_an_issuer_do_not_sign_for_the_other() -> None:
    verifier = await two_issuers(document(jwk("rsa")), document(jwk("rsa-2")))
    assert verifier.verify(access_token("rsa", kid="rsa")).user_id == "user-1"
    assert verifier.verify(access_token("rsa-2", kid="rsa-2", iss=PARTNER)).user_id == "user-1"
    assert refused(verifier, access_token("rsa-2", kid="rsa-2")) is TOKEN_KEY_UNKNOWN
    assert refused(verifier, access_token("rsa", kid="rsa", iss=PARTNER)) is TOKEN_KEY_UNKNOWN
    assert refused(verifier, access_token("rsa", kid="rsa", iss="https://nobody.example")) is TOKEN_ISSUER
    assert refused(verifier, access_token("rsa", kid="rsa", iss=...)) is TOKEN_KEY_UNKNOWN


@pytest.mark.parametrize(
    "theirs",
    [
        [jwk("rsa-2", kid="ours")],
        [jwk(f"rsa-{n}", kid="ours") for n in "bcdef"],
        [jwk(f"rsa-{n}", kid=...) for n in "bcdef"],
        [jwk("rsa", kid="ours")],
    ],
    ids=["our kid", "five of our kid", "five without", "our very key"],
)
@pytest.mark.parametrize("kid", ["ours", None])
async def test_a_partners_key_set_cannot_crowd_out_our_keys(theirs: list[Any], kid: str | None) -> None:
    verifier = await two_issuers(document(jwk("rsa", kid="ours")), document(*theirs))
    token = access_token("rsa", kid=kid)
    identity = verifier.verify(token)
    assert identity.user_id == "user-1"
    # Nor what another worker verified.
    assert revive(identity.trust, identity.claims, verifier) is not None


async def test_a_key_set_without_an_issuer_cannot_crowd_out_the_others() -> None:
    keys = KeySet()
    verifier = Verifier(keys, Policy(issuers=frozenset((ISSUER,)), services=frozenset()))
    await JwksSource("many", Address(document(*(jwk(f"rsa-{n}", kid="a") for n in "bcdef"))), keys).refresh()
    await JwksSource("ours", Address(document(jwk("rsa", kid="a"))), keys).refresh()
    assert verifier.verify(access_token("rsa", kid="a")).user_id == "user-1"
    assert verifier.verify(access_token("rsa", kid=None)).user_id == "user-1"


async def test_whoever_signs_for_users_makes_no_service() -> None:
    verifier = await two_issuers(document(jwk("rsa")), document(jwk("rsa-2")))
    sign = signer("RS256", "rsa-2")
    forged = forge({"alg": "RS256", "kid": "rsa-2"}, service_payload("orders", iss=PARTNER), sign)
    assert refused(verifier, forged) is TOKEN_ALGORITHM
    own = forge({"alg": "RS256", "kid": "rsa"}, service_payload("orders"), signer("RS256", "rsa"))
    assert refused(verifier, own) is TOKEN_ALGORITHM
    assert verifier.verify(service_token("orders")).service == "orders"


async def test_source_makes_a_fetch_worthwhile_for_public_key_algorithms_only() -> None:
    _, verifier = build(Address(b""))
    with pytest.raises(TokenError) as unknown:
        verifier.keys.candidates("ES256", "x")
    assert unknown.value.kind is TOKEN_KEY_UNKNOWN
    for alg in ("HS512", "none"):
        with pytest.raises(TokenError) as error:
            verifier.keys.candidates(alg, "x")
        assert error.value.kind is TOKEN_ALGORITHM
