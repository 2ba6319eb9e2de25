"""The machine a benchmark runs on: which core does what, what else was busy, and how to describe it."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

TICK = os.sysconf("SC_CLK_TCK")


class Cores(NamedTuple):
    """The two cores of a run: `peer` runs only what is measured, `load` everything around it."""

    peer: int
    load: int

    @property
    def shared(self) -> bool:
        """True on a one-core machine, where figures say little: the load generator competes with the peer."""
        return self.peer == self.load


def cores() -> Cores:
    """The last core of this process's affinity for the peer, the first for the load."""
    allowed = sorted(os.sched_getaffinity(0))
    return Cores(peer=allowed[-1], load=allowed[0])


def busy_seconds(core: int) -> float:
    """CPU seconds that `core` was not idle since boot (/proc/stat); steal counts: it is time nobody here got."""
    for line in Path("/proc/stat").read_text().splitlines():
        if line.startswith(f"cpu{core} "):
            user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, line.split()[1:9])
            return (user + nice + system + irq + softirq + steal) / TICK
    raise LookupError(f"no core {core} in /proc/stat")


def session(leader: int) -> list[Path]:
    """The /proc directories of the live processes of a session: a peer and all its workers."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            # The command name may hold spaces and brackets: only what follows the last ')' is split.
            if int((entry / "stat").read_text().rpartition(")")[2].split()[3]) == leader:
                found.append(entry)
        except OSError:
            continue  # it ended between the listing and the reading
    return found


def session_seconds(leader: int) -> float:
    """CPU seconds of every live process of a session, to the nanosecond (schedstat)."""
    total = 0
    for entry in session(leader):
        with suppress(OSError):
            total += sum(int(task.read_text().split()[0]) for task in entry.glob("task/*/schedstat"))
    return total / 1e9


def private_bytes(processes: Iterable[Path]) -> int:
    """Resident bytes of `processes` (/proc directories) that are theirs alone: what more work makes grow."""
    total = 0
    for entry in processes:
        with suppress(OSError):
            rollup = (entry / "smaps_rollup").read_text()
            total += sum(int(size) for size in re.findall(r"^Private_\w+:\s+(\d+) kB", rollup, re.MULTILINE))
    return total * 1024


def resident_bytes(entry: Path) -> int:
    """Resident bytes of one process, what it shares with others included."""
    return int((entry / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def describe(used: Cores) -> dict[str, object]:
    """Host facts for the report: CPU model, cores, memory, kernel, Python, load before the run."""
    model = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    memory = next(
        int(line.split()[1])
        for line in Path("/proc/meminfo").read_text().splitlines()
        if line.startswith("MemTotal")
    )
    virtual = " hypervisor " in Path("/proc/cpuinfo").read_text().replace("\n", " \n")
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "virtual": virtual,
        "memory_gib": round(memory / 1048576, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "peer_core": used.peer,
        "load_core": used.load,
        "load_average": round(os.getloadavg()[0], 2),
    }
