"""API keys and what they rest on: the tenant's subscription, the store, and the streams that they opened."""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis

from kernel.http.problems import GatewayError
from kernel.identity.access import decide
from kernel.identity.api_key_uses import Uses
from kernel.identity.identity import TenantContext
from kernel.server.embedded_store import EmbeddedStore
from kernel.store.keys import api_key_used, subscription_changed_at
from tests.integration.test_api_keys import HANDLERS, ITEMS, ROWS
from tests.support.api_keys import KEYS, call, make_key, patiently
from tests.support.inprocess import Local, Reply, local_gateway
from tests.support.office import Office
from tests.support.poll import eventually
from tests.support.recorder import Recorder, recording_upstream
from tests.support.store import RawServer
from tests.support.tokens import TENANT, access_token

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


# --- the subscription ------------------------------------------------------------------------------------------------


@pytest.fixture
def upstream() -> Any:
    with recording_upstream() as recorder:
        yield recorder


async def test_a_key_has_the_subscription_that_its_tenant_has_now(
    store_server: EmbeddedStore, tmp_path: Path, upstream: Recorder, redis_cli: redis.Redis
) -> None:
    office = Office.behind(upstream)
    office.plans[TENANT] = {"tier": "enterprise", "status": "active", "valid_until": "2999-01-01T00:00:00Z"}
    env = {"TENANT_SERVICE_URL": upstream.url}
    async with local_gateway(store_server.url, tmp_path, ROWS, HANDLERS, **env) as gateway:
        key = (await make_key(gateway, "*", token=access_token(iat=time.time() - 60)))["api_key"]
        recipes = "/api/v1/recipes/1"
        assert (await call(gateway, key, recipes)).code == "tier-required"
        assert not office.calls
        redis_cli.set(subscription_changed_at(TENANT), time.time() - 30)

        async def raised() -> bool:
            reply = await call(gateway, key, recipes)
            assert reply.code in {"", "tier-required"}  # never out of date in between
            return reply.status == 200

        await eventually(raised)
        asked = len(office.calls)
        assert asked == 1
        for _ in range(5):
            assert await raised()
        assert len(office.calls) == asked
        # It ends: the next change is asked for, too.
        office.plans[TENANT] = {"tier": "enterprise", "status": "cancelled", "valid_until": None}
        redis_cli.set(subscription_changed_at(TENANT), time.time())

        async def ended() -> bool:
            return (await call(gateway, key)).code == "subscription-required"

        await eventually(ended)
        # What the service does not know is not guessed.
        del office.plans[TENANT]
        redis_cli.set(subscription_changed_at(TENANT), time.time() + 1)

        async def stale() -> bool:
            return (await call(gateway, key)).code == "token-stale"

        await eventually(stale)


# --- the store is lost -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["open", "closed"])
async def test_without_the_store_known_keys_go_on_for_a_while_or_none(
    mortal_store: EmbeddedStore, tmp_path: Path, mode: str
) -> None:
    more = {"RATE_LIMIT_FAIL_MODE": mode}
    async with local_gateway(mortal_store.url, tmp_path, ROWS, HANDLERS, **more) as gateway:
        known, unknown = await make_key(gateway), await make_key(gateway)
        assert (await call(gateway, known["api_key"])).status == 200
        mortal_store.kill()
        await eventually(lambda: not gateway.state.store.connected and not gateway.state.tracked.live)

        async def ask(key: str) -> tuple[int, str]:
            reply = await gateway.ask("GET", ITEMS, headers={"x-api-key": key})
            return reply.status, reply.code

        assert (await ask(unknown["api_key"]))[0] == 503
        if mode == "closed":
            assert (await ask(known["api_key"]))[0] == 503
            # Whatever the limiter says before it.
            assert gateway.state.api_keys.known(known["api_key"].encode()) is None
            with pytest.raises(GatewayError, match="cannot be verified"):
                await gateway.state.api_keys.recognise(known["api_key"].encode())
            return
        assert await ask(known["api_key"]) == (200, "")
        # Not longer than the docs say, and not past its own end.
        keys = gateway.state.api_keys
        keys._clock = lambda: time.time() + 301
        assert await ask(known["api_key"]) == (503, "store-unavailable")
        keys._clock = lambda: time.time() - 10
        assert await ask(known["api_key"]) == (503, "store-unavailable")
        # A store that came back empty knows no key: none is let in on memory alone.
        keys._clock = time.time
        mortal_store.start()

        async def refused() -> bool:
            return (await ask(known["api_key"])) == (401, "api-key-invalid")

        await eventually(refused)


async def test_keys_work_on_a_cluster(cluster: list[RawServer], tmp_path: Path) -> None:
    url = f"redis+cluster://127.0.0.1:{cluster[0].port}"
    async with local_gateway(url, tmp_path, ROWS, HANDLERS) as gateway:
        made = [await make_key(gateway) for _ in range(6)]
        for key in made:
            assert (await call(gateway, key["api_key"])).status == 200
        listed = (await manage(gateway, "GET", KEYS)).document["api_keys"]
        assert {key["key_id"] for key in made} <= {key["key_id"] for key in listed}
        rotated = await manage(gateway, "POST", f"{KEYS}/{made[0]['key_id']}/rotate", {"overlap_seconds": 0})
        assert rotated.status == 200
        for key in made:
            assert (await manage(gateway, "DELETE", f"{KEYS}/{key['key_id']}")).status == 204

        async def gone() -> bool:
            return all([(await call(gateway, key["api_key"])).code == "api-key-invalid" for key in made])

        await eventually(gone)


# --- streams and sockets ---------------------------------------------------------------------------------------------


async def test_what_a_key_opened_ends_with_it(here: Local) -> None:
    made = await make_key(here)
    target = f"{KEYS}/{made['key_id']}"
    assert (await call(here, made["api_key"])).status == 200
    newer = (await manage(here, "POST", f"{target}/rotate", {"overlap_seconds": 60})).document["api_key"]
    guard = here.state.guard
    told: dict[str, list[str]] = {"old": [], "new": []}
    for name, key in (("old", made["api_key"]), ("new", newer)):
        assert (await call(here, key)).status == 200
        identity = await here.state.api_keys.recognise(key.encode())
        context = decide(identity, None)
        assert isinstance(context, TenantContext)
        guard.watch(identity, context, told[name].append)
    # The end that the rotation set comes.
    guard._clock = lambda: time.time() + 61
    await eventually(lambda: told == {"old": ["api-key-expired"], "new": []})
    guard._clock = time.time
    assert (await manage(here, "DELETE", target)).status == 204
    await eventually(lambda: told["new"] == ["api-key-invalid"])
    assert len(guard) == 0


async def test_a_rotation_shortens_what_is_open(here: Local) -> None:
    made = await make_key(here)
    identity = await here.state.api_keys.recognise(made["api_key"].encode())
    context = decide(identity, None)
    assert isinstance(context, TenantContext)
    told: list[str] = []
    watch = here.state.guard.watch(identity, context, told.append)
    assert watch.exp == math.inf
    await manage(here, "POST", f"{KEYS}/{made['key_id']}/rotate", {"overlap_seconds": 60})
    await eventually(lambda: watch.exp < time.time() + 61)
    await manage(here, "POST", f"{KEYS}/{made['key_id']}/rotate", {"overlap_seconds": 0})
    await eventually(lambda: told == ["api-key-invalid"])


async def test_a_use_is_noted_once_a_minute_whichever_worker_saw_it(
    here: Local, redis_cli: redis.Redis
) -> None:
    name = api_key_used("AAAAAAAA", "01234567")
    for moment, noted in ((1_000, 1_000), (1_059, 1_000), (1_060, 1_060), (1_030, 1_060), (900, 900)):

        async def written(moment: int = moment, noted: int = noted) -> bool:
            worker = Uses(here.state.store)
            worker.note("AAAAAAAA", "01234567", moment)
            await worker.close()
            return redis_cli.get(name) == str(noted)

        await eventually(written)
    assert int(str(redis_cli.ttl(name))) > 399 * 86_400
