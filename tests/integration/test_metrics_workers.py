"""Several real processes, one `/metrics`: sums are exact, and no counter ever goes backwards."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from kernel.telemetry.bus import Bus
from kernel.telemetry.metrics import Metrics
from kernel.telemetry.scrape import Scraper
from kernel.telemetry.snapshots import SnapshotFiles, Stored, encode

WORKER = """
import asyncio, sys
from pathlib import Path
from kernel.telemetry.bus import Bus
from kernel.telemetry.metrics import Metrics
from kernel.telemetry.scrape import Scraper

async def main():
    run_dir = Path(sys.argv[1])
    metrics = Metrics()
    scraper = Scraper(metrics, Bus(run_dir), run_dir)
    await scraper.start()
    loop = asyncio.get_running_loop()
    print("ready", flush=True)
    while (line := await loop.run_in_executor(None, sys.stdin.readline)).strip() != "stop":
        for _ in range(int(line)):
            metrics.route("/a").observe("GET", 200, 0.01, 1, 1)
        print("done", flush=True)
    await scraper.stop()

asyncio.run(main())
"""


class Worker:
    """A worker process that counts on command."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.pid = process.pid

    async def say(self, line: str) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(line.encode() + b"\n")
        assert await self.process.stdout.readline() == b"done\n"

    async def stop(self) -> None:
        await self.process.communicate(b"stop\n")

    async def kill(self) -> None:
        self.process.kill()
        await self.process.wait()

    async def end(self) -> None:
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGCONT)
            await self.kill()


Spawn = Callable[[], Awaitable[Worker]]


@pytest.fixture
async def spawn(tmp_path: Path) -> AsyncIterator[Spawn]:
    async with AsyncExitStack() as stack:

        async def start() -> Worker:
            pipe = asyncio.subprocess.PIPE
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", WORKER, str(tmp_path), stdin=pipe, stdout=pipe
            )
            worker = Worker(process)
            stack.push_async_callback(worker.end)
            assert process.stdout is not None
            assert await process.stdout.readline() == b"ready\n"
            return worker

        yield start


@pytest.fixture
async def scraper(tmp_path: Path) -> AsyncIterator[Scraper]:
    made = Scraper(Metrics(), Bus(tmp_path), tmp_path)
    await made.start()
    yield made
    await made.stop()


async def read(scraper: Scraper, name: str = "gateway_requests_total") -> float:
    _, body = await scraper.expose("")
    families = text_string_to_metric_families(body.decode())
    return sum(sample.value for family in families for sample in family.samples if sample.name == name)


async def test_a_scrape_right_after_requests_counts_those_of_every_worker(
    scraper: Scraper, spawn: Spawn
) -> None:
    workers = await asyncio.gather(spawn(), spawn(), spawn())
    for number, worker in enumerate(workers, start=1):
        await worker.say(str(number))
    assert await read(scraper) == 6
    assert await read(scraper, "gateway_request_duration_seconds_count") == 6
    assert await read(scraper, "gateway_workers") == 4


async def test_a_killed_worker_takes_nothing_with_it_that_a_scrape_has_shown(
    scraper: Scraper, spawn: Spawn
) -> None:
    worker, other = await asyncio.gather(spawn(), spawn())
    await worker.say("5")
    await other.say("7")
    assert await read(scraper) == 12
    await worker.kill()
    assert await read(scraper) == 12
    assert await read(scraper, "gateway_workers") == 2
    replacement = await spawn()
    await replacement.say("1")
    assert await read(scraper) == 13


async def test_a_killed_worker_loses_at_most_its_last_second(
    scraper: Scraper, spawn: Spawn, tmp_path: Path
) -> None:
    worker = await spawn()
    await worker.say("5")
    file = tmp_path / f"worker-{worker.pid}.metrics"
    while b"gateway_requests_total" not in (before := file.read_bytes()) or b"\xa2/a" not in before:
        await asyncio.sleep(0.02)
    await worker.kill()
    assert await read(scraper) == 5


async def test_a_worker_that_stops_leaves_its_last_count(
    scraper: Scraper, spawn: Spawn, tmp_path: Path
) -> None:
    worker = await spawn()
    await worker.say("5")
    await worker.stop()
    assert not (tmp_path / f"worker-{worker.pid}.sock").exists()
    assert await read(scraper) == 5


async def test_a_hung_worker_is_read_from_its_file_and_counted_once_when_it_wakes(
    scraper: Scraper, spawn: Spawn
) -> None:
    worker = await spawn()
    await worker.say("5")
    assert await read(scraper) == 5
    os.kill(worker.pid, signal.SIGSTOP)
    assert await read(scraper) == 5
    assert await read(scraper, "gateway_workers") == 2
    os.kill(worker.pid, signal.SIGCONT)
    await worker.say("1")
    assert await read(scraper) == 6


async def test_the_directory_stays_bounded_while_workers_come_and_go(
    scraper: Scraper, spawn: Spawn, tmp_path: Path
) -> None:
    for round_ in range(1, 4):
        workers = await asyncio.gather(spawn(), spawn())
        for worker in workers:
            await worker.say("1")
        assert await read(scraper) == 2 * round_
        await workers[0].kill()
        await workers[1].stop()
        assert await read(scraper) == 2 * round_
        own = os.getpid()
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
            [f"worker-{own}.sock", f"worker-{own}.metrics", "metrics.lock", "retired.metrics"]
        )


async def test_a_worker_with_a_dead_ones_pid_does_not_erase_its_count(
    scraper: Scraper, tmp_path: Path
) -> None:
    for expected in (1, 2):
        metrics = Metrics()
        again = Scraper(metrics, Bus(tmp_path, pid=77), tmp_path)
        await again.start()
        metrics.route("/a").observe("GET", 200, 0.01, 1, 1)
        assert await read(scraper) == expected
        await again.stop()
    assert await read(scraper) == 2


async def test_a_crash_while_retiring_a_worker_counts_it_once(scraper: Scraper, tmp_path: Path) -> None:
    metrics = Metrics()
    gone = Scraper(metrics, Bus(tmp_path, pid=77), tmp_path)
    await gone.start()
    metrics.route("/a").observe("GET", 200, 0.01, 1, 1)
    await gone.stop()
    file = tmp_path / "worker-77.metrics"
    left = file.read_bytes()
    assert await read(scraper) == 1
    assert not file.exists()
    # As if the worker that retired it had died before removing the file.
    file.write_bytes(left)
    assert await read(scraper) == 1
    assert not file.exists()


def test_a_worker_that_answered_and_was_retired_before_the_sum_counts_once(tmp_path: Path) -> None:
    metrics = Metrics()
    metrics.route("/a").observe("GET", 200, 0.01, 1, 1)
    answered = Stored("77-1", metrics.snapshot())
    files = SnapshotFiles(tmp_path)
    files.write(77, encode(answered))
    with files.locked():
        files.retire([77])
    total = files.total(Stored("1-1", Metrics().snapshot()), [answered], [])
    assert total["gateway_requests_total"] == {("GET", "/a", "200"): 1}


async def test_an_unreadable_snapshot_is_left_out(scraper: Scraper, tmp_path: Path) -> None:
    (tmp_path / "worker-77.metrics").write_bytes(b"half a snap")
    (tmp_path / "retired.metrics").write_bytes(b"")
    assert await read(scraper) == 0
    assert await read(scraper, "gateway_workers") == 1


async def test_a_lock_that_nobody_gives_back_only_postpones_tidying(
    scraper: Scraper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kernel.telemetry.snapshots.LOCK_SECONDS", 0.02)
    other = SnapshotFiles(tmp_path)
    with other.locked() as held:
        assert held
        assert await read(scraper, "gateway_workers") == 1


async def test_scrapes_from_several_workers_at_once_agree(tmp_path: Path) -> None:
    scrapers = []
    for pid in range(1, 5):
        metrics = Metrics()
        metrics.route("/a").observe("GET", 200, 0.01, 1, 1)
        scrapers.append(Scraper(metrics, Bus(tmp_path, pid=pid), tmp_path))
        await scrapers[-1].start()
    await scrapers[0].stop()
    assert await asyncio.gather(*(read(one) for one in scrapers[1:] * 4)) == [4.0] * 12
    for one in scrapers[1:]:
        await one.stop()


async def test_a_worker_alone_answers_for_itself() -> None:
    metrics = Metrics()
    metrics.route("/a").observe("GET", 200, 0.01, 1, 1)
    alone = Scraper(metrics)
    await alone.start()
    assert await read(alone) == 1
    await alone.stop()
