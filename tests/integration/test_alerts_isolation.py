"""Whatever streams come and go and whatever breaks: each gets its own tenant's alerts, every one once, in order."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kernel.alerts.service import Alerts
from kernel.server.embedded_store import EmbeddedStore
from tests.support.alerts import Listener, alert_worker
from tests.support.store import until

pytestmark = pytest.mark.slow

# Names that would meet in a careless pattern, prefix or separator.
TENANTS = ("a", "a-b", "A", "a_b", "recorded")
WORKERS = 2

tenants = st.sampled_from(TENANTS)
workers = st.integers(0, WORKERS - 1)
steps = st.one_of(
    st.tuples(st.just("open"), tenants, workers),
    st.tuples(st.just("publish"), tenants, st.integers(1, 12)),
    st.tuples(st.just("move"), st.integers(0, 20), workers),
    st.tuples(st.just("leave"), st.integers(0, 20), st.just(0)),
    st.tuples(st.just("return"), st.integers(0, 20), workers),
    st.tuples(st.just("cut"), st.just(0), st.just(0)),
)


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None
)
@given(schedule=st.lists(steps, min_size=5, max_size=30))
def test_every_stream_gets_its_tenants_alerts_and_no_others(
    store_server: EmbeddedStore, schedule: list[tuple[str, Any, Any]]
) -> None:
    with redis.Redis.from_url(store_server.url) as cli:
        cli.flushall()
        asyncio.run(_play(store_server.url, cli, schedule))


async def _play(url: str, cli: redis.Redis, schedule: list[tuple[str, Any, Any]]) -> None:
    published: defaultdict[str, list[str]] = defaultdict(list)
    # How many alerts had been published when it came.
    listeners: list[tuple[Listener, int]] = []

    def publish(tenant: str) -> None:
        # Ids are the same in all tenants.
        name = f"alert-{len(published[tenant])}"
        published[tenant].append(name)
        cli.publish(f"alerts:tenant:{tenant}", json.dumps({"alert_id": name, "of": tenant}))

    async with alert_worker(url) as first, alert_worker(url) as second:
        fleet: list[Alerts] = [first, second]
        for kind, what, number in schedule:
            if kind == "open":
                listener = Listener(what)
                before = len(published[what])
                await listener.open(fleet[number])
                listeners.append((listener, before))
            elif kind == "publish":
                for _ in range(number):
                    publish(what)
            elif kind == "cut":
                # What is published while no worker hears is nobody's: first all of it must be recorded.
                await _recorded(cli, published)
                cli.client_kill_filter(_type="pubsub")
                await until(
                    lambda: (
                        cli.pubsub_numpat() == 1 and cli.pubsub_numsub("gateway:alerts:recorded")[0][1] == 2
                    )
                )
            elif listeners:
                listener, _ = listeners[what % len(listeners)]
                if kind in ("move", "leave") and listener.client is not None:
                    await listener.close()
                if kind in ("move", "return") and listener.client is None:
                    await listener.open(fleet[number])
        for tenant in TENANTS:
            publish(tenant)
        for listener, _ in listeners:
            if listener.client is None:
                await listener.open(fleet[0])
        for listener, before in listeners:
            wanted = published[listener.tenant]
            await until(lambda: listener.alerts[-1:] == wanted[-1:])  # noqa: B023
            assert listener.events == ["alert"] * len(listener.messages)
            assert {json.loads(each.data)["of"] for each in listener.messages} == {listener.tenant}
            seen = listener.alerts
            # One that was published just before it came may have been recorded just after.
            assert len(seen) >= len(wanted) - before
            assert seen == wanted[len(wanted) - len(seen) :]
        for listener, _ in listeners:
            await listener.close()
        assert not len(first._fanout)
        assert not first._fanout._topics


async def _recorded(cli: redis.Redis, published: dict[str, list[str]]) -> None:
    for tenant, names in published.items():
        await until(lambda: cli.xlen(f"gateway:alerts:{{{tenant}}}") == len(names))  # noqa: B023
