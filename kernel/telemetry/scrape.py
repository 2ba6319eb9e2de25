"""`/metrics` of one gateway, whichever of its workers is asked: every worker's numbers, added up and exact."""

from __future__ import annotations

import asyncio
import contextlib
import time
from pathlib import Path

from kernel.telemetry.bus import Bus, NoAnswer
from kernel.telemetry.families import FAMILIES, GAUGE, Snapshot
from kernel.telemetry.metrics import Metrics
from kernel.telemetry.snapshots import SnapshotFiles, Stored, decode, encode

WRITE_SECONDS = 1.0
VERB = "metrics"


class Scraper:
    """Answers scrapes, and its siblings' questions. Without a bus the worker is alone.

    Args:
        metrics: this worker's numbers.
        bus: its place among its siblings; `start` binds and serves it.
        run_dir: the bus's directory.
    """

    def __init__(self, metrics: Metrics, bus: Bus | None = None, run_dir: Path | None = None) -> None:
        self._metrics = metrics
        self._bus = bus
        self._files = SnapshotFiles(run_dir) if run_dir is not None else None
        self._name = f"{bus.pid if bus else 0}-{time.time_ns()}"
        self._written: Snapshot = {}
        self._timer: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        """Join the siblings."""
        if self._bus is None or self._files is None:
            return
        bus, files = self._bus, self._files
        bus.on(VERB, lambda _: self._told()[1])
        # A predecessor with this very pid is gone: its count must be kept before its files are taken over.
        with files.locked() as held:
            if held:
                files.retire([bus.pid])
            bus.bind()
        self._told()
        await bus.start()
        self._timer = asyncio.get_running_loop().call_later(WRITE_SECONDS, self._tick)

    async def stop(self) -> None:
        """Leave the last snapshot behind and the siblings. Nothing may be counted afterwards."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._bus is not None:
            self._told()
            await self._bus.stop()

    async def total(self) -> Snapshot:
        """All workers' numbers."""
        own, _ = self._told()
        if self._bus is None or self._files is None:
            return own.snapshot
        answers = await self._bus.ask(VERB)
        hung = [pid for pid, answer in answers.items() if answer is NoAnswer.HUNG]
        read = [decode(answer) for answer in answers.values() if isinstance(answer, bytes)]
        return await asyncio.to_thread(self._files.total, own, [one for one in read if one], hung)

    async def expose(self, accept: str) -> tuple[str, bytes]:
        """Content type and body of a scrape with this Accept header.

        PERF: 80 routes take 10 ms to render; in a thread that holds the loop up for no longer than a switch of threads.
        """
        snapshot = await self.total()
        return await asyncio.to_thread(_expose, snapshot, accept)

    def _told(self, snapshot: Snapshot | None = None) -> tuple[Stored, bytes]:
        """This worker's snapshot, on disk before anyone hears of it."""
        stored = Stored(self._name, snapshot or self._metrics.snapshot())
        data = encode(stored)
        if self._bus is not None and self._files is not None:
            # A full disk must not stop scrapes: what cannot be kept is lost with the worker, and only then.
            with contextlib.suppress(OSError):
                self._files.write(self._bus.pid, data)
                self._written = _counted(stored.snapshot)
        return stored, data

    def _tick(self) -> None:
        snapshot = self._metrics.counted()
        if _counted(snapshot) != self._written:
            self._told(snapshot)
        self._timer = asyncio.get_running_loop().call_later(WRITE_SECONDS, self._tick)


def _counted(snapshot: Snapshot) -> Snapshot:
    """What would be lost with the worker. Processor time passes by itself: alone it is no reason to write."""
    return {
        name: samples
        for name, samples in snapshot.items()
        if FAMILIES[name].kind != GAUGE and name != "process_cpu_seconds_total"
    }


def _expose(snapshot: Snapshot, accept: str) -> tuple[str, bytes]:
    from kernel.telemetry.exposition import expose  # noqa: PLC0415  # heavy: see there

    return expose(snapshot, accept)
