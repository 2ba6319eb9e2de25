"""A granian that does not take the callback lane: each worker says so once, and serves by granian's own scheduler."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kernel.server.embedded_store import EmbeddedStore
from kernel.server.granian import CHECKED, version
from tests.support.gateway import start_gateway
from tests.support.poll import poll
from tests.support.raw import ask, request
from tests.support.recorder import Recorder
from tests.support.stack import stack_env
from tests.support.tokens import access_token

# What runs in the parent before the gateway is imported: granian as another version might be.
ELSEWHERE = """
import types, granian.server.mp as mp
spawn = types.FunctionType(mp.MPServer._spawn_asgi_lifespan_worker.__wrapped__.__code__, dict(vars(mp)))
mp.MPServer._spawn_asgi_lifespan_worker = staticmethod(mp.WorkerProcess.wrap_target(spawn))
"""
GONE = f"{ELSEWHERE}del mp._new_cbscheduler\n"
FIXED = """
import granian._granian as native
class Fixed(native.CallbackScheduler):
    __slots__ = ()
    def __setattr__(self, name, value):
        raise AttributeError(name + " is fixed")
native.CallbackScheduler = Fixed
"""
LINE = "granian does not take the callback lane: requests are slower, and served all the same"


def said(log: str) -> list[str]:
    lines = (json.loads(line) for line in log.splitlines() if line.startswith("{") and LINE in line)
    return [f"{line['level']} {line['granian']} {line['checked']} {line['reason']}" for line in lines]


@pytest.mark.parametrize(
    ("first", "reason"),
    [
        (GONE, "there is no granian.server.mp._new_cbscheduler"),
        (ELSEWHERE, "granian.server.mp._new_cbscheduler is not called"),
        (FIXED, "_schedule_fn is fixed"),
    ],
    ids=["gone", "elsewhere", "fixed"],
)
def test_without_its_hooks_it_says_so_and_serves(
    first: str, reason: str, tmp_path: Path, upstream: Recorder, session_store: EmbeddedStore
) -> None:
    gateway = start_gateway(stack_env(upstream, session_store), tmp_path, first=first)
    asked = request(
        target=b"/api/v1/inventory/items", headers=[(b"authorization", b"Bearer " + access_token())]
    )
    try:
        assert [ask(gateway.port, asked).status for _ in range(3)] == [200] * 3
        poll(lambda: said(gateway.log()) != [])
    finally:
        assert gateway.stop() == 0
    checked = f"from {CHECKED[0]}, below {CHECKED[1]}"
    assert said(gateway.log()) == [f"warning {version()} {checked} {reason}"]


def test_with_its_hooks_it_says_nothing(
    tmp_path: Path, upstream: Recorder, session_store: EmbeddedStore
) -> None:
    gateway = start_gateway(stack_env(upstream, session_store), tmp_path)
    assert gateway.stop() == 0
    assert LINE not in gateway.log()
