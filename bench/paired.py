"""Two programs compared so that noise cannot tell them apart: both under full load, on one core, at the same moment.

The scheduler changes between them every few milliseconds, so whatever the machine does to one it does to the other: a
neighbour, a busy sibling thread, a slower clock. On a machine whose speed swung by half within seconds the ratio of CPU
time per request still stayed within 4 % in windows of a quarter of a second, its median within 2 %. Memory layout and
hash seeds differ from start to start, so a comparison takes several batches of fresh processes. Compare like with like:
on a shared core the two also share its caches, which costs a Python program more than a C one.

`python -m bench.paired A B` compares two peers by name (`bare gateway`), or the gateways of two working trees
(`git worktree add ../old HEAD~1`, then `../old .`).
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from math import comb
from pathlib import Path
from statistics import median

import uvloop

from bench.closedloop import Load, Upstream
from bench.peers import PEERS, Check, Launch, Peer
from bench.peers.gateway import Gateway
from bench.process import Process, free_port
from bench.rig import PATH, Rig

CONNECTIONS = 32  # to each of the two
WINDOW_SECONDS = 0.25
WINDOWS = 20
Launcher = Callable[[Rig, Path, int], Launch]


@dataclass
class Evidence:
    """Ratios b / a, one a window; above 1 means that b is better."""

    speed: list[float] = field(default_factory=list)  # requests answered in the window
    economy: list[float] = field(default_factory=list)  # CPU time a request, inverted
    errors: int = 0

    def summary(self) -> str:
        """Both medians with their intervals."""
        parts = []
        for name, values in (("CPU time", self.economy), ("throughput", self.speed)):
            low, high = interval(values)
            parts.append(f"{name} {median(values):.3f} (95 % {low:.3f} to {high:.3f})")
        return f"{', '.join(parts)}, {len(self.speed)} windows"


def interval(values: Sequence[float]) -> tuple[float, float]:
    """A 95 % confidence interval of the median, from order statistics: no assumption about the noise."""
    ordered = sorted(values)
    count = len(ordered)
    rank, tail = 0, 0.5**count
    while rank + 1 < count // 2 and tail + comb(count, rank + 1) * 0.5**count <= 0.025:
        rank += 1
        tail += comb(count, rank) * 0.5**count
    return ordered[rank], ordered[count - 1 - rank]


async def compare(
    a: Launcher,
    b: Launcher,
    *,
    batches: int,
    enough: Callable[[Evidence, int], bool] = lambda evidence, batch: False,
) -> Evidence:
    """Up to `batches` batches of fresh processes (about 8 s each), fewer once `enough(evidence, batch)` says so."""
    loop = asyncio.get_running_loop()
    evidence = Evidence()
    server = await loop.create_server(Upstream, "127.0.0.1", 0, backlog=1024)
    async with server:
        with Rig(upstream_port=server.sockets[0].getsockname()[1]) as rig:
            for batch in range(1, batches + 1):
                await _batch(rig, (a, b), evidence)
                if not evidence.speed:
                    raise RuntimeError(f"no window in which both answered; {evidence.errors} requests failed")
                if enough(evidence, batch):
                    break
    return evidence


async def _batch(rig: Rig, launchers: tuple[Launcher, Launcher], evidence: Evidence) -> None:
    with ExitStack() as stack:
        processes, loads = [], []
        for name, launcher in zip("ab", launchers, strict=True):
            port = free_port()
            directory = rig.directory / name
            directory.mkdir()
            stack.callback(shutil.rmtree, directory)
            launch = launcher(rig, directory, port)
            log = directory / "output.log"
            # Sharing a core, neither would take itself for busy; their threads would interrupt each other at every wake-up,
            # and hide what the gateway itself costs when it matters.
            process = Process(
                launch.command, core=rig.cores.peer, log=log, env=launch.env, cwd=launch.cwd, batch=True
            )
            stack.callback(process.stop)
            process.wait_for_port(port)
            load = Load(port, PATH, rig.token, CONNECTIONS)
            await load.connect()
            stack.callback(load.close)
            processes.append(process)
            loads.append(load)
        running = [asyncio.create_task(load.slice(1.0 + WINDOWS * WINDOW_SECONDS)) for load in loads]
        await asyncio.sleep(1.0)  # warm up
        before = [(load.done, process.cpu_seconds()) for load, process in zip(loads, processes, strict=True)]
        for _ in range(WINDOWS):
            await asyncio.sleep(WINDOW_SECONDS)
            now = [(load.done, process.cpu_seconds()) for load, process in zip(loads, processes, strict=True)]
            done = [new[0] - old[0] for new, old in zip(now, before, strict=True)]
            spent = [new[1] - old[1] for new, old in zip(now, before, strict=True)]
            before = now
            if min(done) > 0 and min(spent) > 0:  # a window in which one of them never ran says nothing
                evidence.speed.append(done[1] / done[0])
                evidence.economy.append((spent[0] / done[0]) / (spent[1] / done[1]))
        await asyncio.gather(*running)
        evidence.errors += sum(load.errors for load in loads)


def gateway_of(tree: Path) -> Launcher:
    """A launcher for the gateway in the working tree `tree`."""

    def launcher(rig: Rig, directory: Path, port: int) -> Launch:
        return replace(Gateway().launch(rig, directory, port), cwd=tree)

    return launcher


def launcher_for(name: str) -> Launcher:
    """The launcher of a peer, or of the gateway in the working tree at the path `name`.

    Raises:
        ValueError: neither.
    """
    for peer in PEERS:
        if peer.name == name:
            return _started(peer)
    if not (Path(name) / "kernel").is_dir():
        raise ValueError(f"{name} is no peer and no working tree")
    return gateway_of(Path(name).resolve())


def _started(peer: Peer) -> Launcher:
    if Check.PROXIES not in peer.checks or not peer.available():
        raise ValueError(f"{peer.name} is not installed, or proxies nothing")

    def launcher(rig: Rig, directory: Path, port: int) -> Launch:
        launch = peer.launch(rig, directory, port)
        if launch is None:
            raise ValueError(f"{peer.name} is no process of its own")
        return launch

    return launcher


def main(argv: Sequence[str] | None = None) -> int:
    """Compare two; 0 unless requests failed."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.paired", description="Two peers, or two working trees."
    )
    parser.add_argument("a", type=launcher_for)
    parser.add_argument("b", type=launcher_for)
    parser.add_argument("--batches", type=int, default=4)
    options = parser.parse_args(argv)
    evidence = uvloop.run(compare(options.a, options.b, batches=options.batches))
    print(f"b against a, above 1 is better: {evidence.summary()}")
    if evidence.errors:
        print(f"{evidence.errors} requests failed")
    return 1 if evidence.errors else 0


if __name__ == "__main__":
    sys.exit(main())
