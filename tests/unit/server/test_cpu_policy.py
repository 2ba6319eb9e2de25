from __future__ import annotations

import asyncio
import os
import sys
import threading
from pathlib import Path

import pytest

from kernel.server.cpu_policy import CpuPolicy


class Load:
    """CPU seconds as the test says; notes what is applied."""

    def __init__(self, allowed: bool = True) -> None:
        self.used = 0.0
        self.applied: list[bool] = []
        self.allowed = allowed

    def cpu(self) -> float:
        return self.used

    def apply(self, busy: bool) -> bool:
        self.applied.append(busy)
        return self.allowed


async def test_the_policy_follows_the_load_without_flapping() -> None:
    load = Load()
    loop = asyncio.get_running_loop()
    pacer = CpuPolicy(loop, load.apply, load.cpu)
    now = loop.time()
    for share in (0.1, 0.6, 0.9, 0.6, 0.5, 0.95, 0.3, 0.5, 0.69, 0.1):
        now += 1
        load.used += share
        pacer.judge(now)
    assert load.applied == [True, False]


async def test_where_it_is_forbidden_it_is_left_alone() -> None:
    load = Load(allowed=False)
    loop = asyncio.get_running_loop()
    pacer = CpuPolicy(loop, load.apply, load.cpu)
    pacer.start()
    load.used = 10.0
    pacer.judge(loop.time() + 1)
    assert load.applied == [True]
    assert pacer._timer is None


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux has the policy")
async def test_every_thread_gets_the_policy_and_loses_it() -> None:
    loop = asyncio.get_running_loop()
    load = Load()
    pacer = CpuPolicy(loop, cpu=load.cpu)
    stop = threading.Event()
    other = threading.Thread(target=stop.wait)
    other.start()
    try:
        for used, policy in ((10.0, os.SCHED_BATCH), (10.0, os.SCHED_OTHER)):
            load.used = used
            pacer.judge(loop.time() + 1)
            threads = [int(thread.name) for thread in Path("/proc/self/task").iterdir()]
            assert other.native_id in threads
            assert {os.sched_getscheduler(thread) for thread in threads} == {policy}
    finally:
        stop.set()
        other.join()
