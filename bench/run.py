"""The rounds of a run: every peer in turn, started afresh, checked once, warmed up, measured; then the next round."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench import openloop, verify
from bench.load import Sample, one_token, wrk
from bench.openloop import Latency
from bench.peers import Check, Launch, Peer
from bench.process import Process, StartError, free_port
from bench.rig import PATH, Rig

Say = Callable[[str], None]
_LOGGED = b"/api/v1/inventory/"


@dataclass(frozen=True)
class Scenario:
    """One kind of closed-loop load: a wrk script and a number of connections."""

    name: str
    title: str
    connections: int
    script: Path
    path: str = PATH
    warm_up: Path | None = None  # another script for the warm-up, which would use up what this one has
    warm_seconds: int = 1
    most: int | None = None  # requests the script can make; more of them are not what the title says


@dataclass
class Row:
    """What was measured of one peer."""

    peer: Peer
    version: str
    env: Mapping[str, str] = field(default_factory=dict)  # beside what the peer sets itself
    cores: frozenset[int] | None = None  # None: the peer's core
    wrong: list[str] = field(default_factory=list)
    samples: dict[str, list[Sample]] = field(default_factory=dict)  # by scenario, one a round
    latencies: list[Latency] = field(default_factory=list)
    start_seconds: list[float] = field(default_factory=list)

    def flag(self, *reasons: str) -> None:
        """Mark the row invalid."""
        self.wrong.extend(reason for reason in reasons if reason not in self.wrong)


def rows_for(peers: Sequence[Peer], say: Say) -> list[Row]:
    """A row for every installed peer; the others are named with the way to install them."""
    for peer in peers:
        if not peer.available():
            say(f"left out: {peer.title} is not installed ({peer.install})")
    return [Row(peer, peer.version()) for peer in peers if peer.available()]


def check(rig: Rig, rows: Sequence[Row], say: Say) -> None:
    """Verify that every peer does its work, and that a low limit limits. Flags those that fail."""
    for row in rows:
        with Running(rig, row) as running:
            if running.ok:
                row.flag(*verify.verify(rig, running.port, row.peer.checks))
        if Check.POLICIES in row.peer.checks and not row.wrong:
            with Running(rig, row, limit=20) as running:
                if running.ok:
                    row.flag(*verify.limits(rig, running.port))
        say(f"checked {row.peer.name}: {'; '.join(row.wrong) or 'ok'}")


def throughput(
    rig: Rig, rows: Sequence[Row], scenarios: Sequence[Scenario], *, rounds: int, seconds: int, say: Say
) -> None:
    """`rounds` times all peers one after the other, warmed up, `seconds` each in every scenario."""
    for turn in range(rounds):
        for row in rows:
            if row.wrong:
                continue
            with Running(rig, row) as running:
                if not running.ok:
                    continue
                if row.peer.settle:
                    one = one_token(rig.directory, rig.token)
                    running.load(Scenario("settle", "", scenarios[0].connections, one), row.peer.settle)
                rates = []
                for scenario in scenarios:
                    sample = running.load(scenario, seconds)
                    row.samples.setdefault(scenario.name, []).append(sample)
                    rates.append(f"{sample.rate:,.0f}")
                    if scenario.most is not None and sample.requests > scenario.most:
                        row.flag(f"more requests than prepared in {scenario.title}")
                    if sample.errors:
                        row.flag(f"{sample.errors} failed requests in {scenario.title}")
            say(f"round {turn + 1}/{rounds}  {row.peer.name:<20}{'  '.join(rates)} requests/s")


def constant_rate(
    rig: Rig, rows: Sequence[Row], *, rate: float, rounds: int, seconds: float, say: Say
) -> None:
    """`rounds` times all given peers in turn under an open-loop load of `rate` requests a second."""
    for turn in range(rounds):
        for row in rows:
            if row.wrong:
                continue
            with Running(rig, row) as running:
                if not running.ok:
                    continue
                latency = openloop.measure(
                    f"127.0.0.1:{running.port}",
                    PATH,
                    rig.token,
                    rig.directory,
                    rate=rate,
                    seconds=seconds,
                    warm_up=1.0,
                )
                row.latencies.append(latency)
                if latency.errors:
                    row.flag(f"{latency.errors} failed requests at {rate:,.0f} a second")
            say(
                f"latency {turn + 1}/{rounds}  {row.peer.name:<20}p50 {latency.p50:.0f} us  p99 {latency.p99:.0f} us"
            )


class Running:
    """A peer, up and listening, for the length of a `with`; on its way out its access log is counted."""

    def __init__(self, rig: Rig, row: Row, *, limit: int | None = None) -> None:
        self._rig, self._row = rig, row
        self._directory = rig.directory / f"{row.peer.name}-{free_port()}"
        self._directory.mkdir()
        self.port = free_port()
        self.ok = True
        self._served = 0
        self._process: Process | None = None
        options = {} if limit is None else {"limit": limit}
        self._launch: Launch | None = row.peer.launch(rig, self._directory, self.port, **options)

    def __enter__(self) -> Running:
        if self._launch is None:
            self.port = self._rig.upstream_port
            return self
        self._rig.empty_store()
        self._process = Process(
            self._launch.command,
            core=self._row.cores or self._rig.cores.peer,
            log=self._directory / "output.log",
            env={**self._launch.env, **self._row.env},
            cwd=self._launch.cwd,
        )
        try:
            self._row.start_seconds.append(self._process.wait_for_port(self.port))
        except StartError as error:
            self._row.flag(f"does not start: {error}")
            self.ok = False
        return self

    @property
    def pid(self) -> int:
        """Of the peer's first process, the leader of its session."""
        if self._process is None:
            raise LookupError("it is no process of ours")
        return self._process.pid

    def load(self, scenario: Scenario, seconds: int) -> Sample:
        """Warm up, then measure."""
        warm_up = (scenario.warm_seconds, scenario.warm_up or scenario.script)
        for duration, script in (warm_up, (seconds, scenario.script)):
            sample = wrk(
                f"http://127.0.0.1:{self.port}{scenario.path}",
                script=script,
                connections=scenario.connections,
                seconds=duration,
                cores=self._rig.cores,
                peer=self._process.pid if self._process else None,
                helpers=self._rig.helper_seconds,
            )
            self._served += sample.requests
        return sample

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.stop()
        log = self._launch.access_log if self._launch else None
        if log is not None and self._served:
            with log.open("rb") as lines:
                logged = sum(_LOGGED in line for line in lines)
            if logged < self._served:
                self._row.flag(f"logged {logged} of {self._served} requests")
        shutil.rmtree(self._directory, ignore_errors=True)
