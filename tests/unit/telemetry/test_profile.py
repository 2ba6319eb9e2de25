from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kernel.http.problems import TOKEN_MISSING, Problem
from kernel.server.embedded_store import EmbeddedStore
from kernel.telemetry.profile import Profile
from tests.support.inprocess import Local, local_gateway
from tests.support.tokens import access_token


async def test_steps_of_every_kind_are_timed_and_answer_as_before() -> None:
    profile = Profile()
    problem = TOKEN_MISSING()

    async def waits(x: Any) -> Problem | None:
        return problem if x else None

    async def fails(x: Any) -> None:
        raise KeyError(x)

    assert profile.timed("plain", lambda x: None)(1) is None
    assert profile.timed("refusing", lambda x: problem)(1) is problem
    assert await profile.timed("waiting", waits)(1) is problem
    assert await profile.timed("waiting", waits)(0) is None
    with pytest.raises(KeyError):
        await profile.timed("failing", fails)(1)
    counts = {name: times for name, (_, times) in profile.families()["gateway_stage_seconds"].items()}
    assert counts == {"plain": 1, "refusing": 1, "waiting": 2, "failing": 1}


class Lane:
    """What hears of the end of an exchange that no task waits for."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def over(self, x: Any) -> None:
        self.heard.append("over")

    def go_on(self, x: Any, rest: Any) -> None:
        self.heard.append("go on")
        rest.close()


async def test_a_handler_on_the_lane_is_timed_until_its_answer_is_out() -> None:
    profile = Profile()
    lane = Lane()
    x = SimpleNamespace(lane=lane)
    assert profile.timed_handler("proxy", lambda x: None)(x) is None
    times = profile.families()["gateway_stage_seconds"]["proxy"]
    assert times == [0.0, 0.0]
    x.lane.over(x)
    assert lane.heard == ["over"]
    seconds, count = profile.families()["gateway_stage_seconds"]["proxy"]
    assert count == 1
    assert seconds > 0


async def test_a_handler_that_leaves_the_lane_is_timed_as_a_task() -> None:
    profile = Profile()
    ran: list[int] = []

    async def rest() -> None:
        ran.append(1)

    class Runs(Lane):
        def go_on(self, x: Any, rest: Any) -> None:
            self.task = asyncio.ensure_future(rest)

    lane = Runs()
    x = SimpleNamespace(lane=lane)
    profile.timed_handler("proxy", lambda x: None)(x)
    x.lane.go_on(x, rest())
    await lane.task
    assert ran == [1]
    assert profile.families()["gateway_stage_seconds"]["proxy"][1] == 1


def test_collections_are_timed_until_it_stops() -> None:
    profile = Profile()
    profile.start()
    gc.collect()
    profile.stop()
    before = profile.families()["gateway_gc_pause_seconds"]["2"]
    assert before[0] > 0
    assert before[1] == 1
    gc.collect()
    assert profile.families()["gateway_gc_pause_seconds"]["2"] == before
    profile.stop()


@pytest.fixture(params=["true", "false"])
async def local(
    request: pytest.FixtureRequest, store_server: EmbeddedStore, tmp_path: Path
) -> AsyncIterator[tuple[Local, bool]]:
    async with local_gateway(store_server.url, tmp_path, GATEWAY_PROFILE=request.param) as gateway:
        yield gateway, request.param == "true"
        if gateway.state.profile is not None:
            gateway.state.profile.stop()


async def test_a_gateway_is_profiled_only_when_it_is_told(local: tuple[Local, bool]) -> None:
    gateway, profiled = local
    assert (await gateway.ask("GET", "/api/v1/inventory/items", access_token())).status == 502
    found = gateway.state.metrics.snapshot()
    if profiled:
        stages = found["gateway_stage_seconds"]
        assert {("cors",), ("limit",), ("authenticate",), ("tenancy",), ("handler proxy",)} <= set(stages)
        assert stages["authenticate",][1] == 1  # type: ignore[index]
    else:
        assert "gateway_stage_seconds" not in found
        route, _ = gateway.gateway.router.match("GET", b"/api/v1/inventory/items")
        assert {stage.__module__.rpartition(".")[0] for stage in route.stages} == {"kernel.stages"}
        assert not [each for each in gc.callbacks if "Profile" in repr(each)]
