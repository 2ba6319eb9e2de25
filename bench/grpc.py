"""What a gRPC service costs behind JSON: `python -m bench.grpc` (needs the extra `grpc`).

One worker on one core, every policy on; load, services and store on the other. The same gateway answers a GET from a plain
HTTP service and, by transcoding, from a gRPC service, in turns; what else runs hits both. Then a worker's memory at rest,
with a gRPC service and without.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import uvloop

from bench.closedloop import Load, Upstream
from bench.machine import resident_bytes, session
from bench.peers.gateway import Gateway
from bench.process import Process, free_port
from bench.report import markdown
from bench.rig import PATH, REPOSITORY, Rig
from demo.platform.loyalty import DESCRIPTORS, Loyalty

_MEMBER = "/api/v1/loyalty/members/anna"
_ANSWER = (
    b'{"memberId":"anna","name":"Anna Keller","tier":"LOAF","points":"340","joinedAt":"2025-03-01T07:30:00Z"}'
)
_CONNECTIONS = 32
_SECONDS = 1.0


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.grpc", description=__doc__)
    parser.add_argument(
        "--rounds", type=int, default=8, metavar="N", help="of a second each way (default: 8)"
    )
    parser.add_argument("--serve", action="store_true", help="be the service, and print its port")
    options = parser.parse_args()
    uvloop.run(_serve() if options.serve else _measure(options.rounds))


async def _serve() -> None:
    sys.stdout.write(f"{await Loyalty().start('127.0.0.1')}\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


async def _measure(rounds: int) -> None:
    server = await asyncio.get_running_loop().create_server(Upstream, "127.0.0.1", 0, backlog=1024)
    async with server:
        with Rig(upstream_port=server.sockets[0].getsockname()[1]) as rig:
            log = rig.directory / "service.log"
            command = [sys.executable, "-m", "bench.grpc", "--serve"]
            with Process(command, core=rig.cores.load, log=log, cwd=REPOSITORY):
                while not log.exists() or not log.read_text().endswith("\n"):
                    await asyncio.sleep(0.02)
                with _gateway(rig, "with", int(log.read_text())) as (process, port):
                    rows = await _compared(rig, process, port, rounds)
                sys.stdout.write(markdown(["GET of", "requests/s", "CPU a request, us"], rows) + "\n")
                sizes = []
                for name, service in (("without", None), ("with", int(log.read_text()))):
                    with _gateway(rig, f"{name}-at-rest", service) as (process, port):
                        load = Load(port, PATH, rig.token, 1)
                        await load.connect()
                        await load.slice(0.2)
                        load.close()
                        sizes.append(
                            [
                                f"{name} a gRPC service",
                                f"{max(map(resident_bytes, session(process.pid))) / 1024**2:.1f}",
                            ]
                        )
                sys.stdout.write(markdown(["a gateway of one worker", "resident, MiB"], sizes) + "\n")


@contextmanager
def _gateway(rig: Rig, name: str, service: int | None) -> Iterator[tuple[Process, int]]:
    directory: Path = rig.directory / name
    directory.mkdir()
    port = free_port()
    launch = Gateway().launch(rig, directory, port)
    env = dict(launch.env or {})
    if service is not None:
        file = directory / "gateway.toml"
        file.write_text(
            f'[services.loyalty]\nprotocol = "grpc"\ndescriptors = "{DESCRIPTORS}"\nurl = "grpc://127.0.0.1:{service}"\n'
        )
        env["GATEWAY_CONFIG"] = str(file)
    with Process(
        launch.command, core=rig.cores.peer, log=directory / "output.log", env=env, cwd=launch.cwd
    ) as process:
        process.wait_for_port(port)
        yield process, port


async def _compared(rig: Rig, process: Process, port: int, rounds: int) -> list[list[str]]:
    loads = {
        "an HTTP service": Load(port, PATH, rig.token, _CONNECTIONS),
        "a gRPC service": Load(port, _MEMBER, rig.token, _CONNECTIONS, _ANSWER),
    }
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in loads}
    for load in loads.values():
        await load.connect()
        await load.slice(_SECONDS)  # warm up
    for _ in range(rounds):
        for name, load in loads.items():
            done, spent = load.done, process.cpu_seconds()
            rate = await load.slice(_SECONDS)
            found[name].append((rate, (process.cpu_seconds() - spent) / (load.done - done) * 1e6))
    for name, load in loads.items():
        load.close()
        if load.errors:
            raise RuntimeError(f"{load.errors} requests to {name} failed")
    return [
        [name, f"{median(rate for rate, _ in values):,.0f}", f"{median(cost for _, cost in values):.0f}"]
        for name, values in found.items()
    ]


if __name__ == "__main__":
    main()
