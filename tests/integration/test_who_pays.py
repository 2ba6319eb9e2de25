"""Who pays for a request: an address only for tokens that turn out to be no good, everybody else for themselves."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from time import monotonic

import pytest
import redis

from kernel.exchange.exchange import Exchange
from kernel.routing.catalog import ALERT_STREAM, Limit, RouteRow
from kernel.server.embedded_store import EmbeddedStore
from tests.support.inprocess import Local, Reply, local_gateway
from tests.support.store import until
from tests.support.tokens import access_token, service_token

LIMIT = 20
ITEMS = "/api/v1/items"
OWN = "/api/v1/own"
STREAM = "/api/v1/alerts/stream"
INTERNAL = "/internal/v1/tenants/t/subscription-changed"
ROWS = (
    RouteRow(pattern=ITEMS, handler="answer"),
    RouteRow(pattern=OWN, handler="answer", limit=Limit(requests=3, window=600)),
    RouteRow(pattern=STREAM, methods=frozenset({"GET"}), handler=ALERT_STREAM),
)


async def answer(x: Exchange) -> None:
    await x.respond(200, [], b"")


@pytest.fixture
async def gateways(
    request: pytest.FixtureRequest, store_server: EmbeddedStore, redis_cli: redis.Redis, tmp_path: Path
) -> AsyncIterator[list[Local]]:
    """Six workers' worth: what one has verified is news to the others."""
    limit = getattr(request, "param", LIMIT)
    async with AsyncExitStack() as stack:
        found = []
        for name in "abcdef":
            (tmp_path / name).mkdir()
            started = local_gateway(
                store_server.url,
                tmp_path / name,
                ROWS,
                {"answer": answer, ALERT_STREAM: answer},
                RATE_LIMIT_REQUESTS=str(limit),
                RATE_LIMIT_WINDOW_SECONDS="86400",
            )
            found.append(await stack.enter_async_context(started))
            # On a busy machine six gateways in one loop are slow: that is no outage of the store.
            found[-1].state.store.timeout = 10.0
        for each in found:
            limiter = each.state.limiter
            await until(lambda: each.state.store.connected and monotonic() > limiter._alone_until)  # noqa: B023
        yield found


def left(reply: Reply) -> int:
    return int(reply.header("x-ratelimit-remaining") or -1)


@pytest.mark.parametrize("gateways", [300], indirect=True)
async def test_an_office_of_users_behind_one_address_is_limited_one_by_one(gateways: list[Local]) -> None:
    tokens = [access_token(user_id=f"office-{number}") for number in range(100)]
    statuses = Counter[int]()
    for turn in range(12):
        replies = await asyncio.gather(
            *(
                gateways[(turn + number) % len(gateways)].ask("GET", ITEMS, token)
                for number, token in enumerate(tokens)
            )
        )
        statuses.update(reply.status for reply in replies)
    assert statuses == {200: 12 * len(tokens)}


async def test_whoever_sees_a_token_first_the_user_pays_for_each_request(gateways: list[Local]) -> None:
    token = access_token(user_id="walker")
    seen = [left(await gateway.ask("GET", ITEMS, token)) for gateway in gateways]
    assert seen == [LIMIT - 1 - number for number in range(len(gateways))]
    # Nor does a new token for each request make the user another one.
    statuses = [
        (await gateways[0].ask("GET", ITEMS, access_token(user_id="walker", jti=f"walk-{number}"))).status
        for number in range(LIMIT)
    ]
    assert statuses == [200] * (LIMIT - len(gateways)) + [429] * len(gateways)


async def test_a_service_that_signs_a_token_for_each_call_is_not_held_up_by_its_address(
    gateways: list[Local],
) -> None:
    for number in range(3 * LIMIT):
        gateway = gateways[number % 2]
        assert (await gateway.ask("GET", ITEMS, service_token("pos", jti=f"call-{number}"))).status == 200
        reply = await gateway.ask("POST", INTERNAL, service_token("pos", jti=f"told-{number}"))
        assert (reply.status, reply.header("x-ratelimit-limit")) == (200, None)


async def test_guessing_is_paid_for_by_the_address_and_by_nobody_else(gateways: list[Local]) -> None:
    known = access_token(user_id="known")
    assert (await gateways[0].ask("GET", ITEMS, known)).status == 200
    outcomes = Counter[str]()
    for number in range(2 * LIMIT):
        forged = access_token("rsa-2", user_id=f"forged-{number}")
        outcomes[(await gateways[number % 3].ask("GET", ITEMS, forged)).code] += 1
    assert outcomes == {"token-signature": LIMIT, "rate-limited": LIMIT}
    assert (await gateways[0].ask("GET", ITEMS, known)).status == 200
    assert (await gateways[0].ask("GET", ITEMS, access_token(user_id="x"), client="192.0.2.77")).status == 200


async def test_many_guesses_at_once_are_no_more_than_the_limit(gateways: list[Local]) -> None:
    forged = [access_token("rsa-2", user_id=f"at-once-{number}") for number in range(3 * LIMIT)]
    replies = await asyncio.gather(*(gateways[0].ask("GET", ITEMS, token) for token in forged))
    assert Counter(reply.code for reply in replies) == {"token-signature": LIMIT, "rate-limited": 2 * LIMIT}


@pytest.mark.parametrize(
    ("target", "token"),
    [(ITEMS, None), (ITEMS, access_token(exp=1)), (f"{STREAM}?ticket={'x' * 43}", None), ("/nothing", None)],
    ids=["no token", "an expired token", "an invented ticket", "no route"],
)
async def test_what_proves_nobody_stays_paid_for(
    gateways: list[Local], target: str, token: bytes | None
) -> None:
    statuses = [(await gateways[0].ask("GET", target, token)).status for _ in range(LIMIT + 2)]
    assert statuses[LIMIT:] == [429, 429]
    assert 429 not in statuses[:LIMIT]
    assert all(bucket.held == 0 for bucket in gateways[0].state.limiter._buckets.values())


async def test_a_good_ticket_is_paid_for_by_its_user(gateways: list[Local]) -> None:
    for number in range(LIMIT + 5):
        token = access_token(user_id=f"viewer-{number}")
        made = await gateways[0].ask("POST", "/api/v1/alerts/ticket", token)
        reply = await gateways[1].ask("GET", f"{STREAM}?ticket={made.document['ticket']}")
        assert (reply.status, left(reply)) == (200, LIMIT - 2)


async def test_a_routes_own_limit_is_the_users_too(gateways: list[Local]) -> None:
    for number in range(8):
        token = access_token(user_id=f"own-{number}")
        statuses = [(await gateway.ask("GET", OWN, token)).status for gateway in gateways[:4]]
        assert statuses == [200, 200, 200, 429]
    forged = [access_token("rsa-2", user_id=f"own-forged-{number}") for number in range(4)]
    assert [(await gateways[0].ask("GET", OWN, token)).status for token in forged] == [401, 401, 401, 429]


async def test_a_request_that_breaks_before_its_token_is_judged_holds_nothing(gateways: list[Local]) -> None:
    gateway = gateways[0]

    async def broken(token: bytes) -> None:
        raise RuntimeError("a fault")

    gateway.state.authority.verify = broken  # type: ignore[method-assign,assignment]
    for number in range(3):
        reply = await gateway.ask("GET", ITEMS, access_token(user_id=f"broken-{number}"))
        assert reply.status == 500
    assert [bucket.held for bucket in gateway.state.limiter._buckets.values()] == [0]
