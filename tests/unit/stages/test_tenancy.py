"""The tenancy stage's own memory: what it keeps with an identity, and when it looks again."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from kernel.config import Settings
from kernel.http.problems import Problem
from kernel.identity.claims import Access, Claims
from kernel.identity.identity import Identity, access_identity
from kernel.routing.catalog import RouteRow
from kernel.stages import tenancy
from kernel.telemetry.metrics import Metrics
from tests.support.exchanges import exchange

ROW = RouteRow(pattern="/api/v1/tenants/{tenant_id}/sales/**", service="sales")


class Marks(dict[str, str]):
    """Demo marks, as the tracked map gives them."""

    generation = 0

    def peek(self, keys: tuple[str, ...]) -> list[str | None]:
        return [self.get(key) for key in keys]

    held = peek

    async def fetch(self, keys: tuple[str, ...]) -> list[str | None]:
        return self.peek(keys)

    def __setitem__(self, key: str, value: str) -> None:
        super().__setitem__(key, value)
        self.generation += 1


class Bench:
    """The stage with a hierarchy and demo marks that a test sets."""

    def __init__(self) -> None:
        self.parent: str | None = "region"
        self.marks = Marks()
        self.asked = 0
        state: Any = SimpleNamespace(
            tracked=self.marks,
            tenants=SimpleNamespace(parent=self.above),
            metrics=Metrics(),
            settings=Settings(),
        )
        stage = tenancy.make(state, ROW)
        assert stage is not None
        self.stage = stage

    def above(self, tenant: str, wanted: frozenset[str]) -> str | None:
        self.asked += 1
        return self.parent if self.parent in wanted else None

    def ask(self, identity: Identity, tenant: str) -> Any:
        """The exchange after the stage, or the problem's code."""
        x = exchange()
        x.identity, x.params = identity, (tenant.encode(),)
        outcome = self.stage(x)
        return outcome.kind.code if isinstance(outcome, Problem) else x


def overseer() -> Identity:
    entries = [
        Access(id="region", role="manager", can_view_children=True),
        Access(id="group", role="owner", can_view_children=True),
        *(Access(id=f"listed-{number}", role="baker") for number in range(100)),
    ]
    return access_identity(Claims(exp=2, iat=1, iss="i", tenant_id="own", tenant_access=entries), "u", "key")


def test_a_pair_of_token_and_tenant_is_decided_once() -> None:
    bench, identity = Bench(), overseer()
    first = bench.ask(identity, "listed-1")
    assert bench.ask(identity, "listed-1").grant is first.grant
    assert first.context is first.grant.block
    assert bench.asked == 0


def test_a_tenant_below_another_is_looked_up_each_time_and_follows_its_family() -> None:
    bench, identity = Bench(), overseer()
    first = bench.ask(identity, "outlet")
    assert (first.grant.parent, first.grant.role) == ("region", "manager")
    assert bench.ask(identity, "outlet").grant is first.grant
    bench.parent = "group"
    moved = bench.ask(identity, "outlet")
    assert (moved.grant.parent, moved.grant.role) == ("group", "owner")
    bench.parent = None
    assert bench.ask(identity, "outlet") == "tenant-forbidden"
    assert bench.asked == 4


def test_a_tenant_with_the_name_of_a_memo_is_a_tenant() -> None:
    bench, identity = Bench(), overseer()
    for name in ("overseen", "confined"):
        assert bench.ask(identity, name).grant.parent == "region"


def test_what_is_kept_with_an_identity_is_bounded() -> None:
    bench, identity = Bench(), overseer()
    for number in range(100):
        assert bench.ask(identity, f"listed-{number}").tenant == f"listed-{number}"
        assert bench.ask(identity, f"outlet-{number}").tenant == f"outlet-{number}"
    assert len(identity.contexts) <= 64
    assert len(identity.below) <= 64


def test_a_mark_set_later_keeps_a_known_pair_out() -> None:
    bench, identity = Bench(), overseer()
    assert bench.ask(identity, "own").tenant == "own"
    bench.marks["tenant:own:demo"] = "demo_1"
    assert bench.ask(identity, "own") == "demo-forbidden"
