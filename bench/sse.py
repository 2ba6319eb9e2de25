"""`python -m bench.sse`: many alert streams on one worker - memory a stream, and how long an alert takes to all of them.

One core runs the gateway (one worker), the other this client and Valkey. Streams are opened first; then alerts are
published at a steady rate, each with the moment it was published, and every stream notes when it has it. Stuck readers
never read: they must not matter to the others. With --stuck, compare with a run without.

`--peer nchan` measures nginx with the nchan module in the same way: it fans out what is POSTed to it, from memory, without
tokens, tenants or a store; its `Last-Event-ID` does not survive the process.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

import redis.asyncio
import uvloop

from bench import machine
from bench.keys import ISSUER, TENANT, Keys
from bench.peers.base import fill
from bench.process import free_port
from demo import processes
from kernel.server.embedded_store import EmbeddedStore

_ROOT = Path(__file__).resolve().parents[1]
_SENT = re.compile(rb'"sent":([0-9.]+)')
_OPENING = 200
# Streams that are there before anything is measured: two turns, so that what opening many at once takes is there, too.
_WARM_UP = 2 * _OPENING
_MARGIN = 64


class Stream(asyncio.Protocol):
    """One open stream. `ready` is set by its first id."""

    def __init__(self, request: bytes, latencies: list[float]) -> None:
        self.ready = asyncio.get_running_loop().create_future()
        self.count = 0
        self.lost = False
        self._request = request
        self._latencies = latencies
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        now = time.time()
        if not self.ready.done() and (b"id: " in data or b": hi" in data):
            self.ready.set_result(None)
        for moment in _SENT.findall(data):
            self.count += 1
            self._latencies.append(now - float(moment))

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        if not self.ready.done():
            self.ready.set_exception(ConnectionError("the gateway refused a stream"))


def resident(pid: int) -> int:
    """Resident bytes of a process, without pages it shares with others."""
    return machine.private_bytes([Path(f"/proc/{pid}")])


def worker_of(parent: int) -> int:
    """The pid of the one worker."""
    return int(Path(f"/proc/{parent}/task/{parent}/children").read_text().split()[-1])


def percentile(ordered: list[float], share: float) -> float:
    """The value below which `share` of `ordered` lie."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


async def _open(port: int, requests: Sequence[bytes], latencies: list[float]) -> list[Stream]:
    loop = asyncio.get_running_loop()
    streams: list[Stream] = []
    while len(streams) < len(requests):
        turn = requests[len(streams) : len(streams) + _OPENING]
        made = await asyncio.gather(
            *(
                loop.create_connection(partial(Stream, request, latencies), "127.0.0.1", port)
                for request in turn
            )
        )
        await asyncio.gather(*(stream.ready for _, stream in made))
        streams += [stream for _, stream in made]
    return streams


async def _stick(port: int, count: int, request: bytes) -> list[socket.socket]:
    """Readers that ask and never read."""
    stuck = []
    for _ in range(count):
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(("127.0.0.1", port))
        sock.sendall(request)
        stuck.append(sock)
    return stuck


async def _ready(port: int) -> None:
    while True:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(
                b"GET /health/ready HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n"
            )  # nchan.conf.in has it too
            answer = await reader.read(64)
            writer.close()
            if b" 200 " in answer:
                return
        except OSError:
            pass
        await asyncio.sleep(0.05)


Publish = Callable[[bytes], Awaitable[object]]


async def _poster(port: int) -> Publish:
    """Publishes to nchan over one connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)

    async def publish(alert: bytes) -> None:
        head = b"POST /publish HTTP/1.1\r\nHost: b\r\nContent-Length: %d\r\n\r\n" % len(alert)
        writer.write(head + alert)
        answer = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(int(answer.lower().split(b"content-length: ")[1].split(b"\r\n")[0]))

    return publish


@dataclass(frozen=True)
class Figures:
    """One run. Times in milliseconds, sizes in KiB a stream."""

    streams: int
    opened_seconds: float
    memory: float
    memory_after: float  # when the alerts had been sent
    sent: int
    expected: int  # deliveries
    received: int
    p50: float
    p99: float
    worst: float
    cpu: float  # microseconds a delivered alert
    lost: int  # streams

    def text(self) -> str:
        """As lines for people."""
        return "\n".join(
            [
                f"streams           {self.streams} opened in {self.opened_seconds:.1f} s",
                f"memory            {self.memory:.1f} KiB a stream, {self.memory_after:.1f} after the alerts",
                f"alerts            {self.sent}, {self.received} of {self.expected} received",
                f"alert to streams  median {self.p50:.1f} ms, p99 {self.p99:.1f} ms, max {self.worst:.1f} ms",
                f"processor         {self.cpu:.1f} us a delivered alert",
                f"streams lost      {self.lost}",
            ]
        )


def _request(token: str) -> bytes:
    return (
        f"GET /api/v1/alerts/stream HTTP/1.1\r\nHost: b\r\nAccept: text/event-stream\r\n"
        f"Authorization: Bearer {token}\r\n\r\n".encode()
    )


async def _measure(options: argparse.Namespace, port: int, parent: int, store: str, keys: Keys) -> Figures:
    await asyncio.wait_for(_ready(port), 20)
    worker = worker_of(parent)
    request = _request(keys.token())
    count = _WARM_UP + options.streams
    requests = [_request(token) for token in keys.users(count)] if options.users else [request] * count
    client = redis.asyncio.Redis.from_url(store)
    if options.peer == "nchan":
        publish = await _poster(port)
    else:
        publish = partial(client.publish, f"alerts:tenant:{TENANT}")
    latencies: list[float] = []
    # What the first streams cost once is no cost of a stream. They stay, or others would get their memory.
    first = await _open(port, requests[:_WARM_UP], latencies)
    await asyncio.sleep(1)
    before = resident(worker)

    def a_stream() -> float:
        return (resident(worker) - before) / 1024 / float(options.streams)

    began = time.perf_counter()
    streams = first + await _open(port, requests[_WARM_UP:], latencies)
    opened = time.perf_counter() - began
    await asyncio.sleep(1)
    memory = a_stream()
    stuck = await _stick(port, options.stuck, request)
    await asyncio.sleep(0.5)
    cpu = _cpu(worker)
    began = time.perf_counter()
    for number in range(options.alerts):
        await asyncio.sleep(max(0.0, began + number / options.rate - time.perf_counter()))
        alert = {
            "alert_id": f"a{number}",
            "severity": "high",
            "message": "Stock bajo: Mantequilla 82 % m.g." + "." * options.padding,
            "sent": time.time(),
        }
        await publish(json.dumps(alert, separators=(",", ":")).encode())
    expected = options.alerts * len(streams)
    deadline = time.monotonic() + 30
    while len(latencies) < expected and time.monotonic() < deadline:
        await asyncio.sleep(0.05)
    cpu = _cpu(worker) - cpu
    ordered = [1000 * latency for latency in sorted(latencies)]
    figures = Figures(
        streams=options.streams,
        opened_seconds=opened,
        memory=memory,
        memory_after=a_stream(),
        sent=options.alerts,
        expected=expected,
        received=len(latencies),
        p50=percentile(ordered, 0.5),
        p99=percentile(ordered, 0.99),
        worst=percentile(ordered, 1.0),
        cpu=1e6 * cpu / max(1, len(latencies)),
        lost=sum(stream.lost for stream in streams),
    )
    for sock in stuck:
        sock.close()
    for stream in streams:
        stream.transport.close()
    await client.aclose()
    return figures


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / machine.TICK


def main(argv: Sequence[str] | None = None) -> int:
    """Run it and print the figures."""
    figures, problems = measure(argv)
    print(figures.text())
    if problems:
        print(f"ended by problem  {problems}")
    return 0


def measure(argv: Sequence[str] | None = None) -> tuple[Figures, dict[str, int]]:
    """Run it: the figures, and the problems that ended streams or requests."""
    options = _options(argv)
    cores = machine.cores()
    keys = Keys()
    with (
        EmbeddedStore() as store,
        tempfile.TemporaryFile() as output,
        tempfile.TemporaryDirectory() as directory,
    ):
        port = free_port()
        environment = {
            "PATH": os.environ["PATH"],
            "HOST": "127.0.0.1",
            "PORT": str(port),
            "REDIS_URL": store.url,
            "JWT_PUBLIC_KEY": keys.public_pem,
            "JWT_ISSUER": ISSUER,
            "RATE_LIMIT_REQUESTS": "1000000",
            "DRAIN_SECONDS": "0",
            "SHUTDOWN_GRACE_SECONDS": "2",
            "HTTP2": str(options.http2).lower(),
            "MAX_CONNECTIONS": str(2 * options.streams + 1000),
            "ALERTS_MAX_STREAMS": str(_WARM_UP + options.streams + options.stuck + _MARGIN),
        }
        command = [sys.executable, "-m", "kernel", "run"]
        if options.peer == "nchan":
            config = Path(directory, "nginx.conf")
            values = {"PORT": port, "DIRECTORY": directory, "CONNECTIONS": 2 * options.streams + 1000}
            fill("nchan.conf.in", config, values)
            command = ["nginx", "-e", "stderr", "-c", str(config)]
        peer = processes.spawn(command, environment=environment, stdout=output, stderr=output, cwd=str(_ROOT))
        before = os.sched_getaffinity(0)
        try:
            os.sched_setaffinity(peer.pid, {cores.peer})
            os.sched_setaffinity(0, {cores.load})
            figures = uvloop.run(_measure(options, port, peer.pid, store.url, keys))
            output.seek(0)
            ended = Counter(name.decode() for name in re.findall(rb'"problem":"([a-z-]+)"', output.read()))
            return figures, dict(ended)
        finally:
            os.sched_setaffinity(0, before)
            processes.stop(peer, 5)


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.sse", description=__doc__.splitlines()[0])
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--alerts", type=int, default=50)
    parser.add_argument("--rate", type=float, default=5.0, help="alerts a second")
    parser.add_argument("--stuck", type=int, default=0, help="readers that never read, beside the streams")
    parser.add_argument("--padding", type=int, default=0, help="bytes more in each alert")
    parser.add_argument("--users", action="store_true", help="each stream has a user of its own")
    parser.add_argument("--peer", choices=("gateway", "nchan"), default="gateway", help="who is measured")
    parser.add_argument("--http2", action="store_true", help="the gateway with HTTP2=true")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
