"""API keys as their holders meet them: who a key is, what it reaches, how long, and who pays."""

from __future__ import annotations

import hashlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import redis

from kernel.exchange.exchange import Exchange
from kernel.primitives.api_key import id_of, new_key
from kernel.routing.catalog import ALERT_STREAM, RouteRow
from kernel.server.embedded_store import EmbeddedStore
from kernel.store.keys import subscription_changed_at, tenant_demo, tenant_read_only
from tests.support.api_keys import KEYS, call, make_key
from tests.support.inprocess import Local, local_gateway
from tests.support.poll import eventually
from tests.support.tokens import OTHER_TENANT, TENANT, access_token, service_token

ITEMS = "/api/v1/inventory/items"
STREAM = "/api/v1/alerts/stream"
SOCKET = "/api/v1/training/ws"
ROWS = (
    RouteRow(pattern="/api/v1/inventory/**", handler="seen", service="inventory"),
    RouteRow(pattern="/api/v1/tenants/{tenant_id}/inventory/**", handler="seen", service="inventory"),
    RouteRow(pattern="/api/v1/sales/**", handler="seen", service="sales"),
    RouteRow(pattern="/api/v1/recipes/**", handler="seen", service="recipes", min_tier="enterprise"),
    RouteRow(pattern="/api/v1/auth/**", handler="seen", service="auth"),
    RouteRow(pattern="/api/v1/public", handler="lines", public=True),
    RouteRow(pattern=STREAM, methods=frozenset({"GET"}), handler=ALERT_STREAM, scope="alert-processor"),
    RouteRow(pattern=SOCKET, methods=frozenset({"GET"}), handler="seen", service="training", websocket=True),
)


async def seen(x: Exchange) -> None:
    """Answers with what a service is told."""
    document = {
        "context": dict(line.split(": ", 1) for line in x.context.decode().split("\r\n") if line),
        "lines": b"".join(x.lines).decode("latin-1"),
    }
    await x.respond(200, [(b"content-type", b"application/json")], msgspec.json.encode(document))


async def lines(x: Exchange) -> None:
    await x.respond(200, [], b"".join(x.lines))


HANDLERS = {"seen": seen, "lines": lines, ALERT_STREAM: seen}


@pytest.fixture
async def here(store_server: EmbeddedStore, tmp_path: Path) -> AsyncIterator[Local]:
    async with local_gateway(store_server.url, tmp_path, ROWS, HANDLERS) as gateway:
        yield gateway


async def test_a_key_is_an_identity_of_its_tenant_and_reaches_no_service_itself(here: Local) -> None:
    made = await make_key(here, "inventory:read")
    key = made["api_key"]
    assert id_of(key.encode()) == made["key_id"]
    for _ in range(2):  # first seen, then known
        reply = await call(here, key, headers={"x-user-id": "root", "X_Api_Key": "folded"})
        assert reply.status == 200, reply.body
        assert reply.document["context"] == {
            "x-user-id": f"key:{made['key_id']}",
            "x-user-role": "member",
            "x-user-type": "api-key",
            "x-tenant-id": TENANT,
            "x-subscription-tier": "professional",
            "x-subscription-status": "active",
            "x-tenant-access-type": "direct",
        }
        assert reply.document["lines"] == ""
    public = await call(here, key, "/api/v1/public")
    assert (public.status, public.body) == (200, b"")


async def test_what_is_no_good_key_is_refused_with_a_challenge(here: Local, redis_cli: redis.Redis) -> None:
    made = await make_key(here)
    good: str = made["api_key"]
    swapped = good[:20] + ("a" if good[20] != "a" else "b") + good[21:]
    known_id = new_key(made["key_id"])
    for given, code in (
        ("", "api-key-malformed"),
        ("junk", "api-key-malformed"),
        (swapped, "api-key-malformed"),
        (good + " x", "api-key-malformed"),
        (f"{good}, {good}", "api-key-malformed"),
        (good.upper(), "api-key-malformed"),
        (new_key("AAAAAAAA"), "api-key-invalid"),
        (known_id, "api-key-invalid"),
    ):
        reply = await call(here, given)
        assert (reply.status, reply.code) == (401, code), given
        assert (reply.header("www-authenticate") or "").startswith('ApiKey realm="bakery-gateway"')
    assert (await call(here, good)).status == 200
    # By hand, as an intruder of the store would: no gateway made it.
    forged = new_key("BBBBBBBB")
    code, _, record = str(redis_cli.get(f"apikey:{made['key_id']}")).partition(":")
    document = msgspec.json.decode(record)
    document["id"] = "BBBBBBBB"
    document["secrets"][0]["sha256"] = hashlib.sha256(forged.encode()).hexdigest()
    for value in (
        f"{code}:{msgspec.json.encode(document).decode()}",
        msgspec.json.encode(document).decode(),
        "",
        "x",
    ):
        redis_cli.set("apikey:BBBBBBBB", value)
        assert (await call(here, forged)).code == "api-key-invalid"


async def test_junk_never_asks_the_store(here: Local) -> None:
    before = here.state.tracked.snapshot()["reads"]
    for _ in range(5):
        assert (await call(here, "bkgw_" + "a" * 36)).code == "api-key-malformed"
    assert here.state.tracked.snapshot()["reads"] == before


async def test_a_known_key_makes_no_trip_to_the_store(here: Local) -> None:
    key = (await make_key(here))["api_key"]
    for _ in range(3):
        assert (await call(here, key)).status == 200
    await eventually(lambda: here.state.tracked.live)
    before = here.state.tracked.snapshot()["reads"]
    for _ in range(20):
        assert (await call(here, key)).status == 200
    assert here.state.tracked.snapshot()["reads"] == before


@pytest.mark.parametrize(
    ("scopes", "method", "target", "missing"),
    [
        (("inventory:read",), "GET", ITEMS, ""),
        (("inventory:read",), "HEAD", ITEMS, ""),
        (("inventory:read",), "POST", ITEMS, "inventory:write"),
        (("inventory:write",), "DELETE", ITEMS, ""),
        (("inventory:write",), "GET", ITEMS, "inventory:read"),
        (("sales:*",), "PATCH", "/api/v1/sales/1", ""),
        (("sales:*",), "GET", ITEMS, "inventory:read"),
        (("*:read",), "GET", ITEMS, ""),
        (("*:read",), "PUT", ITEMS, "inventory:write"),
        (("*",), "POST", ITEMS, ""),
        (("inventory:read", "sales:write"), "POST", "/api/v1/sales/1", ""),
        (("*",), "GET", STREAM, ""),
        (("alert-processor:read",), "GET", STREAM, ""),
        (("inventory:*",), "GET", STREAM, "alert-processor:read"),
        (("training:read",), "GET", SOCKET, "training:write"),
        (("training:write",), "GET", SOCKET, ""),
    ],
)
async def test_a_scope_opens_its_service_for_its_methods(
    here: Local, scopes: tuple[str, ...], method: str, target: str, missing: str
) -> None:
    key = (await make_key(here, *scopes))["api_key"]
    for _ in range(2):
        reply = await call(here, key, target, method)
        if not missing:
            assert reply.status == 200, reply.body
            continue
        assert reply.status == 403
        challenge = reply.header("www-authenticate") or ""
        assert f'error="insufficient_scope", scope="{missing}"' in challenge
        assert (reply.code, missing in reply.document["detail"]) == ("api-key-scope", True)


@pytest.mark.parametrize(
    ("method", "target", "code"),
    [
        ("GET", "/api/v1/auth/me", "api-key-refused"),
        ("POST", "/api/v1/alerts/ticket", "api-key-refused"),
        ("GET", KEYS, "api-key-refused"),
        ("POST", KEYS, "api-key-refused"),
        ("DELETE", f"{KEYS}/AAAAAAAA", "api-key-refused"),
        ("DELETE", f"/api/v1/tenants/{TENANT}", "api-key-refused"),
        ("PUT", f"/api/v1/tenants/{TENANT}/subscription", "api-key-refused"),
        ("POST", "/api/v1/alerts/dispatch", "service-only"),
        ("PUT", "/internal/v1/platform/read-only", "service-only"),
        ("POST", "/internal/v1/api-keys", "service-only"),
    ],
)
async def test_no_scope_opens_what_keys_are_not_for(here: Local, method: str, target: str, code: str) -> None:
    key = (await make_key(here, "*"))["api_key"]
    for _ in range(2):
        reply = await call(here, key, target, method)
        assert (reply.status, reply.code) == (403, code)


async def test_admin_routes_do_not_exist_for_a_key(store_server: EmbeddedStore, tmp_path: Path) -> None:
    more = {"ENVIRONMENT": "staging", "REDIS_URL": "redis://elsewhere", "CORS_ORIGINS": "https://a.example"}
    async with local_gateway(store_server.url, tmp_path, ROWS, HANDLERS, **more) as gateway:
        key = (await make_key(gateway, "*"))["api_key"]
        for target in ("/metrics", "/openapi.json", "/internal/v1/api-keys"):
            assert (await call(gateway, key, target)).code == "route-unknown"
        token = service_token("orders").decode()
        both = await call(gateway, key, "/internal/v1/api-keys", headers={"authorization": f"Bearer {token}"})
        assert both.code == "credentials-ambiguous"


async def test_a_key_and_a_token_are_ambiguous_whichever_is_good(here: Local) -> None:
    key = (await make_key(here))["api_key"]
    token = access_token()
    assert (await here.ask("GET", ITEMS, token)).status == 200
    for given in (key, "junk"):
        for beside in (token, b"junk"):
            reply = await here.ask("GET", ITEMS, beside, headers={"x-api-key": given})
            assert (reply.status, reply.code) == (400, "credentials-ambiguous")
    for target in (f"{STREAM}?token={token.decode()}", f"{STREAM}?ticket=abc"):
        assert (await call(here, key, target)).code == "credentials-ambiguous"


async def test_a_key_in_a_url_is_refused_everywhere(here: Local) -> None:
    key = (await make_key(here, "*"))["api_key"]
    encoded = key.replace("_", "%5F")
    for target in (
        f"{ITEMS}?api_key={key}",
        f"{ITEMS}?a=1&x={encoded}",
        f"{STREAM}?token={key}",
        f"/api/v1/public?{key}",
        f"/nowhere?{key}",
        f"/health?k={key}",
    ):
        reply = await here.ask("GET", target)
        assert (reply.status, reply.code) == (400, "api-key-in-url")
        assert key not in reply.body.decode()
    assert (await here.ask("GET", f"/health?k={key[:30]}")).status == 200
    missing = await here.ask("GET", f"/nowhere/{key}/x")
    assert missing.status == 404
    assert key[5:] not in missing.body.decode()


async def test_a_key_stays_in_its_tenant_and_is_no_token(here: Local) -> None:
    key = (await make_key(here, "*"))["api_key"]
    own = await call(here, key, f"/api/v1/tenants/{TENANT.upper()}/inventory/items")
    assert own.document["context"]["x-tenant-id"] == TENANT
    for target, headers in (
        (f"/api/v1/tenants/{OTHER_TENANT}/inventory/items", {}),
        (ITEMS, {"x-tenant-id": OTHER_TENANT}),
    ):
        reply = await call(here, key, target, headers=headers)
        assert (reply.status, reply.code) == (403, "tenant-forbidden")
    for value in (f"Bearer {key}", f"ApiKey {key}"):
        reply = await here.ask("GET", ITEMS, headers={"authorization": value})
        assert reply.status == 401
        assert ("X-API-Key" in reply.document["detail"]) == value.startswith("Bearer")
        assert key not in reply.body.decode()


async def test_every_policy_of_the_tenant_holds_for_its_keys(here: Local, redis_cli: redis.Redis) -> None:
    owner = access_token(subscription={"tier": "professional", "status": "past_due", "valid_until": None})
    held = await here.ask("POST", KEYS, owner, b'{"name": "x", "scopes": ["*"]}')
    assert (held.status, held.code) == (403, "tenant-read-only")
    key = (await make_key(here, "*"))["api_key"]
    assert (await call(here, key, "/api/v1/recipes/1")).code == "tier-required"
    redis_cli.set(tenant_read_only(TENANT), "stock-taking")
    await eventually(lambda: here.state.tracked.peek([tenant_read_only(TENANT)]) is None)
    assert (await call(here, key, ITEMS, "POST")).code == "tenant-read-only"
    assert (await call(here, key, ITEMS)).status == 200
    redis_cli.delete(tenant_read_only(TENANT))
    redis_cli.set(tenant_demo(TENANT), "session-1")

    async def in_demo() -> bool:
        return (await call(here, key)).code == "demo-forbidden"

    await eventually(in_demo)


async def test_a_subscription_that_changed_is_asked_for_and_never_guessed(
    here: Local, redis_cli: redis.Redis
) -> None:
    # Nobody answers for the tenant service here; see test_api_keys_plan.py for what it says when it does.
    key = (await make_key(here))["api_key"]
    assert (await call(here, key)).status == 200
    redis_cli.set(subscription_changed_at(TENANT), time.time() + 1)

    async def refused() -> bool:
        return (await call(here, key)).code == "tenant-unavailable"

    await eventually(refused)


async def test_a_key_ends_at_its_time(here: Local) -> None:
    made = await make_key(here, expires_in=60)
    key = made["api_key"]
    assert (await call(here, key)).status == 200
    here.state.api_keys._clock = lambda: time.time() + 61
    assert (await call(here, key)).code == "api-key-expired"
    assert (await call(here, key)).code == "api-key-expired"


async def test_a_key_has_its_own_limit_and_an_address_pays_for_guesses(
    store_server: EmbeddedStore, tmp_path: Path
) -> None:
    more = {"RATE_LIMIT_REQUESTS": "20", "RATE_LIMIT_WINDOW_SECONDS": "3600"}
    async with local_gateway(store_server.url, tmp_path, ROWS, HANDLERS, **more) as gateway:
        slow = (await make_key(gateway, rate_limit={"requests": 3, "window_seconds": 3600}))["api_key"]
        usual = (await make_key(gateway))["api_key"]
        replies = [await call(gateway, slow) for _ in range(5)]
        assert [reply.status for reply in replies] == [200] * 3 + [429] * 2
        assert replies[0].header("x-ratelimit-limit") == "3"
        assert (await call(gateway, usual)).header("x-ratelimit-limit") == "20"
        # Its holder's address paid nothing for what was good.
        guesses = [await call(gateway, new_key("CCCCCCCC")) for _ in range(25)]
        assert [reply.status for reply in guesses] == [401] * 20 + [429] * 5
        # Who is known goes on from there; another key of another address, too.
        assert (await call(gateway, usual)).status == 200
        assert (await call(gateway, new_key("CCCCCCCC"), client="192.0.2.9")).status == 401


async def test_pages_may_be_told_of_the_header(store_server: EmbeddedStore, tmp_path: Path) -> None:
    async with local_gateway(store_server.url, tmp_path, CORS_ORIGINS="https://app.example") as gateway:
        headers = {
            "origin": "https://app.example",
            "access-control-request-method": "GET",
            "access-control-request-headers": "x-api-key",
        }
        reply = await gateway.ask("OPTIONS", ITEMS, headers=headers)
        assert (reply.status, reply.header("access-control-allow-headers")) == (204, "x-api-key")
