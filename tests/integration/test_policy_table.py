"""The decision table, whole, through the real gateway: thousands of rows, each with its status, code and headers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from kernel.server.embedded_store import EmbeddedStore
from tests.support.decisions import (
    GROUP_GRANT,
    LISTED,
    LISTED_GRANT,
    OUTLET,
    OWN,
    PHASES,
    RANK,
    SUBSCRIPTIONS,
    VIRTUAL,
    Case,
    cases,
    context,
    verdict,
)
from tests.support.gateway import GatewayFactory
from tests.support.office import Office, stamp
from tests.support.policy import Answer, Client, Fence
from tests.support.recorder import Recorder
from tests.support.stack import stack_env
from tests.support.tokens import access_token, service_token

CONFIG = """
[services.forecasting]
min_tier = "professional"
[services.ai-insights]
min_tier = "enterprise"
[[routes]]
pattern = "/api/v1/tenants/{tenant_id}/external/**"
service_only = true
"""
# What the upstream answers: no 2xx, which would make a change of the subscription take effect.
ADMITTED = 418


def subscription(name: str, tier: str) -> dict[str, Any]:
    status, days = SUBSCRIPTIONS[name]
    document = {"tier": tier, "valid_until": stamp(time.time() + days * 86_400)}
    return document | ({"status": status} if status else {})


def make_tokens() -> dict[tuple[str, str, str], bytes]:
    """(caller, subscription, tier) -> its token."""
    tokens = {}
    entries = [
        {"id": OWN, "role": GROUP_GRANT[0], "tier": GROUP_GRANT[1], "can_view_children": True},
        {"id": LISTED, "role": LISTED_GRANT[0], "tier": LISTED_GRANT[1]},
    ]
    for name in SUBSCRIPTIONS:
        for tier in RANK:
            about: dict[str, Any] = {"subscription": subscription(name, tier), "tenant_access": entries}
            tokens["user", name, tier] = access_token(tenant_id=OWN, **about)
            session = f"demo_{name}_{tier}"
            tokens["demo token", name, tier] = access_token(
                user_id="demo-user", tenant_id=VIRTUAL, is_demo=True, demo_session_id=session, **about
            )
    tokens["service", "none", "starter"] = service_token("sales")
    tokens["bound service", "none", "starter"] = service_token("sales", tenant_id=OWN)
    return tokens


@pytest.fixture(scope="module")
def gateway(
    gateway_factory: GatewayFactory,
    upstream: Recorder,
    session_store: EmbeddedStore,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Client]:
    config: Path = tmp_path_factory.mktemp("table") / "gateway.toml"
    config.write_text(CONFIG)
    env = stack_env(upstream, session_store, GATEWAY_CONFIG=str(config), RATE_LIMIT_REQUESTS="1000000000")
    client = Client(gateway_factory(env).port)
    yield client
    client.close()


@pytest.fixture(scope="module")
def tokens() -> dict[tuple[str, str, str], bytes]:
    return make_tokens()


@pytest.fixture
def office(upstream: Recorder) -> Office:
    upstream.clear()
    upstream.status = ADMITTED
    office = Office.behind(upstream)
    office.ancestors = {OUTLET: ["t-region", OWN]}
    office.denied["delete-tenant"] = "no"
    for name in SUBSCRIPTIONS:
        for tier in RANK:
            office.session(f"demo_{name}_{tier}", VIRTUAL, subscription=subscription(name, tier))
    return office


PREPARE: dict[str, dict[str, str]] = {
    "open": {},
    "tenant locked": {f"tenant:{tenant}:read_only": "books" for tenant in (OWN, LISTED, OUTLET, VIRTUAL)},
    "platform locked": {"platform:read_only": "books"},
    "changed": {f"tenant:{tenant}:subscription_changed_at": "99999999999" for tenant in (OWN, VIRTUAL)},
}


def ask(client: Client, tokens: dict[tuple[str, str, str], bytes], case: Case) -> Answer:
    endpoint = case.endpoint
    path = endpoint.path.replace("{t}", case.tenant)
    if case.caller == "visitor":
        session = f"demo_{case.subscription}_{case.tier}"
        return client.ask(endpoint.method, path, X_Demo_Session_Id=session)
    return client.ask(endpoint.method, path, tokens[case.caller, case.subscription, case.tier])


def flaws(case: Case, phase: str, answer: Answer) -> Iterator[str]:
    """What `answer` has wrong."""
    wanted = verdict(case, phase)
    if answer.code != wanted.code:
        yield f"code {answer.code or 'none'}, not {wanted.code or 'none'}"
        return
    status = wanted.status if wanted.code else ADMITTED
    if answer.status != status:
        yield f"status {answer.status}, not {status}"
    told = answer.headers.get("x-subscription-status")
    if told != ("grace" if wanted.grace else None):
        yield f"the client was told the subscription is {told}"
    if wanted.grace != ("days of grace left" in answer.headers.get("warning", "")):
        yield f"Warning: {answer.headers.get('warning')}"
    if not wanted.code and answer.context != context(case, grace=wanted.grace):
        yield f"the service saw {answer.context}"


@pytest.mark.parametrize("phase", PHASES)
def test_every_row_of_the_table(
    gateway: Client,
    tokens: dict[tuple[str, str, str], bytes],
    office: Office,
    redis_cli: redis.Redis,
    phase: str,
) -> None:
    for key, value in PREPARE[phase].items():
        redis_cli.set(key, value)
    Fence(gateway, redis_cli).wait()
    rows = list(cases())
    assert len(rows) > 2000
    wrong = [f"{case}: {flaw}" for case in rows for flaw in flaws(case, phase, ask(gateway, tokens, case))]
    assert not wrong, f"{len(wrong)} of {len(rows)} rows:\n" + "\n".join(wrong[:20])
