"""What each step of a request costs: nanoseconds, and the most bytes held at once.

    python -m bench.micro [STEP ...] [--set NAME=VALUE ...]

The steps run in one process on the gateway's own state, in the order in which a request takes them, without sockets:
the upstream is a transport that answers at once. The rest of a request's cost is granian and the kernel. Here the caches are
warm; between system calls the same code takes about twice as long.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import sys
import tempfile
import timeit
import tracemalloc
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from functools import partial
from pathlib import Path
from time import perf_counter
from types import MappingProxyType
from typing import Any

import uvloop

from bench.closedloop import Upstream
from bench.keys import ISSUER, Keys
from bench.report import markdown
from bench.rig import BODY, PATH
from handlers import FACTORIES
from kernel.app import make_gateway
from kernel.build import build_state
from kernel.capture.recording import Recording
from kernel.capture.writing import Capture
from kernel.config import load
from kernel.exchange.exchange import Exchange
from kernel.identity.claims import decode_claims
from kernel.identity.jws import parse
from kernel.server.embedded_store import EmbeddedStore
from kernel.state import State

ANSWER = (
    b"HTTP/1.1 200 OK\r\nServer: nginx\r\nDate: Mon, 23 Nov 2026 03:00:00 GMT\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\nConnection: keep-alive\r\n\r\n%b" % (len(BODY), BODY.encode())
)
CONCURRENT = 32
# Beside another service than the one that the request is for, which pays for neither.
BESIDE = """
[services.sales.canary]
url = "http://127.0.0.1:9"
percent = 50
header = "x-canary"
[services.sales.mirror]
url = "{url}"
percent = 100
"""
Step = tuple[str, Callable[[], object]]
SILENT = "/dev/null"


class InstantTransport:
    """Answers every write with `ANSWER` in the next turn of the loop; takes the place of a connection's real transport."""

    def __init__(self, loop: asyncio.AbstractEventLoop, connection: Any) -> None:
        self._loop, self._connection = loop, connection
        self._real = connection.transport

    def write(self, data: bytes) -> None:
        self._loop.call_soon(self._connection.data_received, ANSWER)

    def abort(self) -> None:
        self._real.abort()


class Bench:
    """A gateway whose inventory service is instant, and one typical request."""

    def __init__(self, state: State, token: str) -> None:
        self.state = state
        self.gateway = make_gateway(state, lambda row: FACTORIES[row.handler](state, row))
        self.token = token.encode()

    async def prepare(self) -> None:
        """Open connections to the real upstream and the mirror, then let them answer by themselves."""
        await self.connect()
        await self.copies()
        self._make_instant("sales-mirror")

    async def connect(self) -> None:
        """Open CONCURRENT connections to the real upstream, then let them answer by themselves."""
        await asyncio.gather(*(self.gateway(self.scope(), receive, send) for _ in range(CONCURRENT)))
        self._make_instant("inventory")

    def _make_instant(self, name: str) -> None:
        loop = asyncio.get_running_loop()
        for connection in self.state.upstreams[name].replicas[0].pool.idle:
            connection.transport = InstantTransport(loop, connection)  # type: ignore[assignment]

    async def copies(self) -> None:
        """Send CONCURRENT copies of one request to the mirror, and hear its answers."""
        mirroring = self.state.mirrorings["sales"]
        x = await self.admitted()
        x.status = 200
        for _ in range(CONCURRENT):
            mirroring.copy(x, x.lines.copy())
        while mirroring.under_way:
            await asyncio.sleep(0)
        assert set(mirroring.results) == {"same"}, mirroring.results

    def scope(self) -> dict[str, Any]:
        """What granian gives for the benchmark's request; the token is a new object each time, as there."""
        return {
            "type": "http",
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": PATH,
            "raw_path": PATH.encode(),
            "query_string": b"",
            "client": ("127.0.0.1", "40000"),
            "headers": [
                (b"host", b"127.0.0.1:8000"),
                (b"accept", b"application/json"),
                (b"authorization", b"Bearer " + self.token),
            ],
        }

    def exchange(self) -> Exchange:
        state = self.state
        return Exchange(
            self.scope(), receive, send, state.header_kinds, state.request_ids.new(), state.baseline
        )

    async def admitted(self) -> Exchange:
        """An exchange that has been through every stage."""
        x = self.exchange()
        x.route, x.params = self.gateway.router.match(x.method, x.raw_path)
        for stage in x.route.stages:
            outcome = stage(x)
            if outcome is not None:
                assert isinstance(outcome, Awaitable), outcome
                assert await outcome is None
        return x


async def receive() -> dict[str, Any]:
    return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]  # the client stays


async def send(message: dict[str, Any]) -> None:
    pass


def nanoseconds(call: Callable[[], object]) -> float:
    """The best of seven runs of at least 20 ms, less the cost of an empty call."""
    return max(0.0, _best(call) - _best(lambda: None))


def _best(call: Callable[[], object]) -> float:
    timer = timeit.Timer(call)
    number = max(1, int(0.02 / max(1e-7, timer.timeit(200) / 200)))
    return 1e9 * min(timer.repeat(7, number)) / number


def peak_bytes(call: Callable[[], object]) -> int:
    """The most memory that one call holds at once."""
    call()
    gc.collect()
    tracemalloc.start()
    try:
        call()
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        call()
        return max(0, tracemalloc.get_traced_memory()[1] - before)
    finally:
        tracemalloc.stop()


async def concurrent(call: Callable[[], Awaitable[None]]) -> float:
    """Nanoseconds of `call`, with CONCURRENT of them under way: the best of five runs."""
    count = 100

    async def loop() -> None:
        for _ in range(count):
            await call()

    best = float("inf")
    for _ in range(5):
        began = perf_counter()
        await asyncio.gather(*(loop() for _ in range(CONCURRENT)))
        best = min(best, perf_counter() - began)
    return 1e9 * best / (count * CONCURRENT)


async def steps(bench: Bench) -> list[Step]:
    """The synchronous steps of a request, in order."""
    state, gateway = bench.state, bench.gateway
    x = await bench.admitted()
    scope = bench.scope()
    key = x.caller.bucket
    bucket = state.limiter._buckets[key]
    limit = bucket.limit
    # A lease for the whole run: a step that is timed without the loop cannot wait for another.
    bucket.left, bucket.low = 10**12, -1
    bucket.until = float("inf")
    found: list[Step] = [
        ("make a scope (granian does it)", bench.scope),
        ("request id", state.request_ids.new),
        (
            "exchange: headers sorted and joined",
            lambda: Exchange(
                scope,
                receive,
                send,
                state.header_kinds,
                (x.request_id, x.extra[0][1], x.trace),
                state.baseline,
            ),
        ),
        ("router: path checked, trie", lambda: gateway.router.match("GET", x.raw_path)),
        ("  of which the trie", lambda: gateway.router._trie.match(x.raw_path)),
    ]
    for stage in x.route.stages:

        def run(stage: Callable[[Exchange], object] = stage) -> None:
            x.limits = None
            x.extra = []
            x.context = b""
            stage(x)

        found.append((f"stage {x.route.name_of(stage)}", run))
    records = state.access_log._records
    gateway.finish(x)
    record = records[-1]

    def finish() -> None:
        gateway.finish(x)
        records.pop()

    def flush() -> None:
        records.extend([record] * 100)
        state.access_log.flush()

    compact = parse(bench.token)
    if state.capture is not None:
        found += _captured(state.capture, x)

    def verify() -> None:
        state.verifier.cache.clear()
        state.verifier.verify(bench.token)

    return [
        *found,
        ("  of which the limiter", lambda: state.limiter.take(key, limit)),
        ("  of which the identity", lambda: state.verifier.cached(bytes(memoryview(bench.token)))),
        ("canary, on routes that have one: whose the request is", lambda: state.splits["sales"].takes(x)),
        ("trace context", lambda: state.tracer.start(x.request_id)),
        ("metrics", lambda: x.route.meter.observe("GET", 200, 0.001, 0, 274)),
        ("finish: metrics, access-log record", finish),
        ("access log: 100 lines formatted", flush),
        ("new token: RS256, claims, policy", verify),
        ("  of which the claims", lambda: decode_claims(compact.payload)),
    ]


def _captured(capture: Capture, x: Exchange) -> list[Step]:
    """What a captured request costs the loop beside its stage, and what its line costs the thread."""
    recorder = capture.recorder
    headers = [*x.extra, (b"content-type", b"application/json"), (b"content-length", b"274")]

    def note() -> Recording:
        x.send = send
        recorder.begin(x)
        x.send({"type": "http.response.start", "status": 200, "headers": headers}).close()
        x.send({"type": "http.response.body", "body": BODY.encode(), "more_body": False}).close()
        recorder.finished(x)
        recorder._taken = recorder._taken_bytes = 0
        return recorder._over.pop()

    recording = note()
    return [
        ("capture: in the loop", note),
        ("capture: a line, in the thread", lambda: capture._encoder.line(recording)),
    ]


async def measure(names: Sequence[str], changes: Mapping[str, str] = MappingProxyType({})) -> list[list[str]]:
    """Rows of the table for all steps, or those whose name has one of `names`."""

    async def measured(bench: Bench) -> list[list[str]]:
        return [*_sync(await steps(bench), names), *await _async(bench, names)]

    return await on_gateway(measured, changes)


async def on_gateway(
    work: Callable[[Bench], Awaitable[list[list[str]]]], changes: Mapping[str, str]
) -> list[list[str]]:
    """What `work` gives; `changes` are settings, in which DIRECTORY is one that exists."""
    keys = Keys()
    server = await asyncio.get_running_loop().create_server(Upstream, "127.0.0.1", 0)
    with EmbeddedStore() as store, tempfile.TemporaryDirectory() as directory:
        upstream = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        config = Path(directory) / "gateway.toml"
        config.write_text(BESIDE.format(url=upstream))
        settings = load(
            {
                "ENVIRONMENT": "prod",
                "HTTPS_ONLY": "false",
                "REDIS_URL": store.url,
                "JWT_PUBLIC_KEY": keys.public_pem,
                "JWT_SECRET_KEY": "a-secret-for-service-tokens-of-this-benchmark-only",
                "JWT_ISSUER": ISSUER,
                "RATE_LIMIT_REQUESTS": "1000000000",
                "KEEPALIVE_SECONDS": "600",
                "INVENTORY_SERVICE_URL": upstream,
                "GATEWAY_CONFIG": str(config),
                **{name: value.replace("DIRECTORY", directory) for name, value in changes.items()},
            }
        )
        state = await build_state(settings, store.url, Path(directory))
        try:
            bench = Bench(state, keys.token())
            await bench.prepare()
            return await work(bench)
        finally:
            await state.close()
            server.close()


def _sync(found: Sequence[Step], names: Sequence[str]) -> list[list[str]]:
    rows = []
    for name, call in found:
        if not names or any(part in name for part in names):
            cost = nanoseconds(call)
            rows.append([name, f"{cost:,.0f}", f"{peak_bytes(call):,}"])
    return rows


class _Lane:
    """Has CONCURRENT requests on the callback lane, `count` in all."""

    def __init__(self, bench: Bench, count: int) -> None:
        self._bench = bench
        self._left = count
        self._to_come = count
        self.ended = asyncio.get_running_loop().create_future()

    def start(self) -> None:
        for _ in range(CONCURRENT):
            self._enter()

    def _enter(self) -> None:
        if not self._to_come:
            return
        self._to_come -= 1
        rest = self._bench.gateway.enter(self._bench.scope(), receive, _take, self, None)
        assert rest is None, "not a request for the callback lane"

    def over(self, x: Exchange) -> None:
        self._bench.gateway.finish(x)
        self._left -= 1
        if not self._left:
            self.ended.set_result(None)
        self._enter()

    def go_on(self, x: Exchange, rest: Awaitable[None]) -> None:
        raise AssertionError("not a response for the callback lane")


def _take(message: dict[str, Any]) -> Awaitable[None]:
    return _TAKEN


class _Taken:
    def __await__(self) -> Generator[None, None, None]:
        yield from ()


_TAKEN = _Taken()


async def _by_callbacks(bench: Bench) -> float:
    count, best = 3000, float("inf")
    for _ in range(7):
        lane = _Lane(bench, count)
        began = perf_counter()
        lane.start()
        await lane.ended
        best = min(best, perf_counter() - began)
    return 1e9 * best / count


async def _copied(bench: Bench) -> float:
    rounds, best = 50, float("inf")
    for _ in range(7):
        began = perf_counter()
        for _ in range(rounds):
            await bench.copies()
        best = min(best, perf_counter() - began)
    return 1e9 * best / (rounds * CONCURRENT)


async def _async(bench: Bench, names: Sequence[str]) -> list[list[str]]:
    async def admitted() -> None:
        await bench.admitted()

    async def whole() -> None:
        await bench.gateway(bench.scope(), receive, send)

    rows = []
    steps: list[tuple[str, Callable[[], Awaitable[float]]]] = [
        ("all of the above up to the handler", partial(concurrent, admitted)),
        ("whole request, by the callback lane", partial(_by_callbacks, bench)),
        ("whole request, as a task", partial(concurrent, whole)),
        ("mirror: a copy of a request, sent and its answer compared", partial(_copied, bench)),
    ]
    for name, measured in steps:
        if not names or any(part in name for part in names):
            rows.append([name, f"{await measured():,.0f}", ""])
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.micro", description="What each step of a request costs."
    )
    parser.add_argument("step", nargs="*", help="only steps whose name has this in it")
    parser.add_argument("--capture", action="store_true", help="with CAPTURE_FILE")
    parser.add_argument("--bodies", action="store_true", help="with CAPTURE_BODIES, too")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of the gateway"
    )
    options = parser.parse_args(argv)
    changes = dict(setting.split("=", 1) for setting in options.set)
    if options.capture or options.bodies:
        changes["CAPTURE_FILE"] = "DIRECTORY/capture.ndjson"
    if options.bodies:
        changes["CAPTURE_BODIES"] = "true"
    # The access log goes to descriptor 1: the table gets a copy of it, the log lines go nowhere.
    table = os.fdopen(os.dup(1), "w")
    silent = os.open(SILENT, os.O_WRONLY)
    os.dup2(silent, 1)
    rows = uvloop.run(measure(options.step, changes))
    print(markdown(["step", "ns", "bytes at once"], rows), file=table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
