"""Automatic refresh: an expired session goes on in the same request, and its refresh token is spent exactly once."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis

from kernel.server.embedded_store import EmbeddedStore
from tests.support.auth_service import REFRESH, Asked, AuthService, auth_service, code, counter
from tests.support.gateway import GatewayFactory
from tests.support.poll import poll
from tests.support.raw import Reply
from tests.support.recorder import Recorder
from tests.support.stack import Stack, stack_env
from tests.support.tokens import access_token

ME = "user-1"
HEADER = b"X-Refresh-Token"


class Sessions:
    """Refresh tokens that are spent by one use; whoever uses one twice loses the session (RFC 9700 4.14.2)."""

    def __init__(self) -> None:
        self.valid: dict[str, str] = {}
        self.replayed: list[str] = []

    def open(self, user: str = ME) -> str:
        token = f"refresh-{secrets.token_hex(8)}"
        self.valid[token] = user
        return token

    def __call__(self, asked: Asked) -> tuple[int, dict[str, Any], tuple[tuple[str, str], ...]]:
        old = asked.document["refresh_token"]
        user = self.valid.pop(old, None)
        if user is None:
            self.replayed.append(old)
            return 401, {"code": "refresh-token-spent"}, ()
        new = self.open(user)
        token = access_token(user_id=user, jti=secrets.token_hex(8)).decode()
        by_cookie = f"refresh_token={old}" in asked.headers.get("cookie", "")
        cookies = (("set-cookie", f"refresh_token={new}; HttpOnly; Path=/api/v1"),) if by_cookie else ()
        return 200, {"access_token": token, "refresh_token": new}, cookies


@pytest.fixture(scope="module")
def running_auth() -> Iterator[AuthService]:
    with auth_service() as service:
        yield service


@pytest.fixture
def auth(running_auth: AuthService, redis_cli: redis.Redis) -> AuthService:
    running_auth.reset()
    return running_auth


@pytest.fixture
def sessions(auth: AuthService) -> Sessions:
    sessions = Sessions()
    auth.answers[REFRESH] = sessions
    return sessions


@pytest.fixture(scope="module")
def shared_stack(
    gateway_factory: GatewayFactory,
    upstream: Recorder,
    session_store: EmbeddedStore,
    running_auth: AuthService,
) -> Stack:
    env = stack_env(upstream, session_store, AUTH_SERVICE_URL=running_auth.url, WORKERS="2")
    return Stack(gateway_factory(env), upstream)


@pytest.fixture(scope="module")
def other(
    gateway_factory: GatewayFactory,
    upstream: Recorder,
    session_store: EmbeddedStore,
    running_auth: AuthService,
) -> Stack:
    """Another gateway on the same store."""
    env = stack_env(upstream, session_store, AUTH_SERVICE_URL=running_auth.url)
    return Stack(gateway_factory(env), upstream)


def expired(**changes: Any) -> bytes:
    return access_token(**({"exp": int(time.time()) - 5, "iat": int(time.time()) - 60} | changes))


def with_header(stack: Stack, refresh: str, token: bytes | None = None, **more: Any) -> Reply:
    return stack.ask(headers=[(HEADER, refresh.encode())], token=token or expired(), **more)


def with_cookie(stack: Stack, refresh: str, cookies: str = "", **more: Any) -> Reply:
    cookie = f"{cookies}refresh_token={refresh}".encode()
    return stack.ask(headers=[(b"Cookie", cookie)], token=expired(), **more)


def test_an_expired_session_goes_on_and_gets_its_new_tokens(stack: Stack, sessions: Sessions) -> None:
    reply = with_header(stack, sessions.open())
    assert reply.status == 200
    new = str(reply.header("x-new-access-token"))
    assert reply.header("x-new-refresh-token") in sessions.valid
    assert "no-store" in reply.all("cache-control")
    # The service sees the new token, once, and the identity that it proves.
    assert stack.seen().header("authorization") == [f"Bearer {new}"]
    assert stack.seen().header("x-user-id") == [ME]
    stack.upstream.clear()
    following = stack.ask(token=new.encode())
    assert following.status == 200
    assert following.header("x-new-access-token") is None


def test_a_session_in_a_cookie_gets_a_cookie_that_scripts_cannot_read(
    stack: Stack, sessions: Sessions
) -> None:
    reply = with_cookie(stack, sessions.open())
    assert reply.status == 200
    (new,) = sessions.valid
    assert reply.all("set-cookie") == [f"refresh_token={new}; HttpOnly; Path=/api/v1"]
    assert reply.header("x-new-access-token")
    assert reply.header("x-new-refresh-token") is None


def test_pages_may_read_the_new_tokens(stack: Stack, sessions: Sessions) -> None:
    origin = (b"Origin", b"https://app.example.com")
    reply = stack.ask(headers=[origin, (HEADER, sessions.open().encode())], token=expired())
    exposed = str(reply.header("access-control-expose-headers")).lower()
    assert "x-new-access-token" in exposed
    assert "x-new-refresh-token" in exposed


@pytest.mark.parametrize("send", [with_header, with_cookie])
def test_the_refresh_token_reaches_the_auth_service_only(
    stack: Stack, sessions: Sessions, send: Callable[..., Reply]
) -> None:
    refresh = sessions.open()
    assert send(stack, refresh).status == 200
    assert refresh.encode() not in stack.upstream.raw
    assert refresh not in stack.gateway.log()
    # Nor when it is not needed.
    stack.upstream.clear()
    headers = [(HEADER, b"unused-1"), (b"Cookie", b"a=1; refresh_token=unused-2; b=2")]
    assert stack.ask(headers=headers).status == 200
    assert b"unused" not in stack.upstream.raw
    assert stack.seen().header("cookie") == ["a=1; b=2"]


def test_fifty_requests_at_once_spend_the_refresh_token_once(
    stack: Stack, other: Stack, sessions: Sessions, auth: AuthService
) -> None:
    """Over three workers of two gateways."""
    refresh, token = sessions.open(), expired()
    with ThreadPoolExecutor(50) as pool:
        targets = [stack if number % 2 else other for number in range(50)]
        replies = list(pool.map(lambda each: with_header(each, refresh, token), targets))
    assert {reply.status for reply in replies} == {200}
    assert auth.calls[REFRESH] == 1
    assert sessions.replayed == []
    assert len({reply.header("x-new-access-token") for reply in replies}) == 1
    assert {reply.header("x-new-refresh-token") for reply in replies} == set(sessions.valid)


def test_the_store_never_holds_a_token(
    stack: Stack, sessions: Sessions, redis_cli: redis.Redis, session_store: EmbeddedStore
) -> None:
    refresh = sessions.open()
    reply = with_header(stack, refresh)
    new = str(reply.header("x-new-access-token"))
    poll(lambda: list(redis_cli.scan_iter("auth:token:*")))
    with redis.Redis.from_url(session_store.url) as raw:
        kept = {key: raw.get(key) for key in raw.scan_iter("auth:*")}
        assert any(key.startswith(b"auth:refresh:") for key in kept)
        assert all(0 < int(str(raw.pttl(key))) <= 15 * 60_000 for key in kept)
    everything = repr(kept)
    for secret in (refresh, new, new.split(".")[2], *sessions.valid):
        assert secret not in everything


def test_new_tokens_are_handed_back_also_when_the_request_is_refused_for_something_else(
    stack: Stack, sessions: Sessions
) -> None:
    reply = stack.ask(
        headers=[(HEADER, sessions.open().encode()), (b"X-Tenant-ID", b"a-strangers")], token=expired()
    )
    assert code(reply) == (403, "tenant-forbidden")
    assert reply.header("x-new-refresh-token") in sessions.valid


def test_another_users_refresh_token_is_refused_and_handed_back(
    stack: Stack, sessions: Sessions, auth: AuthService
) -> None:
    refresh = sessions.open("user-2")
    reply = with_header(stack, refresh)
    assert code(reply) == (401, "token-expired")
    assert stack.upstream.requests == []
    # Whose it is showed only when it was spent: whoever sent it has what came of it, and their session goes on.
    [left] = sessions.valid
    assert reply.header("x-new-refresh-token") == left
    assert reply.header("x-new-access-token") is not None
    owner = expired(user_id="user-2")
    assert with_header(stack, left, owner).status == 200
    # SECURITY: but nobody else gets it by the spent one.
    again = with_header(stack, refresh)
    assert (again.status, again.header("x-new-refresh-token")) == (401, None)
    assert sessions.replayed == []


def test_a_refresh_token_that_says_whose_it_is_is_not_spent_for_another(
    stack: Stack, sessions: Sessions, auth: AuthService
) -> None:
    refresh = access_token(type="refresh", user_id="user-2").decode()
    sessions.valid[refresh] = "user-2"
    assert code(with_header(stack, refresh)) == (401, "token-expired")
    assert code(with_cookie(stack, refresh)) == (401, "token-expired")
    assert not auth.calls[REFRESH]


@pytest.mark.parametrize(
    ("token", "expected"),
    [
        (access_token("rsa-2", exp=int(time.time()) - 5), "token-signature"),
        (access_token(exp=int(time.time()) - 5, iss="bakery"), "token-issuer"),
        (access_token(exp=int(time.time()) - 5, type="refresh"), "token-type"),
    ],
)
def test_only_a_token_that_is_good_but_for_its_age_is_refreshed(
    stack: Stack, sessions: Sessions, auth: AuthService, token: bytes, expected: str
) -> None:
    assert code(with_header(stack, sessions.open(), token)) == (401, expected)
    assert not auth.calls[REFRESH]


def test_without_a_refresh_token_an_expired_token_is_refused(stack: Stack, sessions: Sessions) -> None:
    reply = stack.ask(token=expired())
    assert code(reply) == (401, "token-expired")
    assert 'error="invalid_token"' in str(reply.header("www-authenticate"))


def test_a_spent_refresh_token_ends_the_session(stack: Stack, sessions: Sessions) -> None:
    assert code(with_header(stack, "refresh-of-last-week")) == (401, "token-expired")


def test_a_fresh_token_is_never_refreshed(stack: Stack, sessions: Sessions, auth: AuthService) -> None:
    refresh = sessions.open()
    assert with_header(stack, refresh, access_token()).header("x-new-access-token") is None
    assert not auth.calls[REFRESH]


def test_public_routes_refresh_nothing(stack: Stack, sessions: Sessions, auth: AuthService) -> None:
    reply = with_header(stack, sessions.open(), target=b"/api/v1/auth/login", method="POST")
    assert reply.header("x-new-access-token") is None
    assert auth.calls == {"/api/v1/auth/login": 1}


@pytest.mark.parametrize("answer", [(500, {}, ()), (200, b"<html>", ()), (200, {"access_token": "x"}, ())])
def test_an_auth_service_in_trouble_is_503_and_the_session_is_not_lost(
    stack: Stack, auth: AuthService, answer: tuple[int, object, tuple[()]]
) -> None:
    auth.answers[REFRESH] = answer
    sessions = Sessions()
    refresh = sessions.open()
    reply = with_header(stack, refresh)
    assert code(reply) == (503, "auth-unavailable")
    assert reply.header("retry-after") == "1"
    if answer[0] == 500:
        auth.answers[REFRESH] = sessions
        assert with_header(stack, refresh).status == 200


LOGOUT = "/api/v1/auth/logout"


def logged_out(auth: AuthService) -> tuple[str | None, str | None]:
    """The refresh tokens that the auth service was told to end, by header and by cookie."""
    [asked] = [each for each in auth.asked if each.path == LOGOUT]
    cookies = asked.headers.get("cookie", "")
    named = [
        part.strip().removeprefix("refresh_token=") for part in cookies.split(";") if "refresh_token" in part
    ]
    assert len(named) <= 1
    return asked.headers.get("x-refresh-token"), named[0] if named else None


def leave(stack: Stack, refresh: str, token: bytes, *, cookie: bool) -> Reply:
    sent = (b"Cookie", f"a=1; refresh_token={refresh}".encode()) if cookie else (HEADER, refresh.encode())
    return stack.ask("POST", LOGOUT.encode(), headers=[sent], token=token)


@pytest.mark.parametrize("cookie", [False, True], ids=["header", "cookie"])
def test_logging_out_with_an_expired_token_ends_the_session_and_hands_out_no_new_one(
    stack: Stack, sessions: Sessions, auth: AuthService, redis_cli: redis.Redis, cookie: bool
) -> None:
    reply = leave(stack, sessions.open(), expired(), cookie=cookie)
    assert reply.status == 200
    assert reply.header("x-new-access-token") is None
    assert reply.header("x-new-refresh-token") is None
    assert len(list(redis_cli.scan_iter("token:revoked:*"))) == 1
    # The one that would have gone on.
    [left] = sessions.valid
    assert logged_out(auth) == (left, left)


@pytest.mark.parametrize("cookie", [False, True], ids=["header", "cookie"])
def test_logging_out_tells_the_auth_service_the_refresh_token(
    stack: Stack, sessions: Sessions, auth: AuthService, cookie: bool
) -> None:
    refresh = sessions.open()
    assert leave(stack, refresh, access_token(), cookie=cookie).status == 200
    assert logged_out(auth) == (refresh, refresh)
    assert not auth.calls[REFRESH]


@pytest.mark.parametrize("token", [expired(), access_token()], ids=["expired", "good"])
def test_logging_out_just_after_a_refresh_ends_what_came_of_it(
    stack: Stack, other: Stack, sessions: Sessions, auth: AuthService, token: bytes
) -> None:
    refresh = sessions.open()
    # On another gateway, in the same moment: the page does not have its new tokens yet.
    new = with_header(other, refresh).header("x-new-refresh-token")
    assert leave(stack, refresh, token, cookie=False).status == 200
    assert logged_out(auth) == (new, new)
    # The store does not keep what nobody may go on with.
    assert code(with_header(stack, refresh))[0] == 401
    assert sessions.replayed in ([], [refresh])


def test_a_refresh_token_that_fits_in_no_cookie_goes_by_header(
    stack: Stack, sessions: Sessions, auth: AuthService
) -> None:
    assert leave(stack, "a;b,c", access_token(), cookie=False).status == 200
    assert logged_out(auth) == ("a;b,c", None)


def test_refreshes_are_counted(other: Stack, sessions: Sessions) -> None:
    def counted(result: str) -> float:
        return counter(other.port, f'gateway_auth_refreshes_total{{result="{result}"}}')

    before = counted("refreshed"), counted("refused")
    assert with_header(other, sessions.open()).status == 200
    assert with_header(other, "spent").status == 401
    assert (counted("refreshed"), counted("refused")) == (before[0] + 1, before[1] + 1)


def test_without_the_store_each_gateway_refreshes_by_itself(
    gateway_factory: GatewayFactory,
    upstream: Recorder,
    mortal_store: EmbeddedStore,
    sessions: Sessions,
    auth: AuthService,
) -> None:
    env = stack_env(upstream, mortal_store, AUTH_SERVICE_URL=auth.url)
    alone = Stack(gateway_factory(env), upstream)
    mortal_store.kill()
    refresh, token = sessions.open(), expired()
    with ThreadPoolExecutor(10) as pool:
        replies = list(pool.map(lambda _: with_header(alone, refresh, token), range(10)))
    assert {reply.status for reply in replies} == {200}
    assert auth.calls[REFRESH] == 1
