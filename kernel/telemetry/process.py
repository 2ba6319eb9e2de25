"""The standard process metrics of this worker, read from /proc; without /proc only the portable ones."""

from __future__ import annotations

import os
import resource
import time

from kernel.telemetry.families import Snapshot

_PAGE = os.sysconf("SC_PAGE_SIZE")


def process_samples() -> Snapshot:
    """Memory, descriptors and start time as `families` names them."""
    samples: Snapshot = {}
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    samples["process_max_fds"] = {(): soft}
    try:
        with open("/proc/self/statm", "rb") as statm:
            samples["process_resident_memory_bytes"] = {(): int(statm.read().split()[1]) * _PAGE}
        samples["process_open_fds"] = {(): len(os.listdir("/proc/self/fd"))}
        samples["process_start_time_seconds"] = {(): _started()}
    except OSError:
        return samples
    return samples


def _started() -> float:
    with open("/proc/self/stat", "rb") as stat:
        # The command's name, in parentheses, may hold spaces; field 22 is the 20th after it.
        ticks = int(stat.read().rpartition(b")")[2].split()[19])
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    return time.time() - age
