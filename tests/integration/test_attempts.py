"""Guessing passwords is limited by address and by account, logging in is not."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import redis

from kernel.exchange.exchange import Exchange
from kernel.routing.catalog import LOGIN, REFRESH, REGISTER, RouteRow
from kernel.server.embedded_store import EmbeddedStore
from kernel.stages.attempts import accounts_of
from tests.support.inprocess import Local, Reply, local_gateway
from tests.support.stack import Stack

ACCOUNT, ADDRESS = 4, 7
PASSWORD = "right"
ROWS = tuple(
    RouteRow(
        pattern=f"/api/v1/auth/{action}",
        methods=frozenset({"POST"}),
        public=True,
        handler="auth",
        attempts=action,
        always_writable=True,
    )
    for action in (LOGIN, REGISTER, REFRESH)
)


async def auth(x: Exchange) -> None:
    """Logs in who says the password, and makes every account; answers with the body it got."""
    body = b""
    while part := await x.read():
        body += part
    good = PASSWORD.encode() in body or x.raw_path.endswith(b"register")
    await x.respond(200 if good else 401, [(b"content-type", b"text/plain")], body)


@pytest.fixture
async def gateway(
    store_server: EmbeddedStore, redis_cli: redis.Redis, tmp_path: Path
) -> AsyncIterator[Local]:
    async with local_gateway(
        store_server.url,
        tmp_path,
        ROWS,
        {"auth": auth},
        LOGIN_RATE_LIMIT_ACCOUNT=str(ACCOUNT),
        LOGIN_RATE_LIMIT_ADDRESS=str(ADDRESS),
        LOGIN_RATE_LIMIT_WINDOW_SECONDS="86400",
    ) as made:
        made.state.store.timeout = 10.0
        yield made


async def attempt(
    gateway: Local,
    email: str = "anna@example.com",
    password: str = "wrong",
    *,
    client: str = "192.0.2.1",
    action: str = LOGIN,
) -> Reply:
    body = json.dumps({"email": email, "password": password}).encode()
    return await gateway.ask("POST", f"/api/v1/auth/{action}", None, body, client=client)


async def test_an_accounts_guesses_are_limited_wherever_they_come_from(gateway: Local) -> None:
    spelled = ["anna@example.com", "Anna@Example.COM", " anna@example.com "]
    replies = [
        await attempt(gateway, spelled[number % 3], client=f"192.0.2.{number}")
        for number in range(ACCOUNT + 3)
    ]
    assert [reply.status for reply in replies] == [401] * ACCOUNT + [429] * 3
    assert int(replies[-1].header("retry-after") or 0) > 0
    assert '"account";' in (replies[-1].header("ratelimit-policy") or "")
    # Others log in, also from there.
    assert (await attempt(gateway, "ben@example.com", PASSWORD, client="192.0.2.1")).status == 200


async def test_an_addresss_guesses_are_limited_whomever_they_are_for(gateway: Local) -> None:
    statuses = [
        (await attempt(gateway, f"user-{number}@example.com")).status for number in range(ADDRESS + 2)
    ]
    assert statuses == [401] * ADDRESS + [429] * 2
    assert (await attempt(gateway, "user-0@example.com", client="192.0.2.2")).status == 401


async def test_who_logs_in_pays_nothing(gateway: Local) -> None:
    for number in range(5 * ADDRESS):
        assert (await attempt(gateway, f"office-{number}@example.com", PASSWORD)).status == 200
        assert (await attempt(gateway, "everyday@example.com", PASSWORD)).status == 200
    assert all(bucket.held == 0 for bucket in gateway.state.limiter._buckets.values())


async def test_new_accounts_are_paid_for(gateway: Local) -> None:
    replies = [
        await attempt(gateway, f"new-{number}@example.com", action=REGISTER) for number in range(ADDRESS + 1)
    ]
    assert [reply.status for reply in replies] == [200] * ADDRESS + [429]
    # Registering does not keep anybody from logging in.
    assert (await attempt(gateway, "new-0@example.com")).status == 401


async def test_a_refresh_token_that_is_no_good_is_not_tried_for_ever(gateway: Local) -> None:
    body = b'{"refresh_token": "spent"}'
    statuses = [
        (await gateway.ask("POST", "/api/v1/auth/refresh", None, body, client=f"192.0.2.{number}")).status
        for number in range(ACCOUNT + 1)
    ]
    assert statuses == [401] * ACCOUNT + [429]


async def test_what_names_nobody_is_counted_by_address_and_what_nobody_can_read_as_one_account(
    gateway: Local,
) -> None:
    async def ask(body: bytes, number: int) -> int:
        return (
            await gateway.ask("POST", "/api/v1/auth/login", None, body, client=f"192.0.2.{number}")
        ).status

    assert [await ask(b'{"phone": "1"}', number) for number in range(ACCOUNT + 2)] == [401] * (ACCOUNT + 2)
    assert [await ask(b"", number) for number in range(ACCOUNT + 2)] == [401] * (ACCOUNT + 2)
    unreadable = [b"\xff\xfe{", b"x" * 20_000, b'{"a":' * 3000, b"{]"]
    assert [await ask(unreadable[number % 4], number) for number in range(ACCOUNT + 2)] == [
        *[401] * ACCOUNT,
        429,
        429,
    ]


async def test_the_store_sees_no_address_of_an_account(gateway: Local, redis_cli: redis.Redis) -> None:
    await attempt(gateway, "secret-person@example.com")
    keys = [str(key) for key in redis_cli.scan_iter("*")]
    assert any(key.startswith("ratelimit:login:") for key in keys)
    assert not [key for key in keys if "secret-person" in key]


@pytest.mark.parametrize(
    ("kind", "body", "account"),
    [
        ("application/json", '{"email": "A@b.c", "password": "p"}', "a@b.c"),
        ("application/json", '{"username": "Anna"}', "anna"),
        ("application/json", '{"email": null, "username": "u"}', "u"),
        ("application/json", '{"email": "first", "email": "last"}', "last"),
        ("application/json", '{"email": 5}', ""),
        ("application/json", "[]", ""),
        ("application/json", '{"phone": "1"}', ""),
        ("", '{"email": "a"}', "a"),
        ("application/x-www-form-urlencoded", "grant_type=password&username=A%40b.c&password=p", "a@b.c"),
        ("application/x-www-form-urlencoded; charset=utf-8", "username=x&x=1&x=2", "x"),
        ("application/json", '{"email": "decoy", "username": "u"}', "decoy u"),
        (
            "multipart/form-data; boundary=b",
            '--b\r\nContent-Disposition: form-data; name="password"\r\n\r\np\r\n'
            '--b\r\ncontent-disposition: form-data; name="username"\r\nX: y\r\n\r\nAnna\r\n--b--\r\n',
            "anna",
        ),
    ],
)
def test_the_account_is_found_as_services_find_it(kind: str, body: str, account: str) -> None:
    assert accounts_of(kind.encode(), body.encode()) == tuple(account.split())


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "utf-8-sig"])
def test_no_encoding_that_services_read_hides_the_account(encoding: str) -> None:
    assert accounts_of(b"application/json", '{"email": "a@b.c"}'.encode(encoding)) == ("a@b.c",)


@pytest.mark.parametrize("body", [b"", b"x" * 100, b'{"a":' * 10])
def test_what_is_no_document_raises_only_what_is_said(body: bytes) -> None:
    with pytest.raises((ValueError, RecursionError)):
        accounts_of(b"application/json", body)


@pytest.mark.parametrize("size", [0, 10, 16_000, 200_000])
def test_the_service_gets_the_body_as_it_came(stack: Stack, size: int) -> None:
    document: dict[str, Any] = {"email": "whole@example.com", "password": "p" * size}
    body = json.dumps(document).encode()
    stack.upstream.clear()
    assert stack.ask("POST", b"/api/v1/auth/login", body=body, token=None).status == 200
    assert stack.seen().body == body
    chunked = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    stack.upstream.clear()
    reply = stack.ask(
        "POST", b"/api/v1/auth/login", [(b"Transfer-Encoding", b"chunked")], body=chunked, token=None
    )
    assert reply.status == 200
    assert stack.seen().body == body


def test_a_storm_of_bad_logins_is_refused_by_the_built_in_limits(stack: Stack) -> None:
    stack.upstream.answer = lambda seen: (401, {"code": "credentials-invalid"})
    try:
        body = b'{"email": "victim@example.com", "password": "guess"}'
        outcomes = Counter(
            stack.ask("POST", b"/api/v1/auth/login", body=body, token=None).status for _ in range(50)
        )
    finally:
        stack.upstream.answer = None
    assert outcomes[429] >= 35
    assert 10 <= outcomes[401] <= 15
