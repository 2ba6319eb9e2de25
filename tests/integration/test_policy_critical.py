"""Critical operations: the tenant service confirms each one, or it is not done; each leaves a line in the audit trail."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from kernel.server.embedded_store import EmbeddedStore
from tests.support.gateway import GatewayFactory, GatewayProcess
from tests.support.office import Office
from tests.support.policy import Client
from tests.support.poll import poll
from tests.support.recorder import Recorder
from tests.support.stack import stack_env
from tests.support.tokens import TENANT, access_token, service_token

CONFIG = """
[[routes]]
pattern = "/api/v1/inventory/purge"
methods = ["POST"]
service = "inventory"
critical = "purge-stock"
"""
DELETE = ("DELETE", f"/api/v1/tenants/{TENANT}")
CHANGE = ("PUT", f"/api/v1/tenants/{TENANT}/subscription")


@pytest.fixture(scope="module")
def gateway(
    gateway_factory: GatewayFactory,
    upstream: Recorder,
    session_store: EmbeddedStore,
    tmp_path_factory: pytest.TempPathFactory,
) -> GatewayProcess:
    config: Path = tmp_path_factory.mktemp("critical") / "gateway.toml"
    config.write_text(CONFIG)
    return gateway_factory(stack_env(upstream, session_store, GATEWAY_CONFIG=str(config)))


@pytest.fixture
def client(gateway: GatewayProcess) -> Iterator[Client]:
    client = Client(gateway.port)
    yield client
    client.close()


@pytest.fixture
def office(upstream: Recorder, redis_cli: redis.Redis) -> Office:
    upstream.clear()
    return Office.behind(upstream)


def verified(office: Office) -> list[dict[str, Any]]:
    return [json.loads(call.body) for call in office.calls]


@pytest.mark.parametrize(
    ("method", "path", "operation"), [(*DELETE, "delete-tenant"), (*CHANGE, "change-subscription")]
)
def test_each_time_the_tenant_service_is_asked(
    client: Client, office: Office, upstream: Recorder, method: str, path: str, operation: str
) -> None:
    # No 2xx, so that a changed subscription does not make the token stale.
    upstream.status = 418
    token = access_token()
    for _ in range(2):
        assert client.ask(method, path, token).status == 418
    assert verified(office) == [{"operation": operation, "user_id": "user-1"}] * 2
    assert all(call.target.decode() == f"/api/v1/tenants/{TENANT}/verify" for call in office.calls)
    assert all(call.method == "POST" for call in office.calls)


def test_a_route_of_gateway_toml_names_its_own_operation(client: Client, office: Office) -> None:
    assert client.ask("POST", "/api/v1/inventory/purge", access_token()).status == 200
    assert verified(office) == [{"operation": "purge-stock", "user_id": "user-1"}]


@pytest.mark.parametrize("method_path", [DELETE, CHANGE], ids=["delete", "change"])
def test_what_it_refuses_is_not_done(
    client: Client, office: Office, upstream: Recorder, method_path: tuple[str, str]
) -> None:
    office.denied = dict.fromkeys(("delete-tenant", "change-subscription"), "not on a Friday" + "!" * 900)
    answer = client.ask(*method_path, access_token())
    assert (answer.status, answer.code) == (403, "critical-denied")
    assert "not on a Friday!" in answer.document["detail"]
    assert len(answer.document["detail"]) < 400
    assert upstream.requests == []


@pytest.mark.parametrize("status", [500, 403, 422, 0])
def test_what_it_cannot_confirm_is_not_done(
    client: Client, office: Office, upstream: Recorder, status: int
) -> None:
    office.status = status
    for method, path in (DELETE, CHANGE):
        answer = client.ask(method, path, access_token())
        assert (answer.status, answer.code) == (503, "tenant-unavailable")
        assert answer.headers["retry-after"] == "1"
    assert upstream.requests == []


@pytest.mark.parametrize(
    "document", [{}, {"allowed": "yes"}, {"allowed": 1}, {"allowed": None}, [True], "true"]
)
def test_an_answer_that_is_no_clear_yes_is_none(
    client: Client, office: Office, upstream: Recorder, document: Any
) -> None:
    office.garbage = document
    assert client.ask(*DELETE, access_token()).code == "tenant-unavailable"
    assert upstream.requests == []


def test_services_are_asked_about_too_and_need_a_tenant(client: Client, office: Office) -> None:
    assert client.ask(*DELETE, service_token("orders")).status == 200
    assert verified(office) == [{"operation": "delete-tenant", "user_id": "orders-service"}]
    answer = client.ask("PUT", "/api/v1/subscriptions", service_token("orders"))
    assert (answer.status, answer.code) == (403, "critical-denied")
    assert "X-Tenant-ID" in answer.document["detail"]


def test_nothing_is_asked_about_what_another_policy_refuses(
    client: Client, office: Office, redis_cli: redis.Redis
) -> None:
    redis_cli.set(f"tenant:{TENANT}:read_only", "x")
    poll(lambda: client.ask(*DELETE, access_token()).code == "tenant-read-only")
    office.calls.clear()
    assert client.ask(*DELETE, access_token()).code == "tenant-read-only"
    assert client.ask(*DELETE).code == "token-missing"
    assert office.calls == []


def test_every_operation_leaves_a_line_in_the_audit_trail(
    client: Client, office: Office, gateway: GatewayProcess
) -> None:
    users = {"audit-allowed": "", "audit-denied": "critical-denied", "audit-down": "tenant-unavailable"}
    for user, problem in users.items():
        office.denied = {"delete-tenant": "no"} if problem == "critical-denied" else {}
        office.status = 500 if problem == "tenant-unavailable" else 200
        assert client.ask(*DELETE, access_token(user_id=user)).code == problem

    def recorded() -> bool:
        lines = [json.loads(line) for line in gateway.log().splitlines() if '"critical"' in line]
        return {
            line["user_id"]: line.get("problem", "") for line in lines if line["user_id"] in users
        } == users

    poll(recorded)
    lines = [json.loads(line) for line in gateway.log().splitlines() if '"audit-allowed"' in line]
    [line] = [line for line in lines if line.get("kind") == "critical"]
    assert line["tenant_id"] == TENANT
    assert line["method"] == "DELETE"
