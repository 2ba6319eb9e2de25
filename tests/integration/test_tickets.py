"""Tickets and tokens of clients that cannot set headers: on two gateways with one store."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator
from http.cookies import SimpleCookie
from pathlib import Path

import msgspec
import pytest
import redis

from kernel.exchange.exchange import Exchange
from kernel.routing.catalog import ALERT_STREAM, RouteRow
from kernel.server.embedded_store import EmbeddedStore
from kernel.store.keys import token_revoked
from tests.support.inprocess import Local, Reply, local_gateway
from tests.support.office import Office
from tests.support.recorder import recording_upstream
from tests.support.tokens import (
    OTHER_TENANT,
    TENANT,
    access_token,
    name_without_jti,
    public_pem,
    service_token,
)

TICKET = "/api/v1/alerts/ticket"
STREAM = "/api/v1/alerts/stream"
SOCKET = "/api/v1/training/ws"
ROWS = (
    RouteRow(pattern=STREAM, methods=frozenset({"GET"}), handler=ALERT_STREAM),
    RouteRow(
        pattern="/api/v1/tenants/{tenant_id}/alerts/stream", methods=frozenset({"GET"}), handler=ALERT_STREAM
    ),
    RouteRow(pattern=SOCKET, methods=frozenset({"GET"}), handler="socket", websocket=True),
    RouteRow(
        pattern="/api/v1/tenants/{tenant_id}/training/ws",
        methods=frozenset({"GET"}),
        handler="socket",
        websocket=True,
    ),
    RouteRow(pattern="/api/v1/ordinary", handler="ordinary"),
)


async def seen(x: Exchange) -> None:
    """Answers with what a handler has before it."""
    document = {
        "user": x.caller.user_id,
        "kind": x.caller.kind,
        "exp": x.caller.exp,
        "iat": x.caller.iat,
        "jti": x.caller.jti,
        "tenant": x.tenant,
        "role": x.granted.role,
        "query": x.query.decode(),
        "lines": b"".join(x.lines).decode("latin-1"),
        "offered": x.scope.get("subprotocols"),
    }
    await x.respond(200, [(b"content-type", b"application/json")], msgspec.json.encode(document))


HANDLERS = {ALERT_STREAM: seen, "socket": seen, "ordinary": seen}


@pytest.fixture
async def here(store_server: EmbeddedStore, tmp_path: Path) -> AsyncIterator[Local]:
    async with local_gateway(store_server.url, tmp_path, ROWS, HANDLERS) as gateway:
        yield gateway


@pytest.fixture
async def there(store_server: EmbeddedStore, tmp_path: Path) -> AsyncIterator[Local]:
    """Another gateway on the same store."""
    (tmp_path / "there").mkdir()
    async with local_gateway(store_server.url, tmp_path / "there", ROWS, HANDLERS) as gateway:
        yield gateway


async def get_ticket(gateway: Local, token: bytes | None = None, tenant: str | None = None) -> str:
    headers = {} if tenant is None else {"x-tenant-id": tenant}
    reply = await gateway.ask("POST", TICKET, token or access_token(), headers=headers)
    assert reply.status == 200, reply.body
    return str(reply.document["ticket"])


def resume_cookie(reply: Reply) -> str:
    """The cookie as a browser sends it back."""
    value = reply.header("set-cookie")
    assert value is not None
    morsel = SimpleCookie(value)["alerts_resume"]
    return f"alerts_resume={morsel.value}"


async def test_a_ticket_is_random_short_lived_and_kept_by_nobody(
    here: Local, store_server: EmbeddedStore, redis_cli: redis.Redis
) -> None:
    token = access_token(user_id="kept-by-nobody", jti="jti-of-it")
    reply = await here.ask("POST", TICKET, token)
    assert reply.status == 200
    assert reply.header("cache-control") == "no-store"
    assert set(reply.document) == {"ticket", "expires_in"}
    assert reply.document["expires_in"] == 30
    ticket = reply.document["ticket"]
    assert re.fullmatch(r"[A-Za-z0-9_-]{43}", ticket)
    (key,) = redis_cli.keys("gateway:ticket*")
    assert 25 <= int(str(redis_cli.ttl(key))) <= 30
    with redis.Redis.from_url(store_server.url) as raw:
        stored = raw.get(key)
    assert isinstance(stored, bytes)
    for secret in (ticket, "kept-by-nobody", "jti-of-it", *token.decode().split(".")):
        assert secret not in key
        assert secret.encode() not in stored
    assert await get_ticket(here) != ticket


async def test_a_ticket_opens_one_stream_on_any_gateway_with_the_tokens_own_identity(
    here: Local, there: Local
) -> None:
    now = time.time()
    token = access_token(user_id="marta", jti="m-1", iat=now - 5, exp=now + 600)
    ticket = await get_ticket(here, token)
    reply = await there.ask("GET", f"{STREAM}?severity=high&ticket={ticket}&types=stock")
    assert reply.status == 200
    document = reply.document
    assert (document["user"], document["jti"], document["tenant"]) == ("marta", "m-1", TENANT)
    assert (document["iat"], document["exp"]) == (now - 5, now + 600)
    assert document["query"] == "severity=high&types=stock"
    for gateway in (here, there):
        again = await gateway.ask("GET", f"{STREAM}?ticket={ticket}")
        assert (again.status, again.code) == (401, "ticket-invalid")
        assert 'error="invalid_token"' in (again.header("www-authenticate") or "")


async def test_of_many_at_once_one_redeems_a_ticket(here: Local, there: Local) -> None:
    ticket = await get_ticket(here)
    asked = [gateway.ask("GET", f"{SOCKET}?ticket={ticket}") for gateway in (here, there) * 8]
    statuses = sorted([reply.status for reply in await asyncio.gather(*asked)])
    assert statuses == [200] + [401] * 15


async def test_a_ticket_is_for_the_tenant_it_was_asked_for(here: Local) -> None:
    ticket = await get_ticket(here, tenant=OTHER_TENANT)
    document = (await here.ask("GET", f"{STREAM}?ticket={ticket}")).document
    assert (document["tenant"], document["role"]) == (OTHER_TENANT, "admin")
    for target, headers in (
        (f"/api/v1/tenants/{TENANT}/training/ws", {}),
        (SOCKET, {"x-tenant-id": TENANT}),
    ):
        ticket = await get_ticket(here, tenant=OTHER_TENANT)
        reply = await here.ask("GET", f"{target}?ticket={ticket}", headers=headers)
        assert (reply.status, reply.code) == (403, "tenant-forbidden")
    ticket = await get_ticket(here, tenant=OTHER_TENANT)
    reply = await here.ask("GET", f"/api/v1/tenants/{OTHER_TENANT}/training/ws?ticket={ticket}")
    assert reply.document["tenant"] == OTHER_TENANT
    refused = await here.ask("POST", TICKET, access_token(), headers={"x-tenant-id": "6f1c9f0e-9999"})
    assert (refused.status, refused.code) == (403, "tenant-forbidden")


async def test_a_tickets_tenant_may_be_spelled_in_any_case(here: Local) -> None:
    spelled = OTHER_TENANT.upper()
    for asked, used in ((spelled, OTHER_TENANT), (OTHER_TENANT, spelled)):
        ticket = await get_ticket(here, tenant=asked)
        reply = await here.ask("GET", f"/api/v1/tenants/{used}/training/ws?ticket={ticket}")
        assert reply.document["tenant"] == OTHER_TENANT
    ticket = await get_ticket(here, tenant=spelled)
    first = await here.ask("GET", f"/api/v1/tenants/{spelled}/alerts/stream?ticket={ticket}")
    # A browser sends it back to the path as it spells it.
    assert f"Path=/api/v1/tenants/{spelled}/alerts/stream;" in (first.header("set-cookie") or "")
    bare = OTHER_TENANT.replace("-", "")
    ticket = await get_ticket(here, tenant=spelled)
    refused = await here.ask("GET", f"/api/v1/tenants/{bare}/training/ws?ticket={ticket}")
    assert refused.code == "tenant-invalid"


async def test_a_service_without_a_tenant_gets_no_tenant_by_ticket(here: Local) -> None:
    ticket = await get_ticket(here, service_token())
    document = (await here.ask("GET", f"{SOCKET}?ticket={ticket}")).document
    assert (document["kind"], document["tenant"]) == ("service", None)
    ticket = await get_ticket(here, service_token())
    reply = await here.ask("GET", f"/api/v1/tenants/{TENANT}/training/ws?ticket={ticket}")
    assert reply.code == "tenant-forbidden"


async def test_a_revoked_or_stale_tokens_ticket_is_refused(here: Local, redis_cli: redis.Redis) -> None:
    ticket = await get_ticket(here, access_token(jti="gone"))
    stale = await get_ticket(here, access_token(iat=time.time() - 50))
    nameless = access_token(user_id="nameless")
    unnamed = await get_ticket(here, nameless)
    redis_cli.set("token:revoked:gone", "1")
    redis_cli.set(token_revoked(name_without_jti(nameless)), "1")
    redis_cli.set(f"tenant:{TENANT}:subscription_changed_at", time.time() - 1)

    async def code(ticket: str) -> str:
        return (await here.ask("GET", f"{STREAM}?ticket={ticket}")).code

    assert await code(ticket) == "token-revoked"
    assert await code(unnamed) == "token-revoked"
    assert await code(stale) == "token-stale"


async def test_a_ticket_ends_with_its_token(here: Local, there: Local) -> None:
    ending = access_token(exp=time.time() + 3)
    reply = await here.ask("POST", TICKET, ending)
    assert reply.document["expires_in"] <= 3
    there.state.verifier.clock = lambda: time.time() + 4
    reply = await there.ask("GET", f"{STREAM}?ticket={reply.document['ticket']}")
    assert (reply.status, reply.code) == (401, "token-expired")


async def test_a_key_that_is_gone_takes_its_tickets_along(
    here: Local, store_server: EmbeddedStore, tmp_path: Path
) -> None:
    ticket = await get_ticket(here)
    (tmp_path / "rotated").mkdir()
    async with local_gateway(
        store_server.url, tmp_path / "rotated", ROWS, HANDLERS, JWT_PUBLIC_KEY=public_pem("rsa-2")
    ) as rotated:
        reply = await rotated.ask("GET", f"{STREAM}?ticket={ticket}")
    assert (reply.status, reply.code) == (401, "ticket-invalid")


@pytest.mark.parametrize("ticket", ["", "x", "A" * 43, "A" * 5000, "%00" * 43, "..%2f", "%ff"])
async def test_what_is_no_ticket_is_refused_and_paid_for_by_its_address(
    store_server: EmbeddedStore, tmp_path: Path, ticket: str
) -> None:
    async with local_gateway(
        store_server.url, tmp_path, ROWS, HANDLERS, RATE_LIMIT_REQUESTS="3", RATE_LIMIT_WINDOW_SECONDS="60"
    ) as gateway:
        for _ in range(3):
            reply = await gateway.ask("GET", f"{STREAM}?ticket={ticket}")
            assert (reply.status, reply.code) == (401, "ticket-invalid")
        assert (await gateway.ask("GET", f"{STREAM}?ticket={ticket}")).code == "rate-limited"
        assert (await gateway.ask("GET", f"{STREAM}?ticket={ticket}", client="192.0.2.9")).status == 401


@pytest.mark.parametrize("value", [b"", b"junk", b"\x00" * 64])
async def test_junk_in_the_store_opens_nothing(here: Local, redis_cli: redis.Redis, value: bytes) -> None:
    ticket = await get_ticket(here)
    (key,) = redis_cli.keys("gateway:ticket:*")
    redis_cli.set(key, value)
    assert (await here.ask("GET", f"{STREAM}?ticket={ticket}")).code == "ticket-invalid"


async def test_ordinary_routes_take_neither_tickets_nor_tokens_from_the_query(here: Local) -> None:
    token = access_token()
    for target in ("/api/v1/ordinary", TICKET):
        for query in (f"ticket={await get_ticket(here)}", f"token={token.decode()}"):
            reply = await here.ask("POST", f"{target}?{query}")
            assert (reply.status, reply.code) == (401, "token-missing")
    ticket = await get_ticket(here)
    assert (await here.ask("POST", f"/api/v1/ordinary?ticket={ticket}", token)).status == 200
    reply = await here.ask("POST", "/api/v1/ordinary", headers={"authorization": f"Ticket {ticket}"})
    assert reply.code == "token-missing"
    assert (await here.ask("GET", f"{STREAM}?ticket={ticket}")).status == 200


async def test_a_token_in_the_query_is_one_in_the_header_and_nowhere_else_afterwards(here: Local) -> None:
    token = access_token(user_id="by-query").decode()
    for target in (STREAM, SOCKET):
        document = (await here.ask("GET", f"{target}?a=%20b&&token={token}&c")).document
        assert document["user"] == "by-query"
        assert document["query"] == "a=%20b&&c"
        assert document["lines"].count(token) == 1
        assert f"authorization: Bearer {token}\r\n" in document["lines"]
    for bad, code in (
        (token[:-4] + "AAAA", "token-signature"),
        ("", "token-malformed"),
        ("%0d%0aX: y", "token-malformed"),
    ):
        reply = await here.ask("GET", f"{STREAM}?token={bad}")
        assert (reply.status, reply.code) == (401, code)
    assert (await here.ask("GET", STREAM)).code == "token-missing"


async def test_a_token_among_the_subprotocols_is_taken_out_of_the_offer(here: Local) -> None:
    token = access_token(user_id="by-protocol").decode()
    offered = ["v2.json", "bearer", token, "v1.json"]
    reply = await here.ask(
        "GET", SOCKET, subprotocols=offered, headers={"sec-websocket-protocol": ", ".join(offered)}
    )
    document = reply.document
    assert document["user"] == "by-protocol"
    assert document["offered"] == ["v2.json", "v1.json"]
    assert "sec-websocket-protocol" not in document["lines"]
    assert document["lines"].count(token) == 1
    plain = await here.ask("GET", SOCKET, access_token(), subprotocols=["v1.json"])
    assert plain.document["offered"] == ["v1.json"]


@pytest.mark.parametrize("offered", [["bearer"], ["bearer", "\x80"], ["bearer", "a", "bearer", "b"]])
async def test_an_offer_that_is_not_understood_is_refused(here: Local, offered: list[str]) -> None:
    reply = await here.ask("GET", SOCKET, subprotocols=offered)
    assert (reply.status, reply.code) == (400, "bad-request")


async def test_contradicting_credentials_are_refused_and_spend_nothing(here: Local) -> None:
    token = access_token()
    text = token.decode()
    ticket = await get_ticket(here)
    both = f"ticket={ticket}"
    for target, authorization, offered in (
        (f"{SOCKET}?{both}&{both}", None, None),
        (f"{SOCKET}?{both}&token={text}", None, None),
        (f"{SOCKET}?{both}", token, None),
        (f"{SOCKET}?{both}", None, ["bearer", text]),
        (f"{SOCKET}?token={text}", token, None),
        (f"{SOCKET}?token={text}&token={text}", None, None),
        (f"{SOCKET}?token={text}", None, ["bearer", text]),
        (SOCKET, token, ["bearer", text]),
    ):
        reply = await here.ask("GET", target, authorization, subprotocols=offered)
        assert (reply.status, reply.code) == (400, "bad-request"), target
        assert ticket not in reply.body.decode()
        assert text not in reply.body.decode()
    assert (await here.ask("GET", f"{SOCKET}?{both}")).status == 200


async def test_the_browser_that_opened_a_stream_resumes_it_and_nobody_else(here: Local, there: Local) -> None:
    ticket = await get_ticket(here)
    url = f"{STREAM}?ticket={ticket}"
    first = await here.ask("GET", url, scheme="https")
    cookie = first.header("set-cookie") or ""
    assert all(part in cookie for part in (f"Path={STREAM}", "HttpOnly", "SameSite=Strict", "Secure"))
    kept = resume_cookie(first)
    # Reconnecting, as often as it takes, on either gateway, and from another address: phones change networks.
    for gateway, address in ((there, "192.0.2.1"), (here, "198.51.100.7")):
        again = await gateway.ask(
            "GET", url, client=address, headers={"cookie": f"a=b; {kept}", "last-event-id": "17-0"}
        )
        assert again.status == 200
        assert again.document["user"] == "user-1"
        assert resume_cookie(again) == kept
    for cookies in ({}, {"cookie": "alerts_resume=" + "A" * 43}, {"cookie": "alerts_resume="}):
        refused = await here.ask("GET", url, headers={"last-event-id": "17-0", **cookies})
        assert (refused.status, refused.code) == (401, "ticket-invalid")
    # What resumes a stream opens no socket.
    assert (
        await here.ask("GET", f"{SOCKET}?ticket={ticket}", headers={"cookie": kept})
    ).code == "ticket-invalid"


async def test_a_browser_with_several_streams_has_one_cookie(here: Local) -> None:
    first = await get_ticket(here)
    kept = resume_cookie(await here.ask("GET", f"{STREAM}?ticket={first}"))
    second = await get_ticket(here)
    assert resume_cookie(await here.ask("GET", f"{STREAM}?ticket={second}", headers={"cookie": kept})) == kept
    for ticket in (first, second):
        assert (await here.ask("GET", f"{STREAM}?ticket={ticket}", headers={"cookie": kept})).status == 200
    # One that somebody else invented is replaced, not taken over, unless it looks like ours.
    third = await get_ticket(here)
    fresh = resume_cookie(
        await here.ask("GET", f"{STREAM}?ticket={third}", headers={"cookie": "alerts_resume=short"})
    )
    assert len(fresh) == len(kept)


async def test_a_page_of_another_origin_without_cookies_resumes_from_where_it_began(here: Local) -> None:
    page = {"origin": "https://app.example.com", "user-agent": "Mozilla/5.0 (bakery)"}
    url = f"{STREAM}?ticket={await get_ticket(here)}"
    assert (await here.ask("GET", url, headers=page)).status == 200
    assert (await here.ask("GET", url, headers={"last-event-id": "17-0", **page})).status == 200
    for changed, address in (
        ({"origin": "https://other.example.com"}, "192.0.2.1"),
        ({"user-agent": "curl/8"}, "192.0.2.1"),
        ({}, "192.0.2.2"),
    ):
        reply = await here.ask("GET", url, client=address, headers={**page, **changed})
        assert (reply.status, reply.code) == (401, "ticket-invalid")
    # No page at all: a link that somebody clicks.
    assert (await here.ask("GET", url, headers={"user-agent": page["user-agent"]})).code == "ticket-invalid"


async def test_a_page_of_another_origin_that_sends_cookies_is_known_by_them_alone(here: Local) -> None:
    page = {"origin": "https://app.example.com", "user-agent": "Mozilla/5.0 (bakery)"}
    url = f"{STREAM}?ticket={await get_ticket(here)}"
    kept = {"cookie": resume_cookie(await here.ask("GET", url, headers=page))}
    # Whether it sends them shows only now.
    assert (await here.ask("GET", url, headers=page | kept)).status == 200
    assert (await here.ask("GET", url, headers=page)).code == "ticket-invalid"
    assert (await here.ask("GET", url, headers=page | kept, client="198.51.100.7")).status == 200
    # Its next stream is bound to them from the start.
    url = f"{STREAM}?ticket={await get_ticket(here)}"
    assert (await here.ask("GET", url, headers=page | kept)).status == 200
    assert (await here.ask("GET", url, headers=page)).code == "ticket-invalid"
    assert (await here.ask("GET", url, headers=page | kept)).status == 200


async def test_a_resumed_stream_ends_as_its_token_does(here: Local, redis_cli: redis.Redis) -> None:
    ticket = await get_ticket(here, access_token(jti="logged-out", exp=time.time() + 600))
    kept = resume_cookie(await here.ask("GET", f"{STREAM}?ticket={ticket}"))
    (grant,) = redis_cli.keys("gateway:ticket-grant:*")
    assert 590 <= int(str(redis_cli.ttl(grant))) <= 600
    redis_cli.set("token:revoked:logged-out", "1")
    reply = await here.ask("GET", f"{STREAM}?ticket={ticket}", headers={"cookie": kept})
    assert reply.code == "token-revoked"


async def test_read_only_tenants_still_get_tickets(here: Local, redis_cli: redis.Redis) -> None:
    redis_cli.set(f"tenant:{TENANT}:read_only", "the books are being closed")
    assert await get_ticket(here)
    redis_cli.set("platform:read_only", "maintenance")
    assert await get_ticket(here)


async def test_who_may_ask_for_a_ticket(here: Local) -> None:
    assert (await here.ask("POST", TICKET)).code == "token-missing"
    assert (await here.ask("GET", TICKET, access_token())).status == 405
    reply = await here.ask("POST", TICKET, access_token(), b'{"tenant": "x"}')
    assert (reply.status, reply.code) == (422, "body-invalid")
    assert (await here.ask("POST", TICKET, access_token(), b"{}")).status == 200


async def test_without_the_store_there_are_no_tickets(mortal_store: EmbeddedStore, tmp_path: Path) -> None:
    async with local_gateway(mortal_store.url, tmp_path, ROWS, HANDLERS) as gateway:
        ticket = await get_ticket(gateway)
        mortal_store.kill()
        for method, target, token in (
            ("POST", TICKET, access_token()),
            ("GET", f"{STREAM}?ticket={ticket}", None),
            ("GET", f"{SOCKET}?ticket={ticket}", None),
        ):
            reply = await gateway.ask(method, target, token)
            assert (reply.status, reply.code) == (503, "store-unavailable")
            assert reply.header("retry-after") == "1"


async def test_what_became_of_tickets_is_counted(here: Local) -> None:
    ticket = await get_ticket(here)
    kept = resume_cookie(await here.ask("GET", f"{STREAM}?ticket={ticket}"))
    await here.ask("GET", f"{STREAM}?ticket={ticket}", headers={"cookie": kept})
    await here.ask("GET", f"{STREAM}?ticket={ticket}")
    assert here.state.tickets.families() == {
        "gateway_tickets_total": {"issued": 1, "redeemed": 1, "resumed": 1, "refused": 1}
    }


@pytest.mark.parametrize("named_by", ["session alone", "token and header", "token"])
async def test_a_demos_ticket_stays_in_its_session_and_ends_with_it(
    store_server: EmbeddedStore, tmp_path: Path, named_by: str
) -> None:
    with recording_upstream() as recorder:
        office = Office.behind(recorder)
        session = office.session("demo_1", "virtual-1")
        headers = {"x-demo-session-id": session}
        token = None
        if named_by == "token":
            token = access_token(tenant_id="virtual-1", is_demo=True, demo_session_id=session)
            headers = {}
        elif named_by == "token and header":
            token = access_token(tenant_id="virtual-1", is_demo=True)
        async with local_gateway(
            store_server.url, tmp_path, ROWS, HANDLERS, DEMO_SESSION_SERVICE_URL=recorder.url
        ) as gateway:
            made = [
                (await gateway.ask("POST", TICKET, token, headers=headers)).document["ticket"]
                for _ in range(2)
            ]
            reply = await gateway.ask("GET", f"{STREAM}?ticket={made[0]}")
            assert reply.status == 200
            assert reply.document["tenant"] == "virtual-1"
            del office.sessions[session]
            gateway.state.demo._known.clear()
            ended = await gateway.ask("GET", f"{STREAM}?ticket={made[1]}")
            assert (ended.status, ended.code) == (401, "demo-session-invalid")
            resumed = await gateway.ask(
                "GET", f"{STREAM}?ticket={made[0]}", headers={"cookie": resume_cookie(reply)}
            )
            assert resumed.code == "demo-session-invalid"
