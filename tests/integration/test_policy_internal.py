"""The internal endpoints: only services, only for their tenant, only with sound input, and honest without the store."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
import redis

from kernel.server.embedded_store import EmbeddedStore
from tests.support.gateway import GatewayFactory
from tests.support.policy import Answer, Client, Fence
from tests.support.poll import poll
from tests.support.recorder import Recorder
from tests.support.stack import Stack, stack_env
from tests.support.tokens import OTHER_TENANT, TENANT, access_token, service_token

LOCK = f"/internal/v1/tenants/{TENANT}/read-only"
PLATFORM = "/internal/v1/platform/read-only"
CHANGED = f"/internal/v1/tenants/{TENANT}/subscription-changed"
REASON = b'{"reason": "the books are being closed"}'
ITEMS = "/api/v1/inventory/items"


@pytest.fixture
def client(stack: Stack, redis_cli: redis.Redis) -> Iterator[Client]:
    client = Client(stack.port)
    Fence(client, redis_cli).wait()
    yield client
    client.close()


def refusal(ask: Callable[[], Answer]) -> Answer:
    """The first answer that is a problem."""
    answers: list[Answer] = []

    def refused() -> bool:
        answers.append(ask())
        return bool(answers[-1].code)

    poll(refused)
    return answers[-1]


def test_a_service_locks_a_tenant_and_opens_it_again(client: Client, redis_cli: redis.Redis) -> None:
    answer = client.ask("PUT", LOCK, service_token(), REASON)
    assert (answer.status, answer.document) == (
        200,
        {"tenant_id": TENANT, "read_only": True, "reason": "the books are being closed"},
    )
    assert redis_cli.get(f"tenant:{TENANT}:read_only") == "the books are being closed"
    token = access_token()
    refused = refusal(lambda: client.ask("POST", ITEMS, token))
    assert refused.code == "tenant-read-only"
    assert "the books are being closed" in refused.document["detail"]
    assert client.ask("GET", ITEMS, token).status == 200
    other = access_token(tenant_id=OTHER_TENANT)
    assert client.ask("POST", ITEMS, other).status == 200
    for _ in range(2):
        assert client.ask("DELETE", LOCK, service_token()).status == 204
    poll(lambda: client.ask("POST", ITEMS, token).status == 200)


def test_a_service_locks_the_platform_and_can_still_open_it(client: Client, redis_cli: redis.Redis) -> None:
    answer = client.ask("PUT", PLATFORM, service_token(), REASON)
    assert (answer.status, answer.document) == (
        200,
        {"read_only": True, "reason": "the books are being closed"},
    )
    refused = refusal(lambda: client.ask("POST", ITEMS, access_token()))
    assert refused.code == "platform-read-only"
    assert "the books are being closed" in refused.document["detail"]
    assert client.ask("POST", ITEMS, service_token(tenant_id=TENANT)).code == "platform-read-only"
    assert client.ask("POST", f"/api/v1/tenants/{TENANT}/billing/payments", access_token()).status == 200
    assert client.ask("POST", "/api/v1/auth/login").status == 200
    assert client.ask("DELETE", PLATFORM, service_token()).status == 204
    poll(lambda: client.ask("POST", ITEMS, access_token()).status == 200)


def test_a_changed_subscription_makes_older_tokens_stale_and_no_younger(client: Client) -> None:
    old = access_token(iat=time.time() - 0.001)
    assert client.ask("GET", ITEMS, old).status == 200
    began = time.time()
    answer = client.ask("POST", CHANGED, service_token())
    assert answer.status == 200
    assert answer.document["tenant_id"] == TENANT
    assert began <= answer.document["subscription_changed_at"] <= time.time()
    # In the very same second.
    young = access_token(iat=time.time())
    stale = refusal(lambda: client.ask("GET", ITEMS, old))
    assert stale.code == "token-stale"
    assert 'error="invalid_token"' in stale.headers["www-authenticate"]
    assert client.ask("GET", ITEMS, young).status == 200
    # A whole-second `iat` tells only in which second it was issued: an older token never passes for a younger one.
    moment = answer.document["subscription_changed_at"]
    assert client.ask("GET", ITEMS, access_token(iat=int(moment))).code == "token-stale"
    assert client.ask("GET", ITEMS, access_token(iat=int(moment) + 1)).status == 200


def test_a_token_of_the_very_moment_of_a_change_is_not_older(client: Client, redis_cli: redis.Redis) -> None:
    moment = int(time.time()) - 100
    redis_cli.set(f"tenant:{TENANT}:subscription_changed_at", moment)
    Fence(client, redis_cli).wait()
    assert client.ask("GET", ITEMS, access_token(iat=moment)).status == 200
    assert client.ask("GET", ITEMS, access_token(iat=moment - 1)).code == "token-stale"


def test_a_moment_nobody_can_read_is_now_and_is_logged(
    client: Client, redis_cli: redis.Redis, stack: Stack
) -> None:
    token = access_token(iat=int(time.time()) - 60)
    assert client.ask("GET", ITEMS, token).status == 200
    redis_cli.set(f"tenant:{TENANT}:subscription_changed_at", "last tuesday")
    assert refusal(lambda: client.ask("GET", ITEMS, token)).code == "token-stale"
    poll(lambda: '"last tuesday"' in stack.gateway.log())
    assert "unreadable" in stack.gateway.log()


@pytest.mark.parametrize(
    ("method", "path"),
    [("PUT", LOCK), ("DELETE", LOCK), ("PUT", PLATFORM), ("DELETE", PLATFORM), ("POST", CHANGED)],
)
def test_only_services_may(client: Client, redis_cli: redis.Redis, method: str, path: str) -> None:
    body = REASON if method == "PUT" else None
    assert client.ask(method, path, None, body).code == "token-missing"
    assert client.ask(method, path, access_token(tenant_role="admin"), body).code == "service-only"
    assert client.ask(method, path, None, body, X_Demo_Session_Id="demo_1").code == "token-missing"
    revoked = service_token(jti="spent")
    redis_cli.set("token:revoked:spent", "1")
    poll(lambda: client.ask(method, path, revoked, body).code == "token-revoked")
    assert not redis_cli.keys("tenant:*")
    assert not redis_cli.keys("platform:*")


def test_a_bound_service_acts_on_its_tenant_only(client: Client, redis_cli: redis.Redis) -> None:
    bound = service_token(tenant_id=OTHER_TENANT)
    for method, path in (
        ("PUT", LOCK),
        ("DELETE", LOCK),
        ("POST", CHANGED),
        ("PUT", PLATFORM),
        ("DELETE", PLATFORM),
    ):
        body = REASON if method == "PUT" else None
        assert client.ask(method, path, bound, body).code == "tenant-forbidden"
        # Nor does naming its tenant elsewhere help.
        assert client.ask(method, path, bound, body, X_Tenant_ID=OTHER_TENANT).code == "tenant-forbidden"
    assert not redis_cli.keys("tenant:*")
    own = f"/internal/v1/tenants/{OTHER_TENANT}/read-only"
    assert client.ask("PUT", own, bound, REASON).status == 200


@pytest.mark.parametrize(
    ("body", "status", "code", "named"),
    [
        (b"", 422, "body-invalid", "`reason`"),
        (b"{}", 422, "body-invalid", "`reason`"),
        (b'{"reason": 5}', 422, "body-invalid", "`reason`"),
        (b'{"reason": ""}', 422, "body-invalid", "`reason`"),
        (b'{"reason": "a\\nb"}', 422, "body-invalid", "`reason`"),
        (b'{"reason": "x", "until": 5}', 422, "body-invalid", "`until`"),
        (b'{"reason": "%b"}' % (b"x" * 201), 422, "body-invalid", "`reason`"),
        (b"[]", 422, "body-invalid", "object"),
        (b'{"reason": "x"', 400, "bad-request", "JSON"),
        (b'{"reason": "\xff"}', 400, "bad-request", "JSON"),
        (b'{"reason": "%b"}' % (b"x" * 5000), 413, "body-too-large", "4096"),
    ],
)
def test_what_is_wrong_with_a_body_is_named(
    client: Client, redis_cli: redis.Redis, body: bytes, status: int, code: str, named: str
) -> None:
    for path in (LOCK, PLATFORM):
        answer = client.ask("PUT", path, service_token(), body)
        assert (answer.status, answer.code) == (status, code)
        assert named in answer.document["detail"]
    assert not redis_cli.keys("*read_only")


def test_paths_and_methods_that_are_not_there(client: Client) -> None:
    token = service_token()
    assert client.ask("POST", LOCK, token, REASON).status == 405
    assert client.ask("PUT", "/internal/v1/tenants/a;b/read-only", token, REASON).code == "tenant-invalid"
    assert client.ask("PUT", "/internal/v1/elsewhere", token, REASON).code == "route-unknown"


def test_outside_development_strangers_find_nothing(
    gateway_factory: GatewayFactory, upstream: Recorder, store_server: EmbeddedStore
) -> None:
    for networks, status, code in (
        ("10.9.9.0/24", 404, "route-unknown"),
        ("127.0.0.0/8", 401, "token-missing"),
    ):
        env = stack_env(upstream, store_server, ENVIRONMENT="staging", ADMIN_ALLOW=networks)
        client = Client(gateway_factory(env).port)
        answer = client.ask("PUT", PLATFORM, None, REASON)
        assert (answer.status, answer.code) == (status, code)
        user = client.ask("DELETE", PLATFORM, access_token())
        assert user.status == (404 if status == 404 else 403)
        assert client.ask("PUT", LOCK, service_token(), REASON).status == 200
        client.close()


def test_without_the_store_nothing_is_promised(
    gateway_factory: GatewayFactory, upstream: Recorder, mortal_store: EmbeddedStore
) -> None:
    client = Client(gateway_factory(stack_env(upstream, mortal_store)).port)
    mortal_store.kill()
    for method, path in (("PUT", LOCK), ("DELETE", LOCK), ("PUT", PLATFORM), ("POST", CHANGED)):
        answer = client.ask(method, path, service_token(), REASON if method == "PUT" else None)
        assert (answer.status, answer.code) == (503, "store-unavailable")
        assert answer.headers["retry-after"] == "1"
    mortal_store.start()
    poll(lambda: client.ask("PUT", LOCK, service_token(), REASON).status == 200)
    client.close()
