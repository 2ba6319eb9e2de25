"""Random sequences of policy changes, by hand and through the internal endpoints, against a simple model."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import msgspec
import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from kernel.server.embedded_store import EmbeddedStore
from tests.support.gateway import GatewayFactory
from tests.support.policy import Client, Fence
from tests.support.recorder import Recorder
from tests.support.stack import stack_env
from tests.support.tokens import access_token, service_token

NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def gateway(
    gateway_factory: GatewayFactory, upstream: Recorder, session_store: EmbeddedStore
) -> Iterator[Client]:
    client = Client(
        gateway_factory(stack_env(upstream, session_store, RATE_LIMIT_REQUESTS="1000000000")).port
    )
    yield client
    client.close()


class Policies(RuleBasedStateMachine):
    """The model: who is locked, what changed when, which tokens were issued when, and which are revoked."""

    gateway: Client
    cli: redis.Redis

    @initialize()
    def begin(self) -> None:
        number = next(NUMBERS)
        self.tenants = [f"home-{number}", f"away-{number}"]
        self.service = service_token("sales")
        self.locked: dict[str, str] = {}
        self.platform = ""
        self.changed: dict[str, float] = {}
        # Token -> (jti, issued at).
        self.tokens: dict[bytes, tuple[str, float]] = {}
        self.revoked: set[str] = set()
        self.issue()

    # --- changes ---------------------------------------------------------------------------------------------------

    @rule()
    def issue(self) -> None:
        """Somebody logs in."""
        jti, now = f"jti-{next(NUMBERS)}", time.time()
        entry = {"id": self.tenants[1], "role": "baker", "tier": "starter"}
        token = access_token(jti=jti, iat=now, tenant_id=self.tenants[0], tenant_access=[entry])
        self.tokens[token] = jti, now

    @rule(which=st.integers(0, 15))
    def revoke(self, which: int) -> None:
        jti, _ = list(self.tokens.values())[which % len(self.tokens)]
        self.revoked.add(jti)
        self.cli.set(f"token:revoked:{jti}", "1")
        self.settle()

    @rule(
        which=st.integers(0, 1),
        reason=st.sampled_from(["books", "moving \U0001f35e", '"']),
        internal=st.booleans(),
    )
    def lock(self, which: int, reason: str, internal: bool) -> None:
        tenant = self.tenants[which]
        self.locked[tenant] = reason
        if internal:
            body = msgspec.json.encode({"reason": reason})
            path = f"/internal/v1/tenants/{tenant}/read-only"
            assert self.gateway.ask("PUT", path, self.service, body).status == 200
        else:
            self.cli.set(f"tenant:{tenant}:read_only", reason)
        self.settle()

    @rule(which=st.integers(0, 1), internal=st.booleans())
    def unlock(self, which: int, internal: bool) -> None:
        tenant = self.tenants[which]
        self.locked.pop(tenant, None)
        if internal:
            path = f"/internal/v1/tenants/{tenant}/read-only"
            assert self.gateway.ask("DELETE", path, self.service).status == 204
        else:
            self.cli.delete(f"tenant:{tenant}:read_only")
        self.settle()

    @rule(internal=st.booleans())
    @precondition(lambda self: not self.platform)
    def lock_platform(self, internal: bool) -> None:
        self.platform = "maintenance"
        if internal:
            body = b'{"reason": "maintenance"}'
            assert (
                self.gateway.ask("PUT", "/internal/v1/platform/read-only", self.service, body).status == 200
            )
        else:
            self.cli.set("platform:read_only", self.platform)
        self.settle()

    @rule(internal=st.booleans())
    @precondition(lambda self: bool(self.platform))
    def unlock_platform(self, internal: bool) -> None:
        self.platform = ""
        if internal:
            assert self.gateway.ask("DELETE", "/internal/v1/platform/read-only", self.service).status == 204
        else:
            self.cli.delete("platform:read_only")
        self.settle()

    @rule(which=st.integers(0, 1), how=st.sampled_from(["internal", "seconds", "iso"]))
    def change_subscription(self, which: int, how: str) -> None:
        tenant = self.tenants[which]
        if how == "internal":
            path = f"/internal/v1/tenants/{tenant}/subscription-changed"
            answer = self.gateway.ask("POST", path, self.service)
            assert answer.status == 200
            moment = answer.document["subscription_changed_at"]
            assert time.time() - 5 < moment <= time.time()
        else:
            now = datetime.now(UTC)
            moment = now.timestamp()
            value = now.isoformat() if how == "iso" else repr(moment)
            self.cli.set(f"tenant:{tenant}:subscription_changed_at", value)
        self.changed[tenant] = moment
        self.settle()

    def settle(self) -> None:
        Fence(self.gateway, self.cli).wait()

    # --- what must hold after each ---------------------------------------------------------------------------------

    def expected(self, token: bytes, tenant: str, method: str) -> str:
        jti, issued = self.tokens[token]
        if jti in self.revoked:
            return "token-revoked"
        speaks_of = {self.tenants[0], tenant}
        if any(issued < self.changed.get(each, 0.0) for each in speaks_of):
            return "token-stale"
        if method == "POST" and self.platform:
            return "platform-read-only"
        if method == "POST" and tenant in self.locked:
            return "tenant-read-only"
        return ""

    @invariant()
    def every_request_is_judged_as_the_model_says(self) -> None:
        for token in list(self.tokens)[-4:]:
            for tenant in self.tenants:
                for method in ("GET", "POST"):
                    answer = self.gateway.ask(method, f"/api/v1/tenants/{tenant}/sales/x", token)
                    wanted = self.expected(token, tenant, method)
                    assert answer.code == wanted, f"{method} {tenant}: {answer.code}, not {wanted}"
                    if wanted == "tenant-read-only":
                        assert self.locked[tenant] in answer.document["detail"]

    def teardown(self) -> None:
        self.cli.delete("platform:read_only")
        self.settle()


def test_random_changes_and_requests(gateway: Client, redis_cli: redis.Redis) -> None:
    class Bound(Policies):
        pass

    Bound.gateway = gateway
    Bound.cli = redis_cli
    run_state_machine_as_test(
        Bound,
        settings=settings(
            max_examples=20, stateful_step_count=15, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
