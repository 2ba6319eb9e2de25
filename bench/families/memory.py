"""Memory: of large bodies on their way, of connections that do nothing, of a peer that has just started (and how soon)."""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from statistics import median

from bench.families.base import FAST, MAIN, Context, Outcome
from bench.machine import private_bytes, resident_bytes, session
from bench.process import Process, free_port
from bench.report import Target
from bench.rig import PATH, REPOSITORY, Rig
from bench.run import Running

GIB = 1024**3
MIB = 1024**2
_SAMPLE_SECONDS = 0.05
_IDLE_CONNECTIONS = 2000
_BLOCK = bytes(MIB)
# Larger than what is allowed unless asked for.
_LARGE = {"gateway": {"MAX_BODY_BYTES": "2GiB"}}


class Curve:
    """The private memory of a session, sampled in a thread while a `with` lasts: (seconds, bytes) points."""

    def __init__(self, leader: int) -> None:
        self.points: list[tuple[float, int]] = []
        self._processes = session(leader)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        began = time.perf_counter()
        while not self._over.wait(_SAMPLE_SECONDS):
            self.points.append((round(time.perf_counter() - began, 3), private_bytes(self._processes)))

    def __enter__(self) -> Curve:
        self.points.append((0.0, private_bytes(self._processes)))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    @property
    def more(self) -> int:
        """The peak above the beginning."""
        return max(size for _, size in self.points) - self.points[0][1]


@dataclass(frozen=True)
class Transfer:
    """One body of a GiB."""

    seconds: float
    more: int  # bytes of memory at the peak above the beginning
    curve: list[tuple[float, int]]


def bodies(context: Context) -> Outcome:
    """1 GiB up and 1 GiB down, to and from a service that takes and gives as fast as it can."""
    port = free_port()
    rows = context.rows(FAST, env=_LARGE)
    figures: dict[str, object] = {}
    targets: list[Target] = []
    body: list[list[str]] = []
    notes = [
        "memory of the peer's processes above what they had before, sampled every 50 ms; the curves are in the JSON"
    ]
    log = context.rig.directory / "bulk.log"
    with Process(
        [sys.executable, "-m", "bench.bulk", str(port)], core=context.rig.cores.load, log=log, cwd=REPOSITORY
    ) as bulk:
        bulk.wait_for_port(port)
        rig = context.rig.behind(port)
        for row in rows:
            try:
                with Running(rig, row) as running:
                    up, down = _transfer(rig, running, upload=True), _transfer(rig, running, upload=False)
            except (OSError, RuntimeError) as error:
                notes.append(f"{row.peer.title}: {error}")
                body.append([row.peer.title, "invalid", "", "", ""])
                continue
            context.say(
                f"1 GiB: {row.peer.name:<20}up +{up.more / MIB:.1f} MiB, down +{down.more / MIB:.1f} MiB"
            )
            figures[row.peer.name] = {"up": asdict(up), "down": asdict(down)}
            if row.peer.name == "gateway":
                most = max(up.more, down.more) / MIB
                targets = [Target("more memory for a body of 1 GiB, MiB", 16, most, at_most=True)]
            cells = [
                cell
                for found in (up, down)
                for cell in (f"{GIB / MIB / found.seconds:,.0f}", f"{found.more / MIB:.1f}")
            ]
            body.append([row.peer.title, *cells])
    head = ["peer", "up: MiB/s", "more memory, MiB", "down: MiB/s", "more memory, MiB"]
    return Outcome(head, body, figures, notes, targets)


def footprint(context: Context) -> Outcome:
    """From the start of the process to its first answer; resident memory then; memory of an idle connection."""
    figures: dict[str, object] = {}
    targets: list[Target] = []
    body = []
    for row in context.rows(MAIN):
        starts = []
        for turn in range(3):
            began = time.perf_counter()
            with Running(context.rig, row) as running:
                with _connection(context.rig, running.port):
                    starts.append(time.perf_counter() - began)
                if turn == 2:
                    largest = max(map(resident_bytes, session(running.pid)))
                    each = _idle_connections(context, running)
        seconds = median(starts)
        if row.peer.name == "gateway":
            targets = [
                Target("from start to the first answer, s", 1, seconds, at_most=True),
                Target("resident memory of an idle worker, MiB", 80, largest / MIB, at_most=True),
            ]
        figures[row.peer.name] = {"start_seconds": starts, "resident": largest, "idle_connection": each}
        body.append([row.peer.title, f"{seconds:.2f}", f"{largest / MIB:.1f}", f"{each / 1024:.1f}"])
        context.say(
            f"footprint: {row.peer.name:<20}{seconds:.2f} s, {largest / MIB:.0f} MiB, {each / 1024:.1f} KiB a connection"
        )
    head = [
        "peer",
        "first answer after s",
        "largest process, MiB",
        f"KiB an idle connection (of {_IDLE_CONNECTIONS:,})",
    ]
    return Outcome(head, body, figures, targets=targets)


def _idle_connections(context: Context, running: Running) -> float:
    processes = session(running.pid)
    # What the first connections cost once is no cost of a connection.
    with _connections(context.rig, running.port, 50):
        pass
    time.sleep(0.5)
    before = private_bytes(processes)
    with _connections(context.rig, running.port, _IDLE_CONNECTIONS):
        time.sleep(1)
        return (private_bytes(processes) - before) / _IDLE_CONNECTIONS


@contextmanager
def _connections(rig: Rig, port: int, count: int) -> Iterator[None]:
    opened: list[socket.socket] = []
    try:
        while len(opened) < count:
            opened += [_ask(rig, port)]
        yield
    finally:
        for each in opened:
            each.close()


@contextmanager
def _connection(rig: Rig, port: int) -> Iterator[None]:
    with _connections(rig, port, 1):
        yield


def _ask(rig: Rig, port: int) -> socket.socket:
    """A connection on which one request has been answered with 200."""
    link = socket.create_connection(("127.0.0.1", port), 10)
    link.sendall(f"GET {PATH} HTTP/1.1\r\nHost: b\r\nAuthorization: Bearer {rig.token}\r\n\r\n".encode())
    answer = link.recv(65536)
    if b" 200 " not in answer[:32]:
        raise RuntimeError(f"no 200 but {answer[:80]!r}")
    return link


def _transfer(rig: Rig, running: Running, *, upload: bool) -> Transfer:
    # A small one before: what a first body costs once is not what a large one costs.
    for size in (MIB, GIB):
        began = time.perf_counter()
        with Curve(running.pid) as curve:
            (_upload if upload else _download)(rig, running.port, size)
        seconds = time.perf_counter() - began
    return Transfer(seconds, curve.more, curve.points)


def _upload(rig: Rig, port: int, size: int) -> None:
    with socket.create_connection(("127.0.0.1", port), 60) as link:
        link.sendall(
            f"POST {PATH} HTTP/1.1\r\nHost: b\r\nAuthorization: Bearer {rig.token}\r\n"
            f"Content-Type: application/octet-stream\r\nContent-Length: {size}\r\n\r\n".encode()
        )
        for _ in range(size // MIB):
            link.sendall(_BLOCK)
        answer = link.recv(65536)
        if b" 200 " not in answer[:32] or not answer.endswith(str(size).encode()):
            raise RuntimeError(f"the body did not arrive whole: {answer[:200]!r}")


def _download(rig: Rig, port: int, size: int) -> None:
    with socket.create_connection(("127.0.0.1", port), 60) as link:
        link.sendall(
            f"GET {PATH}?bytes={size} HTTP/1.1\r\nHost: b\r\nAuthorization: Bearer {rig.token}\r\n\r\n".encode()
        )
        head, _, body = link.recv(65536).partition(b"\r\n\r\n")
        got = len(body)
        buffer = bytearray(MIB)
        while got < size:
            read = link.recv_into(buffer)
            if not read:
                raise RuntimeError(f"{got} of {size} bytes, after {head[:80]!r}")
            got += read
