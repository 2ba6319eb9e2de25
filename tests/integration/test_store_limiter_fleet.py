"""The limiter as a fleet of processes on one store: never over the limit, whatever happens to the store."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import pytest
import redis

from kernel.server.embedded_store import EmbeddedStore
from tests.support.poll import poll

REQUESTS = 240
WINDOW = 60.0
SIZE = 4


class WorkerRegistry:
    """Worker processes that all do the same at the same time, and the store between them."""

    def __init__(self, store: EmbeddedStore) -> None:
        self.store = store
        command = [
            sys.executable,
            "-m",
            "tests.support.limiter_worker",
            store.url,
            str(REQUESTS),
            str(WINDOW),
        ]
        pipe = subprocess.PIPE
        self._workers = [subprocess.Popen(command, stdin=pipe, stdout=pipe) for _ in range(SIZE)]

    def all(self, command: str) -> list[dict[str, Any]]:
        """The answers of every worker to `command`."""
        for worker in self._workers:
            assert worker.stdin is not None
            worker.stdin.write(command.encode() + b"\n")
            worker.stdin.flush()
        return [msgspec.json.decode(worker.stdout.readline()) for worker in self._workers if worker.stdout]

    def admitted(self, command: str) -> int:
        """How many requests they admitted together."""
        return sum(answer["admitted"] for answer in self.all(command))

    def total(self, figure: str) -> int:
        """The sum of a figure over the workers."""
        return sum(answer[figure] for answer in self.all("figures"))

    def stop(self) -> list[int]:
        """End them in order; their exit codes."""
        for worker in self._workers:
            worker.communicate(timeout=10)
        return [worker.returncode for worker in self._workers]


@pytest.fixture(scope="module")
def fleet() -> Iterator[WorkerRegistry]:
    with EmbeddedStore() as store:
        fleet = WorkerRegistry(store)
        try:
            poll(lambda: fleet.total("workers") == SIZE * SIZE)
            yield fleet
        finally:
            codes = fleet.stop()
        assert codes == [0] * SIZE


class Ideal:
    """What one bucket would have admitted at most since now."""

    def __init__(self) -> None:
        self._since = time.monotonic()

    def __float__(self) -> float:
        return REQUESTS + (time.monotonic() - self._since) * REQUESTS / WINDOW


def test_processes_under_load_use_the_limit_up_and_never_exceed_it(fleet: WorkerRegistry) -> None:
    ideal = Ideal()
    trips = fleet.total("trips")
    admitted = fleet.admitted("hammer 0.4 first")
    assert admitted <= float(ideal)
    # A lease that a worker no longer needs comes back after a second.
    admitted += fleet.admitted("hammer 1.2 first")
    most = float(ideal)
    assert 0.97 * most <= admitted <= most
    # A refused client does not ask the store each time: thousands were sent.
    assert fleet.total("trips") - trips < 400


def test_an_outage_admits_no_more_than_the_limit_and_a_tenth(fleet: WorkerRegistry) -> None:
    ideal = Ideal()
    half = fleet.admitted("take 25 half-used")
    assert half == 100
    fleet.store.kill()
    half += fleet.admitted("hammer 0.3 half-used")
    fresh = fleet.admitted("hammer 0.3 unseen")
    # A client half-way to its limit, and one that nobody had seen.
    assert 0.75 * REQUESTS <= half <= 1.1 * float(ideal)
    assert 0.9 * REQUESTS <= fresh <= 1.1 * float(ideal)

    # Back, and empty: nobody gets a second helping.
    fleet.store.start()
    poll(lambda: fleet.total("connected") == SIZE)
    for _ in range(3):
        half += fleet.admitted("hammer 0.15 half-used")
        fresh += fleet.admitted("hammer 0.15 unseen")
    assert half <= 1.1 * float(ideal)
    assert fresh <= 1.1 * float(ideal)
    # And they do not stay on their own.
    alone = fleet.total("alone")
    fleet.all("hammer 0.1 unseen")
    assert fleet.total("alone") == alone


def test_a_store_restarted_under_load_never_gives_twice(fleet: WorkerRegistry) -> None:
    ideal = Ideal()
    # The restarts are this thread's: a server dies with the thread that started it.
    with ThreadPoolExecutor(1) as aside:
        load = aside.submit(fleet.admitted, "hammer 1.8 restarted")
        for _ in range(2):
            time.sleep(0.3)
            fleet.store.kill()
            time.sleep(0.1)
            fleet.store.start()
        assert 0.9 * REQUESTS <= load.result() <= 1.1 * float(ideal)


@pytest.mark.parametrize("fault", ["stopped", "read-only"])
def test_a_store_that_is_there_and_no_good_makes_nobody_exceed(fleet: WorkerRegistry, fault: str) -> None:
    def strike() -> None:
        if fault == "stopped":
            assert fleet.store.pid is not None
            os.kill(fleet.store.pid, signal.SIGSTOP)
        else:
            client.execute_command("REPLICAOF", "127.0.0.1", 1)

    def heal() -> None:
        if fault == "stopped":
            assert fleet.store.pid is not None
            os.kill(fleet.store.pid, signal.SIGCONT)
        else:
            client.execute_command("REPLICAOF", "NO", "ONE")

    with redis.Redis.from_url(fleet.store.url) as client:
        poll(lambda: fleet.total("connected") == SIZE)
        ideal = Ideal()
        # Each has seen the client: one that has not adds its own part.
        seen = fleet.admitted(f"take 1 {fault}")
        with ThreadPoolExecutor(1) as aside:
            load = aside.submit(fleet.admitted, f"hammer 2.5 {fault}")
            time.sleep(0.3)
            strike()
            time.sleep(1.0)
            heal()
            assert 0.9 * REQUESTS <= seen + load.result() <= 1.1 * float(ideal)
        poll(lambda: fleet.total("connected") == SIZE)
