"""The whole gateway on a store's worst days: users never seen before, each of whom needs the store for everything."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.auth_service import counter
from tests.support.gateway import GatewayFactory, GatewayProcess, workers
from tests.support.poll import poll
from tests.support.recorder import Recorder
from tests.support.stack import Stack, stack_env
from tests.support.store import RawServer
from tests.support.tokens import access_token

pytestmark = pytest.mark.slow

# A request's wait for the store is bounded by 0.1 s; the rest is for a machine whose processors others use. Before there was
# such a bound these requests waited for 5 to 31 s, or for ever.
BOUND = 1.0
BACK = 4.0
CONNECTED = "gateway_redis_connected"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RawServer]:
    server = RawServer(tmp_path / "store", "")
    try:
        yield server
    finally:
        server.signal(signal.SIGCONT)
        server.kill()


def stack_on(factory: GatewayFactory, upstream: Recorder, server: RawServer, **more: str) -> Stack:
    return Stack(factory(stack_env(upstream, server, WORKERS="1", **more)), upstream)


def crowd(stack: Stack, name: str, seconds: float, rate: float = 30) -> dict[int, int]:
    """How many requests of strangers, at a steady pace, got which status; each in time."""
    tokens = [access_token(user_id=f"{name}-{n}", jti=f"{name}-{n}") for n in range(int(rate * seconds))]
    began = time.monotonic()

    def one(number: int) -> tuple[int, float]:
        time.sleep(max(0.0, began + number / rate - time.monotonic()))
        asked = time.monotonic()
        status = stack.ask(token=tokens[number]).status
        return status, time.monotonic() - asked

    with ThreadPoolExecutor(40) as pool:
        answers = list(pool.map(one, range(len(tokens))))
    assert max(waited for _, waited in answers) < BOUND
    statuses = [status for status, _ in answers]
    return {status: statuses.count(status) for status in set(statuses)}


def told(gateway: GatewayProcess, event: str) -> list[dict[str, str]]:
    """The log lines of an event."""
    lines = [line for line in gateway.log().splitlines() if f'"{event}' in line]
    return [json.loads(line) for line in lines]


def processor_seconds(gateway: GatewayProcess) -> float:
    """What its one worker has used."""
    (pid,) = workers(gateway)
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def test_a_demoted_store_is_said_once_and_costs_nobody_anything(
    gateway_factory: GatewayFactory, upstream: Recorder, server: RawServer
) -> None:
    stack = stack_on(gateway_factory, upstream, server)
    assert set(crowd(stack, "before", 0.5)) == {200}
    server.call("REPLICAOF", "127.0.0.1", 1)
    used = processor_seconds(stack.gateway)
    assert set(crowd(stack, "meanwhile", 4)) == {200}
    # It was 8 s of processor time in 11 s, for reconnecting.
    assert processor_seconds(stack.gateway) - used < 2
    assert counter(stack.port, CONNECTED) == 0
    (line,) = poll(lambda: told(stack.gateway, "store lost"))
    assert line["reason"].startswith("read-only")
    server.call("REPLICAOF", "NO", "ONE")
    poll(lambda: counter(stack.port, CONNECTED) == 1, BACK)
    assert set(crowd(stack, "after", 0.5)) == {200}
    poll(lambda: told(stack.gateway, "store back"))
    assert len(told(stack.gateway, "store lost")) == 1


def test_a_hanging_store_is_refused_for_in_time_where_closed(
    gateway_factory: GatewayFactory, upstream: Recorder, server: RawServer
) -> None:
    stack = stack_on(gateway_factory, upstream, server, RATE_LIMIT_FAIL_MODE="closed")
    assert set(crowd(stack, "before", 0.5)) == {200}
    server.signal(signal.SIGSTOP)
    assert set(crowd(stack, "meanwhile", 3)) == {503}
    server.signal(signal.SIGCONT)
    poll(lambda: counter(stack.port, CONNECTED) == 1, BACK)
    poll(lambda: set(crowd(stack, f"after-{time.monotonic()}", 0.3)) == {200}, BACK)


def test_a_cluster_may_be_out_of_reach_at_start(
    gateway_factory: GatewayFactory, upstream: Recorder, tmp_path: Path
) -> None:
    node = RawServer(tmp_path / "node", "cluster-enabled yes")
    try:
        node.call("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        node.kill()
        stack = stack_on(gateway_factory, upstream, node, REDIS_URL=f"redis+cluster://127.0.0.1:{node.port}")
        assert set(crowd(stack, "before", 1)) == {200}
        assert counter(stack.port, CONNECTED) == 0
        node.start()
        poll(lambda: "cluster_state:ok" in node.call("CLUSTER", "INFO"))
        poll(lambda: counter(stack.port, CONNECTED) == 1, BACK)
        assert set(crowd(stack, "after", 0.5)) == {200}
    finally:
        node.kill()
