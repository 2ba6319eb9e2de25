"""`python -m bench.websocket`: round trips and a flood of messages over WebSockets, the gateway beside nginx.

One core runs the peer, the other this client and an echo server. The client is the bottleneck, so what counts is the CPU
time that the peer spends on a message. nginx passes bytes on and knows no messages, tokens or policies.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import uvloop
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve

from bench.machine import session_seconds
from bench.peers import Launch
from bench.peers.gateway import Gateway
from bench.process import Process, free_port
from bench.report import markdown
from bench.rig import Rig

PATH = "/api/v1/training/ws"
SMALL = b"x" * 64
FLOOD = bytes(16 * 1024)
_NGINX = """
daemon off; worker_processes 1; pid {directory}/nginx.pid; error_log {directory}/error.log crit;
events {{ worker_connections 4096; }}
http {{
  access_log off; client_body_temp_path {directory}/b; proxy_temp_path {directory}/p;
  fastcgi_temp_path {directory}/f; uwsgi_temp_path {directory}/u; scgi_temp_path {directory}/s;
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://127.0.0.1:{upstream}; proxy_http_version 1.1; proxy_read_timeout 300s;
      proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade;
    }}
  }}
}}
"""


@dataclass(frozen=True)
class Figures:
    """One peer in one round. CPU in microseconds."""

    trips: float  # round trips a second
    p50: float  # of a round trip, microseconds
    p99: float
    trip_cpu: float
    flood: float  # MiB a second, one way
    flood_cpu: float  # a message of 16 KiB


async def _echo(connection: ServerConnection) -> None:
    """Echoes small messages; takes large ones, and answers the empty one that follows a flood."""
    async for message in connection:
        if len(message) <= len(SMALL):
            await connection.send(message)


async def _trips(clients: Sequence[ClientConnection], seconds: float) -> list[float]:
    times: list[float] = []
    until = time.perf_counter() + seconds

    async def one(client: ClientConnection) -> None:
        while (began := time.perf_counter()) < until:
            await client.send(SMALL)
            await client.recv()
            times.append(time.perf_counter() - began)

    await asyncio.gather(*map(one, clients))
    return times


async def _flood(client: ClientConnection, seconds: float) -> int:
    sent = 0
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        await client.send(FLOOD)
        sent += 1
    await client.send(b"")
    await client.recv()
    return sent


async def _measure(port: int, token: str, pid: int | None, sockets: int, seconds: float) -> Figures:
    def cpu() -> float:
        return session_seconds(pid) if pid is not None else 0.0

    headers = {"Authorization": f"Bearer {token}"}
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(
                connect(
                    f"ws://127.0.0.1:{port}{PATH}", additional_headers=headers, compression=None, proxy=None
                )
            )
            for _ in range(sockets)
        ]
        await _trips(clients, 0.5)
        before, began = cpu(), time.perf_counter()
        times = sorted(await _trips(clients, seconds))
        trip_cpu, took = cpu() - before, time.perf_counter() - began
        before, began = cpu(), time.perf_counter()
        sent = await _flood(clients[0], seconds)
        flood_cpu, flooded = cpu() - before, time.perf_counter() - began
    return Figures(
        trips=len(times) / took,
        p50=1e6 * median(times),
        p99=1e6 * times[int(0.99 * len(times))],
        trip_cpu=1e6 * trip_cpu / len(times),
        flood=sent * len(FLOOD) / 2**20 / flooded,
        flood_cpu=1e6 * flood_cpu / sent,
    )


def _launches(rig: Rig, directory: Path, upstream: int) -> dict[str, tuple[int, Launch | None]]:
    port = free_port()
    gateway = Gateway().launch(rig, directory, port)
    training = {"TRAINING_SERVICE_URL": f"http://127.0.0.1:{upstream}"}
    gateway = replace(gateway, env={**gateway.env, **training})
    other = free_port()
    config = directory / "nginx.conf"
    config.write_text(_NGINX.format(directory=directory, port=other, upstream=upstream))
    nginx = Launch(["nginx", "-e", "stderr", "-c", str(config)])
    return {"Bakery Gateway": (port, gateway), "nginx": (other, nginx), "direct": (upstream, None)}


async def measure(rig: Rig, *, rounds: int, sockets: int, seconds: float) -> dict[str, list[Figures]]:
    """`rounds` of all peers in turn: `sockets` that ask, then one that floods, `seconds` each."""
    found: dict[str, list[Figures]] = {}
    upstream = free_port()
    async with serve(_echo, "127.0.0.1", upstream, compression=None, max_size=None):
        for _ in range(rounds):
            with tempfile.TemporaryDirectory() as directory:
                for name, (port, launch) in _launches(rig, Path(directory), upstream).items():
                    if launch is None:
                        figures = await _measure(port, rig.token, None, sockets, seconds)
                    else:
                        log = Path(directory) / "output.log"
                        with Process(
                            launch.command, core=rig.cores.peer, log=log, env=launch.env, cwd=launch.cwd
                        ) as process:
                            await asyncio.to_thread(process.wait_for_port, port)
                            figures = await _measure(port, rig.token, process.pid, sockets, seconds)
                    found.setdefault(name, []).append(figures)
    return found


def cells(found: dict[str, list[Figures]]) -> tuple[list[str], list[list[str]]]:
    """Head and rows of a table: medians over the rounds."""
    head = ["peer", "round trips/s", "p50 us", "p99 us", "CPU us/trip", "flood MiB/s", "CPU us/16 KiB"]
    body = []
    for name, rounds in found.items():
        values = [
            median(getattr(each, field) for each in rounds)
            for field in ("trips", "p50", "p99", "trip_cpu", "flood", "flood_cpu")
        ]
        body.append([name, *(f"{value:,.0f}" if value >= 100 else f"{value:.1f}" for value in values)])
    return head, body


def main(argv: Sequence[str] | None = None) -> int:
    """Run it and print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.websocket", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--sockets", type=int, default=32, help="that ask in turn (32)")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each part (3)")
    parser.add_argument("--rounds", type=int, default=3, help="of all peers in turn (3)")
    options = parser.parse_args(argv)
    with Rig() as rig:
        os.sched_setaffinity(0, {rig.cores.load})
        found = uvloop.run(
            measure(rig, rounds=options.rounds, sockets=options.sockets, seconds=options.seconds)
        )
        print(markdown(*cells(found)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
