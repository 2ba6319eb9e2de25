"""API keys as their owners meet them: made, listed, rotated and revoked, by whom and within which bounds."""

from __future__ import annotations

import hashlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis

from kernel.identity.api_key_book import ApiKeyBook
from kernel.identity.stamp import Stamp
from kernel.server.embedded_store import EmbeddedStore
from kernel.store.keys import PLATFORM_READ_ONLY, tenant_api_keys, tenant_read_only
from kernel.telemetry.audit import API_KEY
from tests.integration.test_api_keys import HANDLERS, ROWS
from tests.support.api_keys import KEYS, call, make_key, patiently
from tests.support.inprocess import Local, Reply, local_gateway
from tests.support.poll import eventually
from tests.support.tokens import OTHER_TENANT, SECRET, TENANT, access_token, service_token

INTERNAL = "/internal/v1/api-keys"


@pytest.fixture
async def here(store_server: EmbeddedStore, tmp_path: Path) -> AsyncIterator[Local]:
    async with local_gateway(store_server.url, tmp_path, ROWS, HANDLERS) as gateway:
        yield gateway


async def manage(
    gateway: Local, method: str, target: str, body: Any = None, token: bytes | None = None
) -> Reply:
    raw = b"" if body is None else msgspec.json.encode(body)
    return await patiently(lambda: gateway.ask(method, target, token or access_token(), raw))


async def test_the_secret_is_shown_once_and_kept_nowhere(here: Local, redis_cli: redis.Redis) -> None:
    reply = await manage(
        here, "POST", KEYS, {"name": "Panadería Triana", "scopes": ["sales:write", "sales:write"]}
    )
    made = reply.document
    key = made.pop("api_key")
    assert (reply.status, reply.header("cache-control")) == (201, "no-store")
    assert made["start"] == key[:13] == f"bkgw_{made['key_id']}"
    assert (made["name"], made["scopes"], made["role"]) == ("Panadería Triana", ["sales:write"], "member")
    assert (made["tenant_id"], made["created_by"], made["tier"]) == (TENANT, "user-1", None)
    listed = await manage(here, "GET", KEYS)
    assert (listed.status, listed.header("cache-control")) == (200, "no-store")
    assert listed.document == {"api_keys": [made]}
    one = await manage(here, "GET", f"{KEYS}/{made['key_id']}")
    assert one.document == made
    assert made["secrets"][0]["fingerprint"] == hashlib.sha256(key.encode()).hexdigest()[:8]
    stored = "".join(str(redis_cli.get(name)) for name in redis_cli.keys("apikey:*"))
    assert made["key_id"] in stored
    for text in (listed.body.decode(), one.body.decode(), stored, *map(str, redis_cli.keys())):
        assert key[13:] not in text


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"name": "x"},
        {"scopes": ["*"]},
        {"name": "", "scopes": ["*"]},
        {"name": "x" * 65, "scopes": ["*"]},
        {"name": "a\nb", "scopes": ["*"]},
        {"name": "x", "scopes": []},
        {"name": "x", "scopes": ["*"] * 33},
        {"name": "x", "scopes": ["stock:read"]},
        {"name": "x", "scopes": ["auth:read"]},
        {"name": "x", "scopes": ["*"], "role": "owner"},
        {"name": "x", "scopes": ["*"], "role": "A\r\nB"},
        {"name": "x", "scopes": ["*"], "tier": "gold"},
        {"name": "x", "scopes": ["*"], "expires_in": 59},
        {"name": "x", "scopes": ["*"], "rate_limit": {"requests": 0, "window_seconds": 60}},
        {"name": "x", "scopes": ["*"], "rate_limit": {"requests": 301, "window_seconds": 60}},
        {"name": "x", "scopes": ["*"], "rate_limit": {"requests": 300, "window_seconds": 59}},
        {"name": "x", "scopes": ["*"], "tenant_id": OTHER_TENANT},
    ],
)
async def test_what_is_asked_for_has_bounds(
    here: Local, body: dict[str, Any], redis_cli: redis.Redis
) -> None:
    assert here.state.settings.rate_limit_requests == 300
    reply = await manage(here, "POST", KEYS, body)
    assert (reply.status, reply.code) == (422, "body-invalid"), reply.body
    assert not redis_cli.keys("apikey:*")


async def test_only_owners_and_admins_of_the_tenant_manage_its_keys(here: Local) -> None:
    made = await make_key(here)
    one = f"{KEYS}/{made['key_id']}"
    body = {"name": "x", "scopes": ["*"]}
    for token, status, code in (
        (access_token(tenant_role="member"), 403, "role-required"),
        (access_token(tenant_role="Owner"), 403, "role-required"),
        (access_token(tenant_id=OTHER_TENANT, tenant_access=[]), 403, "tenant-forbidden"),
        (access_token(is_demo=True, demo_session_id="d-1"), 0, ""),
        (service_token("orders"), 403, "api-key-refused"),
    ):
        for method, target in (
            ("GET", KEYS),
            ("POST", KEYS),
            ("DELETE", one),
            ("GET", one),
            ("POST", one + "/rotate"),
        ):
            reply = await manage(
                here, method, target, body if target == KEYS and method == "POST" else None, token
            )
            assert reply.status >= 400
            if status:
                assert (reply.status, reply.code) == (status, code), (method, target)
    admin = access_token(tenant_role="admin")
    assert (await manage(here, "POST", KEYS, body, admin)).status == 201
    raised = await manage(here, "POST", KEYS, {**body, "role": "admin"}, admin)
    assert (raised.status, raised.code) == (403, "role-required")
    assert (await manage(here, "POST", KEYS, {**body, "role": "admin"})).status == 201
    # The key of another tenant does not exist.
    other = f"/api/v1/tenants/{OTHER_TENANT}/api-keys/{made['key_id']}"
    for method, target in (("GET", other), ("DELETE", other), ("POST", other + "/rotate")):
        assert (await manage(here, method, target)).code == "api-key-unknown"
    assert (await call(here, made["api_key"])).status == 200


async def test_what_is_no_id_is_no_key(here: Local) -> None:
    for name in ("AAAAAAAA", "short", "A" * 41, "bkgw_AAA", "%41AAAAAAA"):
        reply = await manage(here, "DELETE", f"{KEYS}/{name}")
        assert (reply.status, reply.code) == (404, "api-key-unknown")


async def test_a_lock_stops_new_keys_and_no_revocation(here: Local, redis_cli: redis.Redis) -> None:
    made = await make_key(here)
    redis_cli.set(PLATFORM_READ_ONLY, "moving")
    redis_cli.set(tenant_read_only(TENANT), "stock-taking")
    body = {"name": "x", "scopes": ["*"]}

    async def locked() -> bool:
        return (await manage(here, "POST", KEYS, body)).code == "platform-read-only"

    await eventually(locked)
    assert (await manage(here, "POST", f"{KEYS}/{made['key_id']}/rotate")).code == "platform-read-only"
    ended = access_token(subscription={"tier": "starter", "status": "cancelled"})
    assert (await manage(here, "GET", KEYS, token=ended)).status == 200
    assert (await manage(here, "DELETE", f"{KEYS}/{made['key_id']}", token=ended)).status == 204
    assert (await call(here, made["api_key"])).code == "api-key-invalid"


async def test_a_tenant_has_so_many_keys_and_what_was_never_made_takes_no_place(
    store_server: EmbeddedStore, tmp_path: Path, redis_cli: redis.Redis
) -> None:
    async with local_gateway(store_server.url, tmp_path, ROWS, HANDLERS, API_KEYS_PER_TENANT="3") as gateway:
        first = await make_key(gateway)
        # A worker that died between the index and the key, long ago and just now.
        redis_cli.zadd(tenant_api_keys(TENANT), {"DeadDead": time.time() - 90, "LateLate": time.time()})
        await make_key(gateway)
        body = {"name": "x", "scopes": ["*"]}
        full = await manage(gateway, "POST", KEYS, body)
        assert (full.status, full.code) == (409, "api-keys-full")
        assert len((await manage(gateway, "GET", KEYS)).document["api_keys"]) == 2
        redis_cli.zrem(tenant_api_keys(TENANT), "LateLate")
        await make_key(gateway)
        assert (await manage(gateway, "POST", KEYS, body)).code == "api-keys-full"
        assert (await manage(gateway, "DELETE", f"{KEYS}/{first['key_id']}")).status == 204
        await make_key(gateway)


async def test_rotating_overlaps_and_ends(here: Local) -> None:
    made = await make_key(here, expires_in=3600)
    target = f"{KEYS}/{made['key_id']}/rotate"
    keys = [made["api_key"]]
    overlap = {"overlap_seconds": 60}
    keys += [(await manage(here, "POST", target, overlap)).document["api_key"] for _ in range(3)]
    for key in keys:
        assert (await call(here, key)).status == 200
    full = await manage(here, "POST", target, {"overlap_seconds": 60})
    assert (full.status, full.code) == (409, "api-key-conflict")
    book = here.state.api_keys
    book._clock = lambda: time.time() + 61
    assert [(await call(here, key)).code for key in keys] == ["api-key-expired"] * 3 + [""]
    book._clock = time.time
    assert (await call(here, keys[0])).status == 200
    last = (await manage(here, "POST", target, {"overlap_seconds": 0})).document["api_key"]

    async def over() -> bool:
        return [(await call(here, key)).code for key in keys] == ["api-key-invalid"] * 4

    await eventually(over)
    assert (await call(here, last)).status == 200
    for body in ({"overlap_seconds": 604_801}, {"overlap_seconds": -1}, {"overlap": 1}):
        assert (await manage(here, "POST", target, body)).status == 422


async def test_an_expired_key_cannot_be_rotated(here: Local, redis_cli: redis.Redis) -> None:
    made = await make_key(here, expires_in=60)
    later = ApiKeyBook(here.state.store, here.state.stamp, 50, clock=lambda: time.time() + 61)
    with pytest.raises(Exception, match="has expired"):
        await later.rotate(made["key_id"], TENANT, 60.0, None)


async def test_services_manage_keys_of_any_tenant_or_of_their_own(here: Local) -> None:
    service = service_token("orders")
    body = {"tenant_id": TENANT.upper(), "name": "sync", "scopes": ["*"], "subscription_tier": "enterprise"}
    wide = {"requests": 100_000, "window_seconds": 60}
    made = await manage(here, "POST", INTERNAL, {**body, "rate_limit": wide}, service)
    assert made.status == 201, made.body
    document = made.document
    assert (document["tenant_id"], document["created_by"]) == (TENANT, "orders-service")
    assert document["rate_limit"] == wide
    seen = await call(here, document["api_key"], "/api/v1/recipes/1")
    assert seen.document["context"]["x-subscription-tier"] == "enterprise"
    listed = await manage(here, "GET", f"{INTERNAL}?tenant_id={TENANT}", None, service)
    assert [key["key_id"] for key in listed.document["api_keys"]] == [document["key_id"]]
    assert (await manage(here, "GET", INTERNAL, None, service)).code == "parameter-invalid"
    bound = service_token("orders", tenant_id=OTHER_TENANT)
    one = f"{INTERNAL}/{document['key_id']}"
    assert (await manage(here, "POST", INTERNAL, body, bound)).code == "tenant-forbidden"
    assert (
        await manage(here, "GET", f"{INTERNAL}?tenant_id={TENANT}", None, bound)
    ).code == "tenant-forbidden"
    for method, target in (("GET", one), ("DELETE", one), ("POST", one + "/rotate")):
        assert (await manage(here, method, target, None, bound)).code == "api-key-unknown"
    assert (await manage(here, "GET", INTERNAL, None)).code == "service-only"
    assert (await manage(here, "POST", one + "/rotate", None, service)).status == 200
    assert (await manage(here, "DELETE", one, None, service)).status == 204


async def test_each_change_is_in_the_audit_trail(here: Local) -> None:
    made = await make_key(here)
    await manage(here, "POST", f"{KEYS}/{made['key_id']}/rotate")
    await manage(here, "DELETE", f"{KEYS}/{made['key_id']}")
    told = [event.fields for event in here.state.audit._events.values() if event.fields["kind"] == API_KEY]
    assert [(event["method"], event["status"]) for event in told] == [
        ("POST", 201),
        ("POST", 200),
        ("DELETE", 204),
    ]
    for event in told:
        assert (event["subject"], event["user_id"]) == (f"key:{made['key_id']}", "user-1")
        assert event["tenant_id"] == TENANT


async def test_without_a_secret_there_are_no_keys(store_server: EmbeddedStore, tmp_path: Path) -> None:
    async with local_gateway(store_server.url, tmp_path, ROWS, HANDLERS, JWT_SECRET_KEY="") as gateway:
        reply = await manage(gateway, "POST", KEYS, {"name": "x", "scopes": ["*"]})
        assert (reply.status, reply.code) == (503, "api-keys-off")
        assert (await call(gateway, "bkgw_8Zq1TtBkAbCdEfGhIjKlMnOpQrStUv2qEwoh")).code == "api-keys-off"


async def test_a_changed_secret_of_the_gateways_is_survived_by_keys_in_use(
    store_server: EmbeddedStore, tmp_path: Path
) -> None:
    new = "another-secret-of-the-service-tokens-0123456789"
    for name in ("old", "both", "new"):
        (tmp_path / name).mkdir()
    async with local_gateway(store_server.url, tmp_path / "old", ROWS, HANDLERS) as gateway:
        used, unused = await make_key(gateway), await make_key(gateway)
    both = {"JWT_SECRET_KEY": f"{new},{SECRET}"}
    async with local_gateway(store_server.url, tmp_path / "both", ROWS, HANDLERS, **both) as gateway:
        assert (await call(gateway, used["api_key"])).status == 200
        name = f"apikey:{used['key_id']}"

        async def marked_anew() -> bool:
            stored = await gateway.state.store.execute("GET", name)
            return Stamp([new]).take(name, stored) is not None

        await eventually(marked_anew)
        book = ApiKeyBook(gateway.state.store, Stamp([new, SECRET]), 50)
        assert await book.reseal(100, 5.0) == (1, 2)
    async with local_gateway(
        store_server.url, tmp_path / "new", ROWS, HANDLERS, JWT_SECRET_KEY=new
    ) as gateway:
        for key in (used, unused):
            assert (await call(gateway, key["api_key"])).status == 200
