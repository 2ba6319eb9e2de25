from __future__ import annotations

from typing import Any, cast
from unittest.mock import MagicMock

import msgspec
import pytest

from kernel.config import Settings
from kernel.exchange.cors import Cors
from kernel.http.addresses import Peers
from kernel.routing.catalog import Limit, RouteRow
from kernel.stages import compile_stages, describe
from kernel.store.limiter import Limiter
from kernel.telemetry.metrics import Metrics

DEV = Settings(cors_origins=("https://app.example.com",))
PROD = msgspec.structs.replace(DEV, environment="prod", tier_limits={"starter": Limit(6, 60.0)})
ODD = (
    RouteRow(pattern="/x", public=True),
    RouteRow(pattern="/x", admin=True, handler="metrics"),
    RouteRow(pattern="/x", always_writable=True, min_tier="enterprise", service="orders"),
    RouteRow(pattern="/x", methods=frozenset({"GET"}), limit=Limit(5, 1.0), service="orders"),
)


@pytest.mark.parametrize("settings", [DEV, PROD], ids=["dev", "prod"])
async def test_what_is_told_of_a_route_is_what_it_runs_through(settings: Settings) -> None:
    state = cast("Any", MagicMock())
    state.settings = settings
    state.trusted = state.admins = Peers(())
    state.cors = Cors(settings.cors_origins, settings.cors_allow_credentials)
    state.metrics = Metrics()
    state.assertions = None
    state.limiter = Limiter(state.store)
    for row in (*settings.routes, *ODD):
        compiled = [name for name, _ in compile_stages(state, row)]
        assert [name for name, _ in describe(settings, row)] == compiled, row


def test_the_figures_of_a_route_are_told() -> None:
    row = RouteRow(
        pattern="/api/v1/tenants/{tenant_id}/x",
        service="orders",
        limit=Limit(7, 3.0),
        min_tier="enterprise",
        max_body=4321,
        critical="delete-tenant",
    )
    told = dict(describe(DEV, row))
    assert "7 requests in 3 s" in told["limit"]
    assert "4321 bytes" in told["edge"]
    assert "enterprise" in told["subscription"]
    assert "the path's tenant" in told["tenancy"]
    assert "delete-tenant" in told["critical"]
