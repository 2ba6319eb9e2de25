"""Latency at a constant rate, free of coordinated omission. `python -m bench.openloop HOST:PORT --rate 1000 ...`.

Request i is due at start + i / rate, whatever became of those before it, and its latency counts from that moment: a
peer that stalls pays for every request that fell due meanwhile, not for one (as with wrk2; wrk would simply send less).

The loop runs on select(2), not epoll: asyncio rounds epoll timeouts up to whole milliseconds, more than we measure.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import math
import selectors
import subprocess
import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

MAX_CONNECTIONS = 512  # select(2) ends at descriptor 1023


@dataclass(frozen=True)
class Latency:
    """Latencies in microseconds from the moment each request was due."""

    requests: int
    errors: int
    p50: float
    p90: float
    p99: float
    p999: float
    worst: float
    late_p50: float  # how late the client itself sent: the floor of what it can resolve
    late_p99: float


def percentile(ordered: Sequence[float], share: float) -> float:
    """The nearest-rank percentile of a sorted sequence; 0 of an empty one."""
    if not ordered:
        return 0.0
    rank = math.ceil(share * len(ordered) - 1e-9)
    return ordered[max(0, rank - 1)]


class Connection(asyncio.Protocol):
    """One keep-alive connection with at most one request under way."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._transport: asyncio.Transport | None = None
        self._due = 0.0
        self._buffer = b""
        self._busy = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def send(self, due: float) -> None:
        """Send the client's request, which was due at `due` (loop time)."""
        assert self._transport is not None
        self._due, self._busy = due, True
        self._client.late.append(self._client.loop.time() - due)
        self._transport.write(self._client.request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self._buffer[:end].lower()
        _, found, rest = head.partition(b"\r\ncontent-length:")
        length = int(rest.partition(b"\r\n")[0]) if found else 0
        if len(self._buffer) < end + 4 + length:
            return
        ok = head[9:12] == b"200"
        self._buffer = b""
        self._busy = False
        self._client.finished(self, self._due, ok=ok)

    def connection_lost(self, exc: Exception | None) -> None:
        self._client.lost(self, busy=self._busy)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()


class Client:
    """Sends `request` on schedule over as many connections as it takes."""

    def __init__(self, loop: asyncio.AbstractEventLoop, host: str, port: int, request: bytes) -> None:
        self.loop = loop
        self.request = request
        self.late: list[float] = []
        self._host, self._port = host, port
        self._idle: list[Connection] = []
        self._open: set[Connection] = set()
        self._opening = 0
        self._waiting: deque[float] = deque()
        self._samples: list[tuple[float, float]] = []  # due, latency
        self._errors = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, rate: float, seconds: float, warm_up: float) -> Latency:
        """Keep to `rate` for warm_up + seconds, then wait (10 s at most) for the last answers."""
        await asyncio.gather(*(self._connect() for _ in range(16)))
        began = self.loop.time() + 0.05
        count = int(rate * (warm_up + seconds))
        for index in range(count):
            due = began + index / rate
            delay = due - self.loop.time()
            if delay > 0:
                await asyncio.sleep(delay)
            self._fire(due)
        deadline = self.loop.time() + 10
        while len(self._samples) + self._errors < count and self.loop.time() < deadline:
            await asyncio.sleep(0.01)
        unanswered = count - len(self._samples) - self._errors
        for connection in tuple(self._open):
            connection.close()
        counted = sorted(latency for due, latency in self._samples if due >= began + warm_up)
        late = sorted(self.late[int(rate * warm_up) :])
        return Latency(
            requests=len(counted),
            errors=self._errors + unanswered,
            **{
                name: 1e6 * percentile(counted, share)
                for name, share in (
                    ("p50", 0.5),
                    ("p90", 0.9),
                    ("p99", 0.99),
                    ("p999", 0.999),
                    ("worst", 1.0),
                )
            },
            late_p50=1e6 * percentile(late, 0.5),
            late_p99=1e6 * percentile(late, 0.99),
        )

    def finished(self, connection: Connection, due: float, *, ok: bool) -> None:
        """An answer arrived whole."""
        if ok:
            self._samples.append((due, self.loop.time() - due))
        else:
            self._errors += 1
        if self._waiting:
            connection.send(self._waiting.popleft())
        else:
            self._idle.append(connection)

    def lost(self, connection: Connection, *, busy: bool) -> None:
        """A connection ended; with a request under way that is an error."""
        self._errors += busy
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)

    def _fire(self, due: float) -> None:
        if self._idle:
            self._idle.pop().send(due)
            return
        self._waiting.append(due)
        if len(self._open) + self._opening < MAX_CONNECTIONS:
            task = self.loop.create_task(self._connect())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _connect(self) -> None:
        self._opening += 1
        try:
            _, connection = await self.loop.create_connection(
                lambda: Connection(self), self._host, self._port
            )
        except OSError:
            if self._waiting:
                self._waiting.popleft()
                self._errors += 1
            return
        finally:
            self._opening -= 1
        self._open.add(connection)
        if self._waiting:
            connection.send(self._waiting.popleft())
        else:
            self._idle.append(connection)


def measure(
    address: str,
    target: str,
    token: str,
    directory: Path,
    *,
    rate: float,
    seconds: float,
    warm_up: float,
) -> Latency:
    """Run the client in a process of its own, on the caller's core; raises RuntimeError when it fails."""
    secret = directory / "openloop.token"  # a file: command lines are public
    secret.write_text(token)
    options = [address, "--target", target, "--token-file", str(secret)]
    figures = ["--rate", str(rate), "--seconds", str(seconds), "--warm-up", str(warm_up)]
    done = subprocess.run(
        [sys.executable, "-m", "bench.openloop", *options, *figures],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).resolve().parent.parent,
    )
    if done.returncode:
        raise RuntimeError(f"the open-loop client failed: {done.stderr[-500:]}")
    return Latency(**json.loads(done.stdout))


def main(argv: Sequence[str] | None = None) -> None:
    """Command line of the client process; prints one JSON object."""
    parser = argparse.ArgumentParser(prog="python -m bench.openloop", description=__doc__)
    parser.add_argument("address")
    parser.add_argument("--target", default="/")
    parser.add_argument("--token-file", type=Path)
    parser.add_argument("--rate", type=float, default=1000.0)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--warm-up", type=float, default=1.0)
    options = parser.parse_args(argv)
    host, _, port = options.address.partition(":")
    lines = [f"GET {options.target} HTTP/1.1", f"Host: {options.address}", "Accept: application/json"]
    if options.token_file:
        lines.append(f"Authorization: Bearer {options.token_file.read_text().strip()}")
    request = "\r\n".join([*lines, "", ""]).encode()
    gc.disable()  # the client's own pauses are not the peer's latency; it lives for seconds
    loop = asyncio.SelectorEventLoop(selectors.SelectSelector())
    try:
        result = loop.run_until_complete(
            Client(loop, host, int(port), request).run(options.rate, options.seconds, options.warm_up)
        )
    finally:
        loop.close()
    print(json.dumps(asdict(result)))


if __name__ == "__main__":
    main()
