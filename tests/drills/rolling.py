"""Rolling restarts behind a real balancer, configured as docs/operate.md says: no request may be lost, POSTs included.

    python -m tests.drills.rolling haproxy --restarts 20
    python -m tests.drills.rolling nginx --restarts 20

It takes the balancer's block from the page, with loopback addresses and without TLS. Not in the suite: it takes minutes,
and needs the balancer installed.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from kernel.server.embedded_store import EmbeddedStore
from tests.drills.__main__ import environment
from tests.drills.service import Service
from tests.drills.wire import Broken, Wire
from tests.support.gateway import GatewayProcess, free_port, start_gateway
from tests.support.tokens import access_token

PAGE = Path(__file__).parents[2] / "docs" / "operate.md"
_CLIENTS = 12
# What a balancer may take to use an instance again.
_NOTICED = 5.0


def block(kind: str, port: int, gateways: list[int]) -> str:
    """The balancer's configuration, listening on `port`."""
    found = re.search(rf"^```{kind}\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert found is not None
    text = found[1]
    for number, gateway in enumerate(gateways, 11):
        text = text.replace(f"10.20.0.{number}:8000", f"127.0.0.1:{gateway}")
    if kind == "haproxy":
        text = re.sub(r"^    bind :443.*\n|^    http-request redirect.*\n", "", text, flags=re.MULTILINE)
        text = text.replace("maxconn 20000", "maxconn 2000")  # open files of a test machine
        return text.replace("bind :80", f"bind 127.0.0.1:{port}")
    text = re.sub(r"^    ssl_.*\n", "", text, flags=re.MULTILINE)
    text = text.replace("listen 443 ssl http2;", f"listen 127.0.0.1:{port};")
    return f"daemon off;\npid nginx.pid;\nerror_log error.log;\nevents {{}}\nhttp {{\naccess_log off;\n{text}}}\n"


def start_balancer(kind: str, directory: Path, port: int, gateways: list[int]) -> subprocess.Popen[bytes]:
    """Run it in the foreground."""
    program = shutil.which(kind) or shutil.which(kind, path="/usr/sbin:/usr/local/sbin")
    if program is None:
        raise SystemExit(f"{kind} is not installed (apt-get install {kind})")
    file = directory / "balancer.conf"
    file.write_text(block(kind, port, gateways))
    options = ["-db", "-f", str(file)] if kind == "haproxy" else ["-p", str(directory), "-c", str(file)]
    return subprocess.Popen([program, *options], cwd=directory)


class Traffic:
    """GETs and POSTs through the balancer; `lost` is what had no good answer."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.answered: Counter[str] = Counter()
        self.lost: list[str] = []
        self.over = False

    async def client(self, number: int, pause: float) -> None:
        token = access_token(user_id=f"user-{number}").decode()
        wire = Wire(self._port)
        sent = 0
        while not self.over:
            sent += 1
            method = "POST" if sent % 3 == 0 else "GET"
            nonce = f"{method}-{number}-{sent}"
            headers = {"authorization": f"Bearer {token}"}
            body = b"x" * 300 if method == "POST" else b""
            try:
                answer = await wire.ask(method, f"/api/v1/sales/orders?n={nonce}", headers, body)
            except Broken as error:
                self.lost.append(f"{nonce}: {error}")
            else:
                if answer.status == 200 and f'"{nonce}"'.encode() in answer.body:
                    self.answered[method] += 1
                else:
                    self.lost.append(f"{nonce}: {answer.status} {answer.body[:200]!r}")
            await asyncio.sleep(pause)


async def restart(gateway: GatewayProcess, directory: Path) -> GatewayProcess:
    """End one as an orchestrator does, and start its successor on the same port."""
    gateway.process.send_signal(signal.SIGTERM)
    await asyncio.to_thread(gateway.process.wait, 40)
    env = {**gateway.env, "PORT": str(gateway.port)}
    return await asyncio.to_thread(start_gateway, env, directory)


async def run(kind: str, restarts: int, pause: float, directory: Path) -> Traffic:
    """The whole of it."""
    service = Service(random.Random(1))
    await service.start()
    with EmbeddedStore() as store:
        env = {**environment(service, store), "DRAIN_SECONDS": "5", "TRUSTED_PROXIES": "127.0.0.1"}
        gateways = [await asyncio.to_thread(start_gateway, env, directory) for _ in range(2)]
        port = free_port()
        balancer = start_balancer(kind, directory, port, [gateway.port for gateway in gateways])
        traffic = Traffic(port)
        try:
            await asyncio.sleep(3)
            clients = [asyncio.create_task(traffic.client(number, pause)) for number in range(_CLIENTS)]
            for number in range(restarts):
                gateways[number % 2] = await restart(gateways[number % 2], directory)
                await asyncio.sleep(_NOTICED)
                sys.stdout.write(
                    f"{time.strftime('%H:%M:%S')} {number + 1} restarts, {sum(traffic.answered.values())} answers, "
                    f"{len(traffic.lost)} lost\n"
                )
                sys.stdout.flush()
            traffic.over = True
            await asyncio.gather(*clients)
        finally:
            balancer.terminate()
            balancer.wait()
            for gateway in gateways:
                await asyncio.to_thread(gateway.stop, timeout=40.0)
            await service.stop()
    return traffic


def main() -> int:
    """Parse, run, report; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.drills.rolling", description=__doc__)
    parser.add_argument("balancer", choices=("haproxy", "nginx"))
    parser.add_argument("--restarts", type=int, default=20)
    parser.add_argument("--pause", type=float, default=0.015, help="seconds between two requests of a client")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rolling-") as directory:
        traffic = asyncio.run(run(options.balancer, options.restarts, options.pause, Path(directory)))
    for text in traffic.lost[:20]:
        sys.stdout.write(f"lost {text}\n")
    counts = ", ".join(f"{count} {method}" for method, count in traffic.answered.items())
    sys.stdout.write(
        f"{options.balancer}: {options.restarts} restarts, answered {counts}; {len(traffic.lost)} lost\n"
    )
    return 1 if traffic.lost else 0


if __name__ == "__main__":
    sys.exit(main())
